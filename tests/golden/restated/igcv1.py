"""An independent reimplementation of IGCV1, from the authors' MXNet code and published graphs."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from restate import Net, Weight, declared, norm

EPS = 2e-5


def igcv1(
    blocks: Sequence[int],
    partitions: Sequence[tuple[int, int]],
    stem_features: int,
    kind: str,
    num_classes: int,
) -> Net:
    """Returns an interleaved group convolutional network (1707.02725); the rest are its fields.

    A block is a 3x3 convolution in L groups, the permutation of channel m of group l to position
    m L + l, a 1x1 convolution in M groups, the inverse permutation, and normalization.

    `kind`: imagenet (7x7 stem, pooling, residual units of two blocks), ident (residual CIFAR
    networks; the 1x1 convolution of a unit's first block has one group for each input channel of a
    primary group) or plain (CIFAR, each block with its own rectifier).
    """

    def group(
        weight: Weight, name: str, x: torch.Tensor, out: int, k: int, stride: int, groups: int
    ) -> torch.Tensor:
        kernel = weight(f'{name}.weight', out, x.shape[1] // groups, k, k)
        return F.conv2d(x, kernel, stride=stride, padding=k // 2, groups=groups)

    def permute(x: torch.Tensor, groups: int) -> torch.Tensor:
        return x[:, torch.arange(x.shape[1]).view(groups, -1).t().flatten()]

    def igc(
        weight: Weight, name: str, x: torch.Tensor, out: int, stride: int, many: int, few: int
    ) -> torch.Tensor:
        x = permute(group(weight, f'{name}.conv1', x, out, 3, stride, many), many)
        x = permute(group(weight, f'{name}.conv2', x, out, 1, 1, few), few)
        return norm(weight, f'{name}.bn', x, EPS)

    def unit(
        weight: Weight, name: str, x: torch.Tensor, out: int, stride: int, many: int, few: int
    ) -> torch.Tensor:
        first = x.shape[1] // many if kind == 'ident' else few
        y = igc(weight, f'{name}.conv1', x, out, stride, many, first).relu()
        y = igc(weight, f'{name}.conv2', y, out, 1, many, few)
        if x.shape[1] != out:
            x = group(weight, f'{name}.proj.conv', x, out, 1, stride, many)
            x = norm(weight, f'{name}.proj.bn', x, EPS)
        return (x + y).relu()

    def forward(weight: Weight, x: torch.Tensor) -> torch.Tensor:
        k, stride = (7, 2) if kind == 'imagenet' else (3, 1)
        x = group(weight, 'g0.conv', x, stem_features, k, stride, 1)
        x = norm(weight, 'g0.bn', x, EPS).relu()
        if kind == 'imagenet':
            x = F.max_pool2d(x, 3, 2, 1)
        for stage, (size, (many, few)) in enumerate(zip(blocks, partitions, strict=True), 1):
            for i in range(1, size + 1):
                where = (weight, f'g{stage}.b{i}', x, many * few)
                stride = 2 if stage > 1 and i == 1 else 1
                if kind == 'plain':
                    x = igc(*where, stride, many, few).relu()
                else:
                    x = unit(*where, stride, many, few)
        x = x.mean((2, 3))
        head = weight('fc.weight', num_classes, x.shape[1]), weight('fc.bias', num_classes)
        return F.linear(x, *head)

    return declared(forward, size=32)


def imagenet(partitions, stem_features, blocks=(2, 2, 2, 2)) -> Net:
    return igcv1(blocks, partitions, stem_features, 'imagenet', 1000)


def cifar(kind: str, many: int, few: int, depth: int, blocks=None) -> Net:
    each = (depth - 2) // (3 if kind == 'plain' else 6)
    partitions = tuple((many, few << stage) for stage in range(3))
    return igcv1(blocks or (each,) * 3, partitions, many * few, kind, 10)


NETS = {
    'igc_l4m32': functools.partial(imagenet, ((4, 32), (4, 64), (4, 128), (4, 256)), 128),
    'igc_l16m16': functools.partial(imagenet, ((16, 16), (16, 32), (16, 64), (16, 128)), 256),
    'igc_l100m2': functools.partial(imagenet, ((100, 2), (200, 2), (400, 2), (800, 2)), 100),
    **{f'igc_l24m2_d{d}_cifar': functools.partial(cifar, 'plain', 24, 2, d) for d in (20, 38, 62)},
    **{
        f'igc_l24m2_ident_d{d}_cifar': functools.partial(cifar, 'ident', 24, 2, d)
        for d in (20, 38, 62)
    },
    'igc_l4m8_d38_cifar': functools.partial(cifar, 'plain', 4, 8, 38),
    'igc_l32m26_ident_d20_cifar': functools.partial(cifar, 'ident', 32, 26, 20),
}
