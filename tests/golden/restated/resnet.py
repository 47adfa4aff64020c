"""An independent reimplementation of CIFAR ResNets; no installable package has the paper's form."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def resnet_cifar(depth: int) -> Net:
    """Returns ResNet for CIFAR with parameter-free shortcuts (1512.03385, section 4.2, option A).

    Three stages of (depth - 2) / 6 blocks of two 3x3 convolutions, of 16, 32 and 64 channels. A
    shortcut with stride 2 keeps every second row and column, and adds half of the new channels,
    zeros, before the old ones and half after.
    """

    def block_of(weight: Weight, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
        stride = 1 if x.shape[1] == width else 2
        kernel = weight(f'{name}.conv1.weight', width, x.shape[1], 3, 3)
        y = norm(weight, f'{name}.bn1', F.conv2d(x, kernel, stride=stride, padding=1)).relu()
        y = F.conv2d(y, weight(f'{name}.conv2.weight', width, width, 3, 3), padding=1)
        zeros = (width - x.shape[1]) // 2
        shortcut = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, zeros, zeros))
        return (norm(weight, f'{name}.bn2', y) + shortcut).relu()

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, weight('conv1.weight', 16, 3, 3, 3), padding=1)
        x = norm(weight, 'bn1', x).relu()
        for stage, width in enumerate((16, 32, 64), 1):
            for block in range((depth - 2) // 6):
                x = block_of(weight, f'layer{stage}.{block}', x, width)
        return F.linear(x.mean((2, 3)), weight('linear.weight', 10, 64), weight('linear.bias', 10))

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    # 1202 layers would be too slow for a test.
    f'resnet{depth}_cifar': functools.partial(resnet_cifar, depth)
    for depth in (20, 32, 44, 56, 110)
}
