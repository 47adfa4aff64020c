"""An independent reimplementation of stochastic depth in testing, with scaled residuals.

From the authors' code (ResidualDrop.lua, main.lua) and section 3: of L blocks the l-th residual is
multiplied by 1 - l / L * drop_rate.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def small(stage_sizes: Sequence[int], drop_rate: float = 0.5, num_classes: int = 10) -> Net:
    """Returns a CIFAR or SVHN network: 16, 32, 64 channels; convolutions with biases."""

    def conv(weight: Weight, name: str, x: torch.Tensor, width: int, stride: int = 1):
        kernel = weight(f'{name}.weight', width, x.shape[1], 3, 3)
        return F.conv2d(x, kernel, weight(f'{name}.bias', width), stride=stride, padding=1)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = norm(weight, 'bn1', conv(weight, 'conv1', x, 16)).relu()
        block = 0
        for stage, size in enumerate(stage_sizes):
            width = 16 << stage
            for i in range(size):
                name = f'layer{stage + 1}.{i}'
                halve = stage > 0 and i == 0
                y = norm(weight, f'{name}.bn1', conv(weight, f'{name}.conv1', x, width, 1 + halve))
                y = norm(weight, f'{name}.bn2', conv(weight, f'{name}.conv2', y.relu(), width))
                if halve:
                    x = F.avg_pool2d(x, 2)
                    x = torch.cat((x, torch.zeros_like(x)), 1)
                block += 1
                x = (x + y * (1 - drop_rate * block / sum(stage_sizes))).relu()
        x = x.mean((2, 3))
        kernel = weight('fc.weight', num_classes, x.shape[1])
        return F.linear(x, kernel, weight('fc.bias', num_classes))

    return declared(forward, size=32)


def imagenet(stage_sizes: Sequence[int] = (3, 8, 36, 3), drop_rate: float = 0.5) -> Net:
    """Returns ResNet-152 with the stride in the 3x3 convolutions (fb.resnet.torch)."""

    def conv(weight: Weight, name: str, x: torch.Tensor, width: int, size: int, stride: int = 1):
        kernel = weight(f'{name}.weight', width, x.shape[1], size, size)
        return F.conv2d(x, kernel, stride=stride, padding=size // 2)

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = norm(weight, 'bn1', conv(weight, 'conv1', x, 64, 7, 2)).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        block = 0
        for stage, size in enumerate(stage_sizes):
            width = 64 << stage
            for i in range(size):
                name = f'layer{stage + 1}.{i}'
                stride = 2 if stage > 0 and i == 0 else 1
                y = norm(weight, f'{name}.bn1', conv(weight, f'{name}.conv1', x, width, 1)).relu()
                y = conv(weight, f'{name}.conv2', y, width, 3, stride)
                y = norm(weight, f'{name}.bn2', y).relu()
                y = norm(weight, f'{name}.bn3', conv(weight, f'{name}.conv3', y, 4 * width, 1))
                if i == 0:
                    x = conv(weight, f'{name}.downsample.0', x, 4 * width, 1, stride)
                    x = norm(weight, f'{name}.downsample.1', x)
                block += 1
                x = (x + y * (1 - drop_rate * block / sum(stage_sizes))).relu()
        return F.linear(x.mean((2, 3)), weight('fc.weight', 1000, 2048), weight('fc.bias', 1000))

    return declared(forward)


NETS: dict[str, Callable[..., Net]] = {
    'resnet110_sd_cifar': functools.partial(small, stage_sizes=(18, 18, 18)),
    'resnet1202_sd_cifar': functools.partial(small, stage_sizes=(200, 200, 200)),
    'resnet152_sd_svhn': functools.partial(small, stage_sizes=(25, 25, 25)),
    'resnet152_sd': imagenet,
}
