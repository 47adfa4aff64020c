"""The supernet over the cells of NAS-Bench-201 (Dong & Yang 2020, https://arxiv.org/abs/2001.00326).

A cell has four nodes and an operation on each of the edges 1-0, 2-0, 2-1, 3-0, 3-1, 3-2; all cells
of the network are the same. As in the benchmark's code for DARTS, each edge keeps its strongest
operation, none included, and a genotype is its name in the table: a digit for each edge. cls.models
does not have the benchmark's network: a genotype is looked up.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool
from cls.search.spaces.tabular import NB201_EDGES as EDGES
from cls.search.supernets.base import ALPHA, Architecture
from cls.search.supernets.darts import Mixed

WIDTHS = (1, 2, 4)  # of the stages, in `filters`


class Net(nn.Module):
    """A stem, three stages of cells with residual blocks of stride 2 between, a classifier."""

    cells: int = 5  # of each stage
    filters: int = 16
    num_classes: int = 10
    bn_group: int = 0
    bn_momentum: float = 0.9
    dtype: Any = jnp.float32

    operations: ClassVar[tuple[str, ...]] = (
        'none',
        'skip_connect',
        '1x1',
        'nor_conv_3x3',
        'avg_pool_3x3',
    )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        kernel_init = init.VarianceScaling(1 / 3, 'fan_in', 'uniform')  # PyTorch's
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = functools.partial(
            BatchNorm, train, momentum=self.bn_momentum, group=self.bn_group, dtype=self.dtype
        )
        alpha = Architecture(len(EDGES), len(self.operations), ('normal',), name=ALPHA)()
        weights = jax.nn.softmax(alpha['normal'])

        x = norm(name='stem.bn')(conv(self.filters, 3, name='stem.conv')(images))
        for stage, width in enumerate(WIDTHS):
            features = width * self.filters
            if stage:
                x = _reduced(x, features, conv, norm, f'reduction{stage}')
            for i in range(self.cells):
                x = self._cell(x, weights, conv, norm, f'stage{stage + 1}.{i}')
        x = jnp.mean(nn.relu(norm(name='last.bn')(x)), (1, 2))
        x = Dense(self.num_classes, dtype=self.dtype, name='classifier')(x)
        return x.astype(jnp.float32)

    def _cell(self, x, weights, conv, norm, name):
        nodes = [x, 0.0, 0.0, 0.0]
        plain = functools.partial(norm, affine=False)
        for source in range(3):
            rows = [row for row, edge in enumerate(EDGES) if edge[1] == source]
            edges = Mixed(
                self.operations,
                x.shape[-1],
                1,
                conv,
                plain,
                pool_norm=False,
                name=f'{name}.from_{source}',
            )
            for row, out in zip(rows, edges(nodes[source], weights[np.array(rows)]), strict=True):
                nodes[EDGES[row][0]] += out
        return nodes[3]

    def chosen(self, rows: jax.Array) -> jax.Array:
        """Returns the mask of the operations that alpha (edges, operations) chooses."""
        return jax.nn.one_hot(rows.argmax(-1), len(self.operations), dtype=bool)

    def genotype(self, alpha: dict[str, Any]) -> str:
        """Returns the name in the table of the genotype derived from `alpha`."""
        return ''.join(map(str, np.asarray(alpha['normal']).argmax(-1)))


def _reduced(x, features, conv, norm, name):
    """A basic block of stride 2; its shortcut is a mean over 2x2 pixels and a 1x1 convolution."""
    shortcut = conv(features, 1, name=f'{name}.shortcut')(avg_pool(x, 2, 2))
    for part, strides in (('a', 2), ('b', 1)):
        x = conv(features, 3, strides, name=f'{name}.{part}.conv')(nn.relu(x))
        x = norm(name=f'{name}.{part}.bn')(x)
    return x + shortcut
