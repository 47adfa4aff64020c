"""Restating a net as a plain function in PyTorch: what the files in restated/ are made of.

They hold nets that no installable package has, written from the papers and their authors' code and
apart from `cls.models`, so that an error in one shows against the other; only the tensors' names
are agreed. Each has NETS: variant -> a builder that takes some of the module's fields and returns
the tensors' shapes and a function of (tensors, images).
"""

from collections.abc import Callable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
Net = tuple[dict[str, tuple[int, ...]], Callable[[Tensors, torch.Tensor], torch.Tensor]]
Weight = Callable[..., torch.Tensor]  # (name, *shape) -> the tensor

BN_PARTS = ('weight', 'bias', 'running_mean', 'running_var')


def declared(forward: Callable[[Weight, torch.Tensor], torch.Tensor], size: int = 96) -> Net:
    """Makes a net of a function of (weight, images) that asks for its tensors by name and shape.

    Args:
      forward: asks for each tensor once: `weight('conv1.weight', 64, 3, 7, 7)`.
      size: of an image that can pass through it, to find the shapes.
    """
    shapes = {}

    def declare(name: str, *shape: int) -> torch.Tensor:
        assert name not in shapes, name
        shapes[name] = shape
        return torch.empty(shape, device='meta')

    forward(declare, torch.empty((1, 3, size, size), device='meta'))
    return shapes, lambda tensors, images: forward(lambda name, *_: tensors[name], images)


def norm(weight: Weight, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Batch normalisation of (N, C, H, W) by the running statistics."""
    parts = (weight(f'{name}.{part}', x.shape[1])[:, None, None] for part in BN_PARTS)
    scale, bias, mean, var = parts
    return (x - mean) / (var + eps).sqrt() * scale + bias
