"""Nets that no installable package has, stated a second time as plain functions in PyTorch.

Written from the papers and their authors' code and apart from `cls.models`, so that an error in one
shows against the other; only the tensors' names are agreed. Each builder returns tensor shapes and
a function of (tensors, images).
"""

import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812

Tensors = Mapping[str, torch.Tensor]
Net = tuple[dict[str, tuple[int, ...]], Callable[[Tensors, torch.Tensor], torch.Tensor]]

BN_PARTS = ('weight', 'bias', 'running_mean', 'running_var')


def resnet_cifar(depth: int, classes: int = 10) -> Net:
    """ResNet for CIFAR with parameter-free shortcuts (1512.03385, section 4.2, option A).

    Three stages of (depth - 2) / 6 blocks of two 3x3 convolutions, of 16, 32 and 64 channels.
    Where a stage begins with stride 2, the shortcut keeps every second row and column and puts
    half of the new channels' zeros before, half behind.
    """
    blocks = (depth - 2) // 6
    stages = [(stage, 16 * 2 ** (stage - 1)) for stage in (1, 2, 3)]
    shapes = {'conv1.weight': (16, 3, 3, 3), **_norm_shapes('bn1', 16)}
    width_in = 16
    for stage, width in stages:
        for block in range(blocks):
            name = f'layer{stage}.{block}'
            shapes[f'{name}.conv1.weight'] = (width, width_in, 3, 3)
            shapes |= _norm_shapes(f'{name}.bn1', width)
            shapes[f'{name}.conv2.weight'] = (width, width, 3, 3)
            shapes |= _norm_shapes(f'{name}.bn2', width)
            width_in = width
    shapes |= {'linear.weight': (classes, 64), 'linear.bias': (classes,)}

    def block_of(t: Tensors, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
        stride = 1 if x.shape[1] == width else 2
        y = F.conv2d(x, t[f'{name}.conv1.weight'], stride=stride, padding=1)
        y = F.conv2d(_norm(t, f'{name}.bn1', y).relu(), t[f'{name}.conv2.weight'], padding=1)
        y = _norm(t, f'{name}.bn2', y)
        zeros = (width - x.shape[1]) // 2
        return (y + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, zeros, zeros))).relu()

    def apply(t: Tensors, x: torch.Tensor) -> torch.Tensor:
        x = _norm(t, 'bn1', F.conv2d(x, t['conv1.weight'], padding=1)).relu()
        for stage, width in stages:
            for block in range(blocks):
                x = block_of(t, f'layer{stage}.{block}', x, width)
        return F.linear(x.mean((2, 3)), t['linear.weight'], t['linear.bias'])

    return shapes, apply


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f'{name}.{part}': (width,) for part in BN_PARTS}


def _norm(t: Tensors, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Batch normalisation by the running statistics."""
    scale, bias, mean, var = (t[f'{name}.{part}'][:, None, None] for part in BN_PARTS)
    return (x - mean) / (var + eps).sqrt() * scale + bias


NETS: dict[str, Callable[..., Net]] = {
    # Without 1202, which is the same but deeper, and too slow for a test.
    f'resnet{depth}_cifar': functools.partial(resnet_cifar, depth)
    for depth in (20, 32, 44, 56, 110)
}
