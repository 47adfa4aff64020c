"""An independent reimplementation of AmoebaNet, from the authors' code: tensorflow/tpu, amoeba_net.

In evaluation, without the auxiliary head. Convolutions and pooling pad like TensorFlow's SAME: an
odd row or column of zeros is at the end, and averages exclude the padding.

Departs from that code as `cls.models` does: the CIFAR stem is padded, and a factorized reduction to
an odd number of channels gives the smaller half first, where that code refuses it.
"""

import dataclasses
import functools
from collections.abc import Callable

import restate
import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight

Graph = tuple[
    str, str, str
]  # operations, the states they are applied to, a 1 for each unused state
Step = tuple[str, Graph, int, float]  # a cell: its name, graph, stride, and width in units of F


@dataclasses.dataclass(frozen=True)
class Parts:
    """The tensors of the layers, and the epsilon of the norms."""

    weight: Weight
    eps: float


# The normal and the reduction cell of each network: operations on the left and right side of its
# five nodes, their input states, and a 1 for each state that the output leaves out.
CELLS: dict[str, tuple[Graph, Graph]] = {
    'a': (
        ('avg3 max3 sep3 none none avg3 sep3 sep5 avg3 sep3', '0011010250', '1010010'),
        ('sep3 avg3 max3 sep7 max3 max3 sep3 1x7_7x1 avg3 sep7', '1002104010', '1100000'),
    ),
    'b': (
        ('1x1 max3 none sep3 1x1 sep3 1x1 none avg3 1x1', '1110102215', '0110010'),
        ('max2 max3 none 3x3 sep5 max3 none sep3 avg3 1x1', '0021223143', '1111100'),
    ),
    'c': (
        ('avg3 sep3 none sep3 avg3 sep3 none sep3 avg3 sep3', '0000210130', '1001000'),
        ('max3 max3 sep7 sep3 sep7 max3 sep5 sep5 max3 sep3', '0020014411', '0100000'),
    ),
    'd': (
        ('1x1 max3 none 1x7_7x1 1x1 1x7_7x1 max3 none avg3 1x1', '1110002215', '0110010'),
        ('max2 max3 none 3x3 1x7_7x1 max3 none max2 avg3 1x1', '0021223123', '1111000'),
    ),
}


def amoebanet(
    cell: str,
    cells: int,
    filters: int,
    stem_filters: int = 32,
    cifar: bool = False,
    num_classes: int = 1001,
    aux_head: bool = False,
) -> Net:
    """Returns AmoebaNet (1802.01548) of cell a, b, c or d; the rest are fields of the module."""
    steps = separate(*CELLS[cell], cells, cifar)
    return net(steps, filters, stem_filters, cifar, num_classes, aux_head)


def separate(normal: Graph, reduction: Graph, cells: int, cifar: bool) -> list[Step]:
    """Returns three times `cells` normal cells, with separate reduction cells, also in the stem."""
    steps = [] if cifar else [(f'cell_stem_{i}', reduction, 2, 2**i / 4) for i in (0, 1)]
    for i in range(3 * cells):
        stack = i // cells
        if i in (cells, 2 * cells):
            steps.append((f'reduction_cell_{stack - 1}', reduction, 2, 2**stack))
        steps.append((f'cell_{i}', normal, 1, 2**stack))
    return steps


def net(
    steps: list[Step],
    filters: int,
    stem_filters: int,
    cifar: bool,
    num_classes: int,
    aux_head: bool,
    eps: float = 1e-3,
) -> Net:
    """Returns a stem, cells, and a classifier, without the auxiliary head."""
    if aux_head:
        raise ValueError('the auxiliary head is not restated')

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        parts = Parts(weight, eps)
        stride, padding = (1, 'same') if cifar else (2, 'valid')
        x = _conv(parts, 'stem.conv0', x, stem_filters, 3, stride, padding=padding)
        outputs = [None, _norm(parts, 'stem.conv0_bn', x)]
        for name, spec, stride, scale in steps:
            width = int(filters * scale)
            outputs.append(_cell(parts, name, spec, stride, width, outputs[-1], outputs[-2]))
        x = outputs[-1].relu().mean((2, 3))
        kernel = weight('final_layer.FC.weight', num_classes, x.shape[1])
        return F.linear(x, kernel, weight('final_layer.FC.bias', num_classes))

    return restate.declared(forward)


def _cell(
    parts: Parts,
    name: str,
    spec: Graph,
    stride: int,
    width: int,
    x: torch.Tensor,
    before: torch.Tensor | None,
) -> torch.Tensor:
    """Returns the output of a cell on the last two outputs; the first cell reads the last twice."""
    operations, sources, left_out = spec[0].split(), [int(i) for i in spec[1]], spec[2]
    if before is None:
        before = x
    elif before.shape[3] != x.shape[3]:
        before = _halve(parts, f'{name}.prev_reduction', before.relu(), width)
    elif before.shape[1] != width:
        before = _conv(parts, f'{name}.prev_1x1', before.relu(), width)
        before = _norm(parts, f'{name}.prev_bn', before)
    x = _conv(parts, f'{name}.1x1', x.relu(), width)
    states = [_norm(parts, f'{name}.beginning_bn', x), before]
    for node in range(5):
        sides = [
            _operation(
                parts,
                f'{name}.comb_iter_{node}.{side}',
                operations[i],
                states[sources[i]],
                width,
                stride if sources[i] in (0, 1) else 1,
            )
            for i, side in ((2 * node, 'left'), (2 * node + 1, 'right'))
        ]
        states.append(sides[0] + sides[1])

    outputs = []
    for i, state in enumerate(states):
        if left_out[i] == '1':
            continue
        if state.shape[3] != states[6].shape[3]:
            state = _halve(parts, f'{name}.reduction_{i}', state, width)
        elif state.shape[1] != width:
            state = _conv(parts, f'{name}.reduction_{i}.path_conv', state, width)
            state = _norm(parts, f'{name}.reduction_{i}.path_bn', state)
        outputs.append(state)
    return torch.cat(outputs, 1)


