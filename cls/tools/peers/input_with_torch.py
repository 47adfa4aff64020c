"""The input pipeline of `benchmark input` as usually written with PyTorch and torchvision.

Run by that tool with an interpreter that has both: input_with_torch.py FOLDER BATCH SIZE
WORKERS. See answering.py for its input and output.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from answering import answer_with  # next to this file, a script
from PIL import Image
from torch_models import torchvision  # likewise

transforms = torchvision().transforms


class Files(torch.utils.data.Dataset):
    """Images as torchvision's ImageFolder reads them."""

    def __init__(self, folder: str, size: int):
        self.files = sorted(str(path) for path in Path(folder).rglob('*') if path.is_file())
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.files[index], 'rb') as file:
            image = Image.open(file).convert('RGB')
        return self.transform(image), 0


class Endless(torch.utils.data.Sampler):
    """Shuffled epochs without end, so that no workers restart between epochs."""

    def __init__(self, length: int):
        self.length = length

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.length).tolist()


def main(folder: str, batch: int, size: int, workers: int) -> None:
    """Answers requests until the input ends."""
    files = Files(folder, size)
    loader = torch.utils.data.DataLoader(
        files, batch_size=batch, sampler=Endless(len(files)), num_workers=workers, drop_last=True
    )
    answer_with(iter(loader))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
