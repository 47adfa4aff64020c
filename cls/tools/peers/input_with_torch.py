"""The input pipelines of `benchmark input` as usually written with PyTorch and torchvision.

Run by that tool with an interpreter that has both: input_with_torch.py FOLDER BATCH SIZE
SHORTER_SIDE WORKERS. See answering.py for its input and output.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from answering import answer_with  # next to this file, a script
from PIL import Image
from torch_models import torchvision  # likewise

transforms = torchvision().transforms


class Files(torch.utils.data.Dataset):
    """Images as torchvision's ImageFolder reads them."""

    def __init__(self, folder: str, *steps: Any):
        self.files = sorted(str(path) for path in Path(folder).rglob('*') if path.is_file())
        self.transform = transforms.Compose([*steps, transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.files[index], 'rb') as file:
            image = Image.open(file).convert('RGB')
        return self.transform(image), 0


class Endless(torch.utils.data.Sampler):
    """Epochs without end, so that no workers restart between epochs."""

    def __init__(self, length: int, shuffled: bool):
        self.length, self.shuffled = length, shuffled

    def __iter__(self) -> Iterator[int]:
        while True:
            order = torch.randperm if self.shuffled else torch.arange
            yield from order(self.length).tolist()


def main(folder: str, batch: int, size: int, shorter: int, workers: int) -> None:
    """Answers requests until the input ends."""

    def batches(files: Files, shuffled: bool) -> Iterator[Any]:
        sampler = Endless(len(files), shuffled)
        options = {'batch_size': batch, 'num_workers': workers, 'drop_last': True}
        return iter(torch.utils.data.DataLoader(files, sampler=sampler, **options))

    flip = transforms.RandomHorizontalFlip()
    training = Files(folder, transforms.RandomResizedCrop(size), flip)
    evaluation = Files(folder, transforms.Resize(shorter), transforms.CenterCrop(size))
    answer_with(training=batches(training, True), evaluation=batches(evaluation, False))


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
