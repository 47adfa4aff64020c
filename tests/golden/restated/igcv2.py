"""An independent reimplementation of IGCV2, by the paper's matrix product, with fitted widths."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm


def igcv2(
    width: int,
    layers: Sequence[Sequence[int]],
    branches: tuple[int, int],
    stem_strides: int,
    num_classes: int,
    stage_sizes: Sequence[int] | None = None,
) -> Net:
    """Returns IGCV2 (1804.06202): depthwise 3x3 convolutions, then two grouped 1x1 ones.

    `layers` has for each stage its number of blocks and its width in units of the stem's;
    `stage_sizes` replaces the numbers. `branches` are the channels in a group of each 1x1
    convolution; a 0 is the width divided by the other.
    """

    def interleave(x: torch.Tensor, groups: int) -> torch.Tensor:
        each = x.shape[1] // groups
        return x[:, [g * each + i for i in range(each) for g in range(groups)]]

    def block(weight: Weight, name: str, x: torch.Tensor, out: int, stride: int) -> torch.Tensor:
        seen, (first, second) = x.shape[1], branches
        kernel = weight(f'{name}.conv1.weight', out, 1, 3, 3)
        x = F.conv2d(x, kernel, stride=stride, padding=1, groups=seen)
        x = interleave(x, seen)
        for part, each in (('conv2', first or out // second), ('conv3', second)):
            kernel = weight(f'{name}.{part}.weight', out, each, 1, 1)
            x = interleave(F.conv2d(x, kernel, groups=out // each), out // each)
        return norm(weight, f'{name}.bn', x).relu()

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, weight('g0.conv.weight', width, 3, 3, 3), stride=stem_strides, padding=1)
        x = norm(weight, 'g0.bn', x).relu()
        sizes = stage_sizes or [size for size, _ in layers]
        for stage, (size, (_, scale)) in enumerate(zip(sizes, layers, strict=True), 1):
            for i in range(1, size + 1):
                stride = 2 if i == 1 < stage else 1
                x = block(weight, f'g{stage}.b{i}', x, width * scale, stride)
        x = x.mean((2, 3))
        head = weight('fc.weight', num_classes, x.shape[1]), weight('fc.bias', num_classes)
        return F.linear(x, *head)

    return declared(forward, size=32)


# MobileNet's 13 layers (1704.04861, Table 1); its stem has 32 channels.
MOBILENET = ((1, 2), (2, 4), (2, 8), (6, 16), (2, 32))
PLAIN = ((6, 1), (6, 2), (6, 4))

NETS = {
    'igcv2_1_0': functools.partial(igcv2, 40, MOBILENET, (0, 2), 2, 1000),
    'igcv2_0_5': functools.partial(igcv2, 20, MOBILENET, (0, 2), 2, 1000),
    'igcv2_0_25': functools.partial(igcv2, 10, MOBILENET, (0, 2), 2, 1000),
    'igcv2_c416_cifar': functools.partial(igcv2, 416, PLAIN, (8, 8), 1, 100),
}
