"""hier: Hierarchical Representations for Efficient Architecture Search (ICLR 2018).

Liu, Simonyan, Vinyals, Fernando, Kavukcuoglu; https://arxiv.org/abs/1711.00436

What is new: an evolved cell that is assembled in levels. The operations of level 1 are six
primitives; an operation of a higher level, a motif, is a small directed acyclic graph with
operations of the level below, or none, on its edges. A node is the concatenation of its inputs; the
first node is the input of the motif, the last its output. A 1x1 convolution follows each level-2
motif and restores the number of channels C of the cell's stage. Batch normalization and a rectifier
follow all convolutions, and all but the depthwise ones have C outputs. The single motif of the
highest level is the cell.

EVOLVED is the cell in a drawing of the paper's appendix, as NASLib reads it (github.com/automl/
NASLib, hierarchical/graph.py: LiuFinalArch). Two edges of the drawing have no label; NASLib reads
them as identities, and comments below mark them. NASLib itself departs from the paper: it sums at
most nodes and applies separable convolutions twice. Here all nodes concatenate.

No code was published; the logits are tested against an independent reimplementation. The CIFAR
networks are assembled by NASLib's reading of the paper. They have 15.73M parameters with 64
channels and 61.90M with 128, for the paper's 15.7M and 61.3M (NASLib's form: 15.85M and 62.14M). No
other form that we tried comes nearer to both: 1x1 convolutions at the nodes or after the cell,
motifs with as many channels as their input, a last convolution that widens. The ImageNet network is
derived: its size of 299 pixels and 64M parameters are all that we know of it. With one stage more
than the CIFAR network of 64 channels, and two convolutions of stride 2 as its stem, it has 63.2M.
Two details are open: the padding of strided convolutions (here TensorFlow's), and the pixels of an
average at the border (here only those of the image).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import residual
from cls.nn.cells import SeparableConv
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
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
MAX_LEVELS = 5  # of motifs; the paper has 2
Edge = tuple[int, int, str]  # from node, to node, operation


@dataclasses.dataclass(frozen=True)
class Motif:
    """A graph of n nodes, by the operations on its edges 1-2, 1-3, ..., 1-n, 2-3, ..., (n-1)-n.

    An operation is 'none', at level 2 a primitive, and at higher levels 'motif1', 'motif2', ... of
    the level below. Raises ValueError when no n has that number of edges.
    """

    edges: tuple[str, ...]

    def __post_init__(self):
        if self.nodes < 2 or self.nodes * (self.nodes - 1) != 2 * len(self.edges):
            raise ValueError(f'a motif has 1, 3, 6, 10, ... edges, not {len(self.edges)}')

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return (1 + math.isqrt(1 + 8 * len(self.edges))) // 2

    def paths(self, operations: Sequence[str]) -> tuple[Edge, ...]:
        """Returns the edges with one of `operations` that are on a path from first to last node."""
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
    """The motifs of each level, from level 2 up; the highest level has one, the cell.

    Raises ValueError for an operation that the level below lacks, and when the output of the cell
    does not depend on its input.
    """

    levels: tuple[tuple[Motif, ...], ...]

    @property
    def num_layers(self) -> int:
        """Number of primitives in the cell, with every motif expanded."""
        counts: dict[str, int] = dict.fromkeys(PRIMITIVES, 1)
        for motifs in self.levels:
            sums = [sum(counts.get(op, 0) for op in motif.edges) for motif in motifs]
            counts = {f'motif{i + 1}': total for i, total in enumerate(sums)}
        return counts['motif1']

    def __post_init__(self):
        if not self.levels or len(self.levels[-1]) != 1:
            raise ValueError('the highest level has one motif, the cell')
        if len(self.levels) > MAX_LEVELS:
            raise ValueError(f'{len(self.levels)} levels of motifs: expected at most {MAX_LEVELS}')
        operations = PRIMITIVES
        for level, motifs in enumerate(self.levels, 2):
            unknown = {op for motif in motifs for op in motif.edges} - {'none', *operations}
            if unknown:
                names, allowed = ', '.join(sorted(unknown)), ', '.join(operations)
                raise ValueError(f'an edge of level {level} has none, {allowed}: {names}')
            operations = tuple(f'motif{i + 1}' for i in range(len(motifs)))
        if not self.graph(len(self.levels) + 1, 'motif1'):
            raise ValueError("no path leads from the cell's first node to its last")

    def graph(self, level: int, motif: str) -> tuple[Edge, ...]:
        """Returns the edges that the output of a motif depends on, ordered by their first nodes.

        A motif without such edges counts as 'none' on the edges of the level above.
        """
        operations = PRIMITIVES
        if level > 2:
            below = [f'motif{i + 1}' for i in range(len(self.levels[level - 3]))]
            operations = [name for name in below if self.graph(level - 1, name)]
        return self.levels[level - 2][int(motif.removeprefix('motif')) - 1].paths(operations)


class Separable(nn.Module):
    """Depthwise 3x3 and 1x1 convolution, normalization, rectifier."""

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        x = SeparableConv(self.features, 3, self.strides, self.conv, name='conv')(x)
        return nn.relu(self.norm(name='bn')(x))


class Assembled(nn.Module):
    """A motif at a level of a genotype, with `features` channels C."""

    genotype: Genotype
    level: int
    motif: str
    features: int
    conv: Callable[..., nn.Module]  # bound to SAME padding
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C')."""
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
        name, make = f'edge{i}_{j}', dict[str, Any](conv=self.conv, norm=self.norm)
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
    """Stages of cells, with a separable convolution after each cell.

    The convolution between two stages halves the resolution and doubles the channels.
    """

    genotype: Genotype
    features: int  # channels C of the first stage (c_0)
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
        norm = batch_norm(self, train)
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
            # Edge 1-2 has no label in the drawing.
            Motif((_ID, _SEPARABLE, _SEPARABLE, _ID, _ID, _SEPARABLE)),
            Motif((_DEPTHWISE, _MAX, _SEPARABLE, _MAX, _ID, _AVG)),  # not used
        ),
        (Motif(tuple(f'motif{i}' for i in (5, 3, 3, 4, 3, 1, 5, 3, 5, 5))),),
    )
)

# Top-1 and top-5 are the paper's.
IMAGENET = {'stages': 4, 'stem_strides': (2, 2), 'num_classes': 1000}
TABLE = {
    'hier': (64, IMAGENET, 299, 63_228_808, 17_613_190_272, 79.7, 94.8),
    'hier_c64_cifar': (64, {}, 32, 15_727_306, 2_304_281_088, 96.25, None),
    'hier_c128_cifar': (128, {}, 32, 61_896_074, 9_004_192_768, 96.37, None),
}
register_table(
    TABLE,
    'features fields input_size params macs top1 top5',
    system=SYSTEM,
    module=Hier,
    fields={'genotype': EVOLVED},
)
