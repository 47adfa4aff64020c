"""Networks as plain functions in PyTorch: the building blocks of the files in restated/.

Those files have networks that no installable package has, written from the papers and their
authors' code and independently of `cls.models`, so that the two check each other; only the names of
the tensors are shared. Each file has a mapping `NETS`: variant -> a function of some fields of the
module to the tensors' shapes and a function of (tensors, images).
"""

from collections.abc import Callable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
Net = tuple[dict[str, tuple[int, ...]], Callable[[Tensors, torch.Tensor], torch.Tensor]]
Weight = Callable[..., torch.Tensor]  # (name, *shape) -> the tensor

BN_PARTS = ('weight', 'bias', 'running_mean', 'running_var')


def declared(forward: Callable[[Weight, torch.Tensor], torch.Tensor], size: int = 96) -> Net:
    """Returns the network of a function of (weight, images) that declares its tensors.

    Args:
      forward: declares each tensor once, by name and shape: `weight('conv1.weight', 64, 3, 7, 7)`.
      size: of a valid image, in pixels, to determine the shapes.
    """
    shapes = {}

    def declare(name: str, *shape: int) -> torch.Tensor:
        assert name not in shapes, name
        shapes[name] = shape
        return torch.empty(shape, device='meta')

    forward(declare, torch.empty((1, 3, size, size), device='meta'))
    return shapes, lambda tensors, images: forward(lambda name, *_: tensors[name], images)


def norm(weight: Weight, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Returns (N, C, H, W) batch-normalized by the running statistics."""
    parts = (weight(f'{name}.{part}', x.shape[1])[:, None, None] for part in BN_PARTS)
    scale, bias, mean, var = parts
    return (x - mean) / (var + eps).sqrt() * scale + bias
