"""An independent reimplementation of PreActResNet for CIFAR (1603.05027, figure 4e and appendix).

For the network of 1001 layers: at full depth it amplifies float32's rounding too much for a
comparison.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def bottlenecks(stage_sizes: Sequence[int]) -> Net:
    """Returns stages of 1x1, 3x3, 1x1 units of 16, 32, 64 inner channels; the 3x3 is strided."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        def conv(name: str, x: torch.Tensor, width: int, size: int, stride: int = 1):
            kernel = weight(f'{name}.weight', width, x.shape[1], size, size)
            return F.conv2d(x, kernel, stride=stride, padding=size // 2)

        x = conv('features.init_block', x, 16, 3)
        for stage, count in enumerate(stage_sizes):
            for i in range(count):
                unit = f'features.stage{stage + 1}.unit{i + 1}'
                width, stride = 16 << stage, 1 if stage == 0 or i > 0 else 2
                active = norm(weight, f'{unit}.body.conv1.bn', x).relu()
                y = conv(f'{unit}.body.conv1.conv', active, width, 1)
                y = norm(weight, f'{unit}.body.conv2.bn', y).relu()
                y = conv(f'{unit}.body.conv2.conv', y, width, 3, stride)
                y = norm(weight, f'{unit}.body.conv3.bn', y).relu()
                y = conv(f'{unit}.body.conv3.conv', y, 4 * width, 1)
                if i == 0:
                    x = conv(f'{unit}.identity_conv', active, 4 * width, 1, stride)
                x = x + y
        x = norm(weight, 'features.post_activ.bn', x).relu().mean((2, 3))
        return F.linear(x, weight('output.weight', 10, 256), weight('output.bias', 10))

    return declared(forward, size=32)


NETS: dict[str, Callable[..., Net]] = {
    'preactresnet1001_cifar': functools.partial(bottlenecks, stage_sizes=(111, 111, 111))
}
