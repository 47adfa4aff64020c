"""hier: Hierarchical Representations for Efficient Architecture Search (ICLR 2018).

Liu, Simonyan, Vinyals, Fernando, Kavukcuoglu; https://arxiv.org/abs/1711.00436

What is new: an evolved cell that is assembled in levels. The operations of level 1 are six
primitives; an operation of a higher level, a motif, is a small directed acyclic graph whose edges
bear operations of the level below, or none. A node is the concatenation of what arrives at it; the
first is the motif's input, the last its output. Each level-2 motif is followed by a 1x1
convolution, back to the number of channels C of the cell's stage. All convolutions are followed by
batch normalisation and a rectifier, and those that are not depthwise have C outputs. The one motif
of the highest level is the cell.

EVOLVED is the cell that the paper has as a drawing in its appendix, as it was read by NASLib
(github.com/automl/NASLib, hierarchical/graph.py: LiuFinalArch). Two of the drawing's edges bear no
label, and NASLib's reading of them as identities is marked below. NASLib itself departs from the
paper: it sums at most nodes and applies separable convolutions twice; here all nodes concatenate.

No code was published; the logits are held against a restatement. The CIFAR nets are put together
as NASLib reads the paper. They have 15.73M parameters with 64 channels and 61.90M with 128, where
the paper says 15.7M and 61.3M (NASLib's form: 15.85M and 62.14M); no other form that was tried
comes nearer to both: 1x1 convolutions at the nodes or behind the cell, motifs with as many channels
as they are given, a last convolution that widens. The ImageNet net is derived: known of it here are
299 pixels and 64M parameters alone. With one stage more than the CIFAR net of 64 channels, and two
convolutions of stride 2 as its stem, it has 63.2M. Unsettled are also the padding of strided
convolutions, here TensorFlow's, and which pixels a mean at the border is over, here those of the
image alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import residual
from cls.nn.cells import SeparableConv
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='hier',
    title='Hierarchical Representations for Efficient Architecture Search',
    venue='ICLR 2018',
    arxiv='1711.00436',
    top1=79.7,
    top5=94.8,
    headline='hier',
    params=64,
)

PRIMITIVES = (
    'conv_1x1',
    'depthwise_3x3',
    'separable_3x3',
    'max_3x3',
    'avg_3x3',
    'identity',
)
MAX_LEVELS = 5  # of motifs; the paper's has 2
Edge = tuple[int, int, str]  # from node, to node, operation


@dataclasses.dataclass(frozen=True)
class Motif:
    """A graph of n nodes by the operations on its edges 1-2, 1-3, ..., 1-n, 2-3, ..., (n-1)-n.

    An operation is 'none', at level 2 a primitive, and above 'motif1', 'motif2', ... of the level
    below. Raises ValueError when no n has that many edges.
    """

    edges: tuple[str, ...]

    def __post_init__(self):
        if self.nodes < 2 or self.nodes * (self.nodes - 1) != 2 * len(self.edges):
            raise ValueError(f'a motif has 1, 3, 6, 10, ... edges, not {len(self.edges)}')

    @property
    def nodes(self) -> int:
        return (1 + math.isqrt(1 + 8 * len(self.edges))) // 2

    def paths(self, operations: Sequence[str]) -> tuple[Edge, ...]:
        """Returns the edges with one of `operations` that lie on a way from first to last node."""
        pairs = [(i, j) for i in range(1, self.nodes) for j in range(i + 1, self.nodes + 1)]
        edges = [
            (i, j, op) for (i, j), op in zip(pairs, self.edges, strict=True) if op in operations
        ]
        forward, backward = {1}, {self.nodes}
        for i, j, _ in edges:  # in the order of i
            forward |= {j} if i in forward else set()
        for i, j, _ in reversed(edges):
            backward |= {i} if j in backward else set()
        return tuple((i, j, op) for i, j, op in edges if i in forward and j in backward)


@dataclasses.dataclass(frozen=True)
class Genotype:
    """The motifs of each level, from level 2 up; the highest has one, the cell.

    Raises ValueError for an operation that the level below does not have, and when the cell's
    output does not depend on its input.
    """

    levels: tuple[tuple[Motif, ...], ...]

    @property
    def num_layers(self) -> int:
        """Primitives of the cell when every motif is spelled out."""
        counts = dict.fromkeys(PRIMITIVES, 1)
        for motifs in self.levels:
            sums = [sum(counts.get(op, 0) for op in motif.edges) for motif in motifs]
            counts = {f'motif{i + 1}': total for i, total in enumerate(sums)}
        return counts['motif1']

    def __post_init__(self):
        if not self.levels or len(self.levels[-1]) != 1:
            raise ValueError('the highest level has one motif, the cell')
        if len(self.levels) > MAX_LEVELS:
            raise ValueError(f'{len(self.levels)} levels of motifs: expected at most {MAX_LEVELS}')
        known = PRIMITIVES
        for level, motifs in enumerate(self.levels, 2):
            unknown = {op for motif in motifs for op in motif.edges} - {'none', *known}
            if unknown:
                names = ', '.join(sorted(unknown))
                raise ValueError(f'an edge of level {level} has none, {", ".join(known)}: {names}')
            known = tuple(f'motif{i + 1}' for i in range(len(motifs)))
        if not self.graph(len(self.levels) + 1, 'motif1'):
            raise ValueError("no way leads from the cell's first node to its last")

    def graph(self, level: int, motif: str) -> tuple[Edge, ...]:
        """Returns the edges of a motif on which the output depends, those from early nodes first.

        A motif that has none is itself no operation on the edges of the level above.
        """
        operations = PRIMITIVES
        if level > 2:
            below = [f'motif{i + 1}' for i in range(len(self.levels[level - 3]))]
            operations = [name for name in below if self.graph(level - 1, name)]
        return self.levels[level - 2][int(motif.removeprefix('motif')) - 1].paths(operations)


class Separable(nn.Module):
    """Depthwise 3x3 and 1x1 convolution, normalisation, rectifier."""

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = SeparableConv(self.features, 3, self.strides, self.conv, name='conv')(x)
        return nn.relu(self.norm(name='bn')(x))


class Assembled(nn.Module):
    """A motif of a level of a genotype, with `features` channels C."""

    genotype: Genotype
    level: int
    motif: str
    features: int
    conv: Callable[..., nn.Module]  # bound to SAME padding
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        edges = self.genotype.graph(self.level, self.motif)
        states = {1: x}
        for node in sorted({j for _, j, _ in edges}):
            arriving = [self._apply(states[i], i, j, op) for i, j, op in edges if j == node]
            states[node] = jnp.concatenate(arriving, -1)
        x = states[max(states)]
        if self.level == 2:
            x = ConvNorm(self.features, 1, self.conv, self.norm, name='reduce')(x)
        return x

    def _apply(self, x, i, j, op):
        name, make = f'edge{i}_{j}', {'conv': self.conv, 'norm': self.norm}
        if self.level > 2:
            return Assembled(self.genotype, self.level - 1, op, self.features, **make, name=name)(x)
        if op == 'conv_1x1':
            return ConvNorm(self.features, 1, **make, name=name)(x)
        if op == 'depthwise_3x3':
            return ConvNorm(x.shape[-1], 3, **make, groups=x.shape[-1], name=name)(x)
        if op == 'separable_3x3':
            return Separable(self.features, 1, **make, name=name)(x)
        if op == 'identity':
            return x
        return {'max_3x3': max_pool, 'avg_3x3': avg_pool}[op](x, 3, 1, 'SAME')


class Hier(nn.Module):
    """Stages of cells, each followed by a separable convolution.

    The convolution between two stages halves the resolution and doubles the channels.
    """

    genotype: Genotype
    features: int  # channels C of the first stage, c_0 in the paper
    stages: int = 3
    cells: int = 2  # in each stage
    stem_strides: Sequence[int] = (1,)  # of the convolutions before the first stage
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, padding='SAME', dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
        level = len(self.genotype.levels) + 1

        x = images
        for i, strides in enumerate(self.stem_strides, 1):
            features = self.features // 2 ** (len(self.stem_strides) - i)
            x = ConvNorm(features, 3, conv, norm, strides, 'SAME', name=f'conv{i}')(x)
        self.sow('intermediates', 'stem', x)
        for stage in range(1, self.stages + 1):
            features = self.features * 2 ** (stage - 1)
            for i in range(1, self.cells + 1):
                name = f'{stage}_{i}'
                cell = (self.genotype, level, 'motif1', features, conv, norm)
                x = Assembled(*cell, name=f'cell{name}')(x)
                if i == self.cells:
                    self.sow('intermediates', f'stage{stage}', x)
                scale = 2 if i == self.cells and stage < self.stages else 1
                x = Separable(scale * features, scale, conv, norm, name=f'separable{name}')(x)
        return residual.head(self, x, 'output')


_MAX, _AVG, _ID = 'max_3x3', 'avg_3x3', 'identity'
_CONV, _DEPTHWISE, _SEPARABLE = 'conv_1x1', 'depthwise_3x3', 'separable_3x3'
EVOLVED = Genotype(
    (
        (
            Motif((_MAX, _CONV, _SEPARABLE, _DEPTHWISE, _CONV, _MAX)),
            Motif((_MAX, _DEPTHWISE, _CONV, _DEPTHWISE, _SEPARABLE, _SEPARABLE)),  # not used
            # Edge 2-4 has no label in the drawing.
            Motif((_SEPARABLE, _DEPTHWISE, _SEPARABLE, _SEPARABLE, _ID, _AVG)),
            Motif((_AVG, _SEPARABLE, _ID, _SEPARABLE, _MAX, _AVG)),
            # Nor has edge 1-2.
            Motif((_ID, _SEPARABLE, _SEPARABLE, _ID, _ID, _SEPARABLE)),
            Motif((_DEPTHWISE, _MAX, _SEPARABLE, _MAX, _ID, _AVG)),  # not used
        ),
        (Motif(tuple(f'motif{i}' for i in (5, 3, 3, 4, 3, 1, 5, 3, 5, 5))),),
    )
)

# Channels, other fields, input size, parameters, multiply-adds, the paper's top-1 and top-5.
IMAGENET = {'stages': 4, 'stem_strides': (2, 2), 'num_classes': 1000}
NETS = {
    'hier': (64, IMAGENET, 299, 63_228_808, 17_613_190_272, 79.7, 94.8),
    'hier_c64_cifar': (64, {}, 32, 15_727_306, 2_304_281_088, 96.25, None),
    'hier_c128_cifar': (128, {}, 32, 61_896_074, 9_004_192_768, 96.37, None),
}
for name, (features, fields, size, params, macs, top1, top5) in NETS.items():
    fields = {'genotype': EVOLVED, 'features': features, **fields}
    register(Variant(name, SYSTEM, Hier, fields, size, params, macs, top1, top5))
