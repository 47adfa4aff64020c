"""An independent reimplementation of hier (1711.00436): motifs, stages, and the drawn cell.

The drawing is read as by NASLib (LiuFinalArch in naslib/search_spaces/hierarchical/graph.py), which
lists the edges of motifs 1 to 6 and of the cell. Here each motif is written as the inputs of nodes
2, 3 and 4, from node 1 on.
"""

import functools
from collections.abc import Callable

import restate
import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight

# c: 1x1 convolution, d: depthwise, s: separable, m: max pool, a: average pool, i: identity.
MOTIFS = {
    1: ('m', 'cd', 'scm'),
    2: ('m', 'dd', 'css'),
    3: ('s', 'ds', 'sia'),
    4: ('a', 'ss', 'ima'),
    5: ('i', 'si', 'sis'),
    6: ('d', 'mm', 'sia'),
}
CELL = ((5,), (3, 3), (3, 1, 3), (4, 5, 5, 5))  # motifs into nodes 2, 3, 4 and 5


def hier(
    features: int, stages: int, cells: int = 2, strides: tuple[int, ...] = (1,), classes: int = 10
) -> Net:
    """Returns a stem of 3x3 convolutions, and cells with separable convolutions in between."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        width = features // 2 ** (len(strides) - 1)
        for i, stride in enumerate(strides, 1):
            x = _conv(weight, f'conv{i}.conv', x, width, 3, stride)
            x = restate.norm(weight, f'conv{i}.bn', x).relu()
            width *= 2
        width = features
        for stage in range(1, stages + 1):
            for i in range(1, cells + 1):
                x = _cell(weight, f'cell{stage}_{i}', x, width)
                name, stride = f'separable{stage}_{i}', 1
                if i == cells and stage < stages:
                    stride, width = 2, 2 * width
                x = _separable(weight, name, x, width, stride)
        kernel = weight('output.weight', classes, x.shape[1])
        return F.linear(x.mean((2, 3)), kernel, weight('output.bias', classes))

    return restate.declared(forward, 32)


def _cell(weight: Weight, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
    nodes = [x]
    for target, motifs in enumerate(CELL, 2):
        parts = [
            _motif(weight, f'{name}.edge{i + 1}_{target}', nodes[i], motif, width)
            for i, motif in enumerate(motifs)
        ]
        nodes.append(torch.cat(parts, 1))
    return nodes[-1]


def _motif(weight: Weight, name: str, x: torch.Tensor, motif: int, width: int) -> torch.Tensor:
    nodes = [x]
    for target, letters in enumerate(MOTIFS[motif], 2):
        parts = [
            _primitive(weight, f'{name}.edge{i + 1}_{target}', nodes[i], letter, width)
            for i, letter in enumerate(letters)
        ]
        nodes.append(torch.cat(parts, 1))
    return _primitive(weight, f'{name}.reduce', nodes[-1], 'c', width)


def _primitive(weight: Weight, name: str, x: torch.Tensor, letter: str, width: int) -> torch.Tensor:
    if letter == 'i':
        return x
    if letter == 'm':
        return F.max_pool2d(x, 3, 1, padding=1)
    if letter == 'a':
        return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
    if letter == 's':
        return _separable(weight, name, x, width, 1)
    if letter == 'd':
        x = _conv(weight, f'{name}.conv', x, x.shape[1], 3, 1, x.shape[1])
    else:
        x = _conv(weight, f'{name}.conv', x, width, 1, 1)
    return restate.norm(weight, f'{name}.bn', x).relu()


def _separable(weight: Weight, name: str, x: torch.Tensor, width: int, stride: int) -> torch.Tensor:
    x = _conv(weight, f'{name}.conv.depthwise', x, x.shape[1], 3, stride, x.shape[1])
    x = _conv(weight, f'{name}.conv.pointwise', x, width, 1, 1)
    return restate.norm(weight, f'{name}.bn', x).relu()


def _conv(
    weight: Weight,
    name: str,
    x: torch.Tensor,
    width: int,
    window: int,
    stride: int,
    groups: int = 1,
) -> torch.Tensor:
    """Returns a convolution padded to ceil(n / stride) pixels, an odd zero at the end."""
    kernel = weight(f'{name}.weight', width, x.shape[1] // groups, window, window)
    rows, columns = (
        max((-(-n // stride) - 1) * stride + window - n, 0) for n in (x.shape[2], x.shape[3])
    )
    x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.conv2d(x, kernel, stride=stride, groups=groups)


NETS: dict[str, Callable[..., Net]] = {
    'hier': functools.partial(hier, features=64, stages=4, strides=(2, 2), classes=1000),
    'hier_c64_cifar': functools.partial(hier, features=64, stages=3),
    'hier_c128_cifar': functools.partial(hier, features=128, stages=3),
}
