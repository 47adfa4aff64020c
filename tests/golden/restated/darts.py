"""An independent reimplementation of DARTS's CIFAR networks, from quark0/darts, cnn/model.py."""

import functools
from collections.abc import Callable, Sequence

import restate
import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight

# (normal, reduction): operations on the left and right side of the four nodes, and their input
# states: 0 is the output of the cell before the previous one, 1 of the previous one.
GENOTYPES = {
    'v1': (
        ('sep3 sep3 skip sep3 skip sep3 sep3 skip', '10010102'),
        ('max3 max3 skip max3 max3 skip skip avg3', '01200220'),
    ),
    'v2': (
        ('sep3 sep3 sep3 sep3 sep3 skip skip dil3', '01011002'),
        ('max3 max3 skip max3 max3 skip skip max3', '01210221'),
    ),
}


def darts(
    genotype: str,
    stage_sizes: Sequence[int] = (6, 7, 7),
    filters: int = 36,
    num_classes: int = 10,
    aux_head: bool = False,
) -> Net:
    """Returns DARTS (1806.09055) for CIFAR; stages two and three begin with a reduction cell."""
    if aux_head:
        raise ValueError('the auxiliary head is not restated')
    normal, reduction = GENOTYPES[genotype]
    reductions = (stage_sizes[0], stage_sizes[0] + stage_sizes[1])

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        x = _conv(weight, 'stem.conv', x, 3 * filters, 3)
        older = newer = restate.norm(weight, 'stem.bn', x)
        width = filters
        for i in range(sum(stage_sizes)):
            name, reduces = f'cells.{i}', i in reductions
            width *= 2 if reduces else 1
            if i - 1 in reductions:
                states = [_halve(weight, f'{name}.prev_reduction', older, width)]
            else:
                projected = _conv(weight, f'{name}.prev_1x1', older.relu(), width)
                states = [restate.norm(weight, f'{name}.prev_bn', projected)]
            projected = _conv(weight, f'{name}.1x1', newer.relu(), width)
            states.append(restate.norm(weight, f'{name}.beginning_bn', projected))
            operations, sources = reduction if reduces else normal
            for node in range(4):
                total = 0
                for side, name_of_side in enumerate(('left', 'right')):
                    source = int(sources[2 * node + side])
                    stride = 2 if reduces and source < 2 else 1
                    operation = operations.split()[2 * node + side]
                    edge = f'{name}.comb_iter_{node}.{name_of_side}'
                    total = total + _operation(weight, edge, operation, states[source], stride)
                states.append(total)
            older, newer = newer, torch.cat(states[2:], 1)
        x = newer.mean((2, 3))
        kernel = weight('classifier.weight', num_classes, x.shape[1])
        return F.linear(x, kernel, weight('classifier.bias', num_classes))

    return restate.declared(forward)


def _operation(
    weight: Weight, name: str, operation: str, x: torch.Tensor, stride: int
) -> torch.Tensor:
    if operation == 'skip':
        return x if stride == 1 else _halve(weight, f'{name}.reduction', x, x.shape[1])
    if operation == 'max3':
        return F.max_pool2d(x, 3, stride, 1)
    if operation == 'avg3':
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    if operation == 'dil3':
        x = _separable(weight, f'{name}.dilated_3x3', x, stride, dilation=2)
        return restate.norm(weight, f'{name}.bn_dil_3x3', x)
    for i in (1, 2):
        x = _separable(weight, f'{name}.separable_3x3_{i}', x, stride if i == 1 else 1)
        x = restate.norm(weight, f'{name}.bn_sep_3x3_{i}', x)
    return x


def _separable(
    weight: Weight, name: str, x: torch.Tensor, stride: int, dilation: int = 1
) -> torch.Tensor:
    width = x.shape[1]
    kernel = weight(f'{name}.depthwise.weight', width, 1, 3, 3)
    x = F.conv2d(x.relu(), kernel, None, stride, dilation, dilation, width)
    return _conv(weight, f'{name}.pointwise', x, width)


def _halve(weight: Weight, name: str, x: torch.Tensor, width: int) -> torch.Tensor:
    x = x.relu()
    kernels = [weight(f'{name}.path{i}_conv.weight', width // 2, x.shape[1], 1, 1) for i in (1, 2)]
    halves = [F.conv2d(x[:, :, i:, i:], kernel, stride=2) for i, kernel in enumerate(kernels)]
    return restate.norm(weight, f'{name}.final_path_bn', torch.cat(halves, 1))


def _conv(weight: Weight, name: str, x: torch.Tensor, width: int, window: int = 1) -> torch.Tensor:
    kernel = weight(f'{name}.weight', width, x.shape[1], window, window)
    return F.conv2d(x, kernel, padding=window // 2)


NETS: dict[str, Callable[..., Net]] = {
    'darts_v2_cifar': functools.partial(darts, 'v2'),
    'darts_v1_cifar': functools.partial(darts, 'v1'),
}
