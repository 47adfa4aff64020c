"""An independent reimplementation of GeNet, from section 3.1 and figure 5 of 1703.01513.

A stage is a square matrix of bits, filled column by column from the code without its dashes.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import restate
import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight

CODES = {
    '1': ('101', '001100', '0111010001'),
    '2': ('101', '101100', '0111010001'),
}


def imagenet(
    codes: Sequence[str],
    widths: Sequence[int] = (256, 512, 512),
    stem: Sequence[int] = (64, 128),
    hidden: Sequence[int] = (4096, 4096),
) -> Net:
    """Returns two stages of VGG, the genetic ones, three linear layers; 2x2 pools end stages."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        for stage, width in enumerate(stem, 1):
            x = _layer(weight, f'vgg{stage}_1', x, width, 3)
            x = _layer(weight, f'vgg{stage}_2', x, width, 3)
            x = F.max_pool2d(x, 2)
        for stage, (code, width) in enumerate(zip(codes, widths, strict=True), 1):
            x = F.max_pool2d(_stage(weight, f'genetic{stage}', x, code, width, 3), 2)
        return _classifier(weight, F.adaptive_avg_pool2d(x, 7), hidden, 1000)

    return restate.declared(forward)


def cifar(codes: Sequence[str], widths: Sequence[int] = (64, 128, 256)) -> Net:
    """Returns three times C5-P3 and a linear layer of 1,024; 32 pixels become 16, 8 and 4."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        for stage, (code, width) in enumerate(zip(codes, widths, strict=True), 1):
            x = _stage(weight, f'genetic{stage}', x, code, width, 5)
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return _classifier(weight, x, (1024,), 10)

    return restate.declared(forward, 32)


def _stage(
    weight: Weight, name: str, x: torch.Tensor, code: str, width: int, window: int
) -> torch.Tensor:
    """Returns the output of the first convolution, the nodes by number, the last convolution."""
    size = int((2 * len(code)) ** 0.5) + 1
    feeds = np.zeros((size, size), bool)
    bits = iter(code)
    for target in range(size):
        for source in range(target):
            feeds[source, target] = next(bits) == '1'
    first = _layer(weight, f'{name}.node0', x, width, window)
    if not feeds.any():
        return first
    outputs = {}
    for node in range(size):
        if feeds[node].any() or feeds[:, node].any():
            inputs = [outputs[i] for i in np.flatnonzero(feeds[:, node])] or [first]
            total = torch.stack(inputs).sum(0)
            outputs[node] = _layer(weight, f'{name}.node{node + 1}', total, width, 3)
    ends = torch.stack([y for node, y in outputs.items() if not feeds[node].any()]).sum(0)
    return _layer(weight, f'{name}.node{size + 1}', ends, width, 3)


def _layer(weight: Weight, name: str, x: torch.Tensor, width: int, window: int) -> torch.Tensor:
    kernel = weight(f'{name}.conv.weight', width, x.shape[1], window, window)
    x = F.conv2d(x, kernel, weight(f'{name}.conv.bias', width), padding=window // 2)
    return restate.norm(weight, f'{name}.bn', x).relu()


def _classifier(
    weight: Weight, x: torch.Tensor, hidden: Sequence[int], classes: int
) -> torch.Tensor:
    x = x.flatten(1)
    for i, width in enumerate(hidden, 1):
        kernel = weight(f'fc{i}.weight', width, x.shape[1])
        x = F.linear(x, kernel, weight(f'fc{i}.bias', width)).relu()
    kernel = weight('output.weight', classes, x.shape[1])
    return F.linear(x, kernel, weight('output.bias', classes))


NETS: dict[str, Callable[..., Net]] = {
    **{f'genet_{i}': functools.partial(imagenet, codes) for i, codes in CODES.items()},
    **{f'genet_{i}_cifar': functools.partial(cifar, codes) for i, codes in CODES.items()},
}