def _operation(
    parts: Parts, name: str, operation: str, x: torch.Tensor, width: int, stride: int
) -> torch.Tensor:
    """Returns one side of a node, of `width` channels."""
    conv, norm = functools.partial(_conv, parts), functools.partial(_norm, parts)
    if operation in ('none', '1x1'):
        if operation == 'none' and stride == 1 and x.shape[1] == width:
            return x
        return norm(f'{name}.bn_1', conv(f'{name}.1x1', x.relu(), width, stride=stride))
    if operation.startswith('sep'):
        size = int(operation[3])
        for suffix in (f'{size}x{size}_1', f'{size}x{size}_2'):
            part = f'{name}.separable_{suffix}'
            channels = x.shape[1]
            x = conv(f'{part}.depthwise', x.relu(), channels, size, stride, groups=channels)
            x = norm(f'{name}.bn_sep_{suffix}', conv(f'{part}.pointwise', x, width))
            stride = 1
        return x
    if operation[:3] in ('avg', 'max'):
        x = _pool(operation[:3], x, int(operation[3]), stride)
        if x.shape[1] == width:
            return x
        return norm(f'{name}.bn_1', conv(f'{name}.1x1', x, width))
    x = norm(f'{name}.pre_bn', conv(f'{name}.pre_1x1', x.relu(), width // 4)).relu()
    if operation == '3x3':
        x = conv(f'{name}.3x3', x, width // 4, 3, stride)
    else:
        x = conv(f'{name}.1x7', x, width // 4, (1, 7), (1, stride))
        x = norm(f'{name}.bn_1x7_7x1', x).relu()
        x = conv(f'{name}.7x1', x, width // 4, (7, 1), (stride, 1))
    x = norm(f'{name}.bn', x).relu()
    return norm(f'{name}.post_bn', conv(f'{name}.post_1x1', x, width))


def _halve(parts: Parts, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
    """Returns every second pixel, from the first and from the second, half of the width each."""
    after = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    one = _conv(parts, f'{name}.path1_conv', x[:, :, ::2, ::2], width // 2)
    other = _conv(parts, f'{name}.path2_conv', after[:, :, ::2, ::2], width - width // 2)
    return _norm(parts, f'{name}.final_path_bn', torch.cat((one, other), 1))


def _pool(kind: str, x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    if kind == 'max':
        return F.max_pool2d(_pad_same(x, (size,) * 2, (stride,) * 2, -torch.inf), size, stride)
    total, pixels = (
        F.avg_pool2d(_pad_same(image, (size,) * 2, (stride,) * 2), size, stride)
        for image in (x, torch.ones_like(x))
    )
    return total / pixels


def _conv(
    parts: Parts,
    name: str,
    x: torch.Tensor,
    width: int,
    window: int | tuple[int, int] = 1,
    stride: int | tuple[int, int] = 1,
    groups: int = 1,
    padding: str = 'same',
) -> torch.Tensor:
    window, stride = (v if isinstance(v, tuple) else (v, v) for v in (window, stride))
    kernel = parts.weight(f'{name}.weight', width, x.shape[1] // groups, *window)
    if padding == 'same':
        x = _pad_same(x, window, stride)
    return F.conv2d(x, kernel, stride=stride, groups=groups)


def _pad_same(
    x: torch.Tensor, window: tuple[int, int], stride: tuple[int, int], value: float = 0.0
) -> torch.Tensor:
    """Pads as TensorFlow's SAME: for ceil(n / stride) windows, an odd pixel at the end."""
    pads = []
    for n, k, s in zip(x.shape[:1:-1], window[::-1], stride[::-1], strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def _norm(parts: Parts, name: str, x: torch.Tensor) -> torch.Tensor:
    return restate.norm(parts.weight, name, x, parts.eps)


def _cifar(cell: str, cells: int, filters: int, **fields: int) -> Net:
    fields = {'stem_filters': 3 * filters, 'num_classes': 10, **fields}
    return amoebanet(cell, cells, filters, cifar=True, **fields)


_IMAGENET = (
    ('a', 6, 190),
    ('a', 6, 448),
    ('a', 4, 50),
    ('b', 6, 190),
    ('b', 3, 62),
    ('c', 6, 228),
    ('c', 4, 50),
    ('d', 6, 256),
)
NETS: dict[str, Callable[..., Net]] = {
    **{
        f'amoebanet_{cell}_n{n}_f{f}': functools.partial(amoebanet, cell=cell, cells=n, filters=f)
        for cell, n, f in _IMAGENET
    },
    **{
        f'amoebanet_{cell}_n6_f{f}_cifar': functools.partial(_cifar, cell=cell, cells=6, filters=f)
        for cell, f in (('a', 32), ('a', 36), ('b', 36), ('b', 128))
    },
}
