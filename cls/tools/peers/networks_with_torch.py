"""The steps of `benchmark networks` in PyTorch.

Run by that tool with an interpreter that has PyTorch: networks_with_torch.py NETWORK BATCH PIXELS
THREADS FORMAT [bfloat16]. NETWORK is a name of torch_models.py, FORMAT contiguous or channels_last.
With bfloat16 the steps are compiled and use autocast. They are on a GPU if there is one. See
answering.py for the input and output.
"""

import functools
import sys
from collections.abc import Callable

import torch
import torch_models  # next to this file, a script
from answering import answer

CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'


def main(
    network: str, batch: int, pixels: int, threads: int, layout: str, dtype: str = 'float32'
) -> None:
    """Takes a training step, and answers requests until the input ends."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    memory_format = torch.contiguous_format if layout == 'contiguous' else torch.channels_last
    model = torch_models.create(network).to(DEVICE, memory_format=memory_format)
    images = torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=DEVICE)
    images = images.contiguous(memory_format=memory_format)
    labels = torch.randint(10, (batch,), device=DEVICE)
    lower = dtype == 'bfloat16'
    params = sum(x.numel() for x in model.parameters())
    model = torch.compile(model) if lower else model
    precision = functools.partial(torch.autocast, DEVICE, torch.bfloat16, enabled=lower)
    works = {
        'train': train(model, images, labels, precision),
        'infer': infer(model, images, precision),
    }
    works['train'](1)
    answer(works, params=params, versions={'torch': torch.__version__}, device=device())


def device() -> str:
    """Returns the name of the device."""
    return torch.cuda.get_device_name() if CUDA else 'cpu'


def finish() -> None:
    """Waits for the device."""
    if CUDA:
        torch.cuda.synchronize()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as float32 in -1..1."""
    return images.float().sub_(127.5).div_(127.5)


def train(
    model: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    precision: Callable[[], torch.autocast],
) -> Callable[[int], None]:
    """Returns a function that takes a number of training steps, with the loss and top-1 of each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps(count: int) -> None:
        model.train()
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with precision():
                logits = model(normalize(images))
                loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            top1 = (logits.detach().argmax(1) == labels).float().mean()
        if count:
            loss.item(), top1.item()
        finish()

    return steps


def infer(
    model: torch.nn.Module, images: torch.Tensor, precision: Callable[[], torch.autocast]
) -> Callable[[int], None]:
    """Returns a function that computes the logits of the images a number of times."""

    def steps(count: int) -> None:
        model.eval()
        with torch.inference_mode(), precision():
            for _ in range(count):
                model(normalize(images))
        finish()

    return steps


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
