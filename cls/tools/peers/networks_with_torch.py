"""The steps of `benchmark networks` in PyTorch.

Run by that tool with an interpreter that has PyTorch: networks_with_torch.py NETWORK BATCH PIXELS
THREADS FORMAT. NETWORK is a name of torch_models.py, FORMAT contiguous or channels_last. See
answering.py for its input and output.
"""

import sys
from collections.abc import Callable

import torch
import torch_models  # next to this file, a script
from answering import answer


def main(network: str, batch: int, pixels: int, threads: int, layout: str) -> None:
    """Takes a training step, and answers requests until the input ends."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layout = getattr(torch, 'contiguous_format' if layout == 'contiguous' else layout)
    model = torch_models.create(network).to(memory_format=layout)
    images = torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(10, (batch,))
    works = {'train': train(model, images, labels), 'infer': infer(model, images)}
    works['train'](1)
    params = sum(x.numel() for x in model.parameters())
    answer(works, params=params, versions={'torch': torch.__version__})


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as float32 in -1..1."""
    return images.float().sub_(127.5).div_(127.5)


def train(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[int], None]:
    """Returns a function that takes a number of training steps, with the loss and top-1 of each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps(count: int) -> None:
        model.train()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            logits = model(normalize(images))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            top1 = (logits.detach().argmax(1) == labels).float().mean()
            loss.item(), top1.item()

    return steps


def infer(model: torch.nn.Module, images: torch.Tensor) -> Callable[[int], None]:
    """Returns a function that computes the logits of the images a number of times."""

    def steps(count: int) -> None:
        model.eval()
        with torch.inference_mode():
            for _ in range(count):
                model(normalize(images))

    return steps


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
