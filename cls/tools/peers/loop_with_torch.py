"""The training loop of `benchmark loop` as usually written with PyTorch and torchvision.

Run by that tool with an interpreter that has both: loop_with_torch.py NETWORK BATCH PIXELS IMAGES
THREADS FORMAT WORKERS. See answering.py for its input and output.
"""

import sys
from collections.abc import Iterator

import numpy as np
import torch
import torch_models  # next to this file, a script
from answering import answer
from PIL import Image

transforms = torch_models.torchvision().transforms


class Images(torch.utils.data.Dataset):
    """Random images in memory, read as torchvision's CIFAR10 reads its own."""

    def __init__(self, count: int, pixels: int):
        rng = np.random.default_rng(0)
        self.images = rng.integers(256, size=(count, pixels, pixels, 3), dtype=np.uint8)
        self.labels = rng.integers(10, size=count).tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(pixels, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Endless(torch.utils.data.Sampler):
    """Shuffled epochs without end, so that no workers restart between epochs."""

    def __init__(self, length: int):
        self.length = length

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.length).tolist()


def main(
    network: str, batch: int, pixels: int, images: int, threads: int, layout: str, workers: int
) -> None:
    """Answers requests until the input ends."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data = Images(images, pixels)
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch, sampler=Endless(len(data)), num_workers=workers, drop_last=True
    )
    memory_format = torch.contiguous_format if layout == 'contiguous' else torch.channels_last
    model = torch_models.create(network).to(memory_format=memory_format).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = iter(loader)

    def steps(count: int) -> None:
        for _ in range(count):
            pixels, labels = next(batches)
            pixels = pixels.contiguous(memory_format=memory_format)
            optimizer.zero_grad(set_to_none=True)
            logits = model(pixels)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            loss.item(), (logits.detach().argmax(1) == labels).float().mean().item()

    steps(1)
    answer({'loop': steps}, versions={'torch': torch.__version__})


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6], int(sys.argv[7]))
