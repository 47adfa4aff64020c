"""An independent reimplementation of Block-QNN, from the grammar of its network structure codes.

The codes of the variants are those of a random block, not of the paper's; a Task's field `genotype`
gives others. In evaluation.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

# Index, type (1 convolution, 2 max pool, 3 average pool, 4 identity, 5 sum, 6 concatenation),
# kernel, and the layers read: drawn at random with the seed 0.
RANDOM = (
    (1, 4, 0, 0, 0),
    (2, 2, 3, 0, 0),
    (3, 5, 0, 1, 2),
    (4, 6, 0, 1, 3),
    (5, 4, 0, 4, 0),
    (6, 6, 0, 5, 1),
    (7, 5, 0, 4, 2),
    (8, 1, 3, 4, 0),
    (9, 6, 0, 4, 7),
    (10, 2, 3, 5, 0),
)


def _cell(weight: Weight, name: str, x: torch.Tensor, width: int, window: int) -> torch.Tensor:
    kernel = weight(f'{name}.conv.weight', width, x.shape[1], window, window)
    return norm(weight, f'{name}.bn', F.conv2d(x.relu(), kernel, padding=window // 2))


def _block(
    weight: Weight, name: str, codes: Sequence[Sequence[int]], x: torch.Tensor, width: int
) -> torch.Tensor:
    outputs, loose = {0: x}, []
    for index, kind, window, first, second in codes:
        if kind == 7:
            break
        layer, one, other = f'{name}.layer{index}', outputs[first], outputs[second]
        loose = [i for i in loose if i != first and (kind < 5 or i != second)] + [index]
        if kind == 1:
            out = _cell(weight, layer, one, width, window)
        elif kind == 2:
            out = F.max_pool2d(one, window, 1, window // 2)
        elif kind == 3:
            out = F.avg_pool2d(one, window, 1, window // 2, count_include_pad=False)
        elif kind == 4:
            out = one
        elif kind == 5:
            if one.shape[1] != other.shape[1]:
                if one.shape[1] != width:
                    one = _cell(weight, f'{layer}.1', one, width, 1)
                if other.shape[1] != width:
                    other = _cell(weight, f'{layer}.2', other, width, 1)
            out = one + other
        else:
            out = _cell(weight, layer, torch.cat([one, other], 1), width, 1)
        outputs[index] = out
    if len(loose) == 1:
        return outputs[loose[0]]
    return _cell(weight, f'{name}.output', torch.cat([outputs[i] for i in loose], 1), width, 1)


def block_qnn(
    filters: int,
    stage_sizes: Sequence[int],
    stem_strides: Sequence[int],
    num_classes: int,
    genotype: dict[str, Sequence[Sequence[int]]],
) -> Net:
    """Returns the network of the blocks of the codes; the rest are fields of the module."""

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        for i, stride in enumerate(stem_strides, 1):
            x = x if i == 1 else x.relu()
            kernel = weight(f'stem{i}.conv.weight', filters, x.shape[1], 3, 3)
            x = norm(weight, f'stem{i}.bn', F.conv2d(x, kernel, stride=stride, padding=1))
        for stage, size in enumerate(stage_sizes):
            if stage:
                x = F.max_pool2d(x, 2)
            for i in range(size):
                name = f'stage{stage + 1}.block{i + 1}'
                x = _block(weight, name, genotype['layers'], x, filters << stage)
        x = x.relu().mean((2, 3))
        kernel = weight('classifier.weight', num_classes, x.shape[1])
        return F.linear(x, kernel, weight('classifier.bias', num_classes))

    return declared(forward)


def _cifar(**fields) -> Net:
    fields = {'filters': 62, 'stage_sizes': (4, 4, 4), 'num_classes': 10, **fields}
    return block_qnn(**{'genotype': {'layers': RANDOM}, 'stem_strides': (1,), **fields})


def _imagenet(**fields) -> Net:
    fields = {'filters': 64, 'stage_sizes': (3, 3, 3, 3), 'num_classes': 1000, **fields}
    return block_qnn(**{'genotype': {'layers': RANDOM}, 'stem_strides': (2, 2), **fields})


NETS: dict[str, Callable[..., Net]] = {
    'block_qnn_random0_cifar': _cifar,
    'block_qnn_random0_imagenet': _imagenet,
}
