"""Cells as data: genotypes, and the modules that interpret them.

NASNet, PNASNet, AmoebaNet and DARTS describe a network by two small graphs, a normal cell and a
reduction cell. States 0 and 1 of a cell are its inputs: 0 is the output of the previous cell, 1
that of the cell before it (DARTS numbers them in reverse). A node adds the results of two
operations on earlier states and is the next state; the output of the cell is the concatenation of
the states in `concat`. In a reduction cell, operations on the two inputs have stride 2.

Names of layers are those of the TensorFlow code of NASNet, PNASNet and AmoebaNet.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import nearest
from cls.nn.dense import Dense
from cls.nn.drop import path_of
from cls.nn.padding import Padding, explicit_padding, pair
from cls.nn.pool import avg_pool, max_pool

Edge = tuple[str, int]  # operation, state that it is applied to


@dataclasses.dataclass(frozen=True)
class CellSpec:
    """A cell: its nodes, each a pair of edges, and the states that its output concatenates.

    Raises ValueError for an operation that is not in OPERATIONS, naming the nearest, and for an
    edge from a state that does not exist or comes later.
    """

    nodes: tuple[tuple[Edge, Edge], ...]
    concat: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        """The layers of a network of twenty such cells, for limits of size."""
        return 20 * 2 * len(self.nodes)

    def __post_init__(self) -> None:
        for node, edges in enumerate(self.nodes, 2):
            for op, source in edges:
                if op not in OPERATIONS:
                    hint = nearest(op, OPERATIONS) or f' There are {", ".join(OPERATIONS)}.'
                    raise ValueError(f'no operation is named {op!r}.{hint}')
                if not 0 <= source < node:
                    raise ValueError(
                        f'state {node} takes state {source}: there are 0 to {node - 1} before it'
                    )
        last = len(self.nodes) + 1
        if not self.concat or min(self.concat) < 0 or max(self.concat) > last:
            states = self.concat or 'none'
            raise ValueError(f'a cell concatenates some of its states 0 to {last}, not {states}')


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: CellSpec
    reduce: CellSpec

    @property
    def num_layers(self) -> int:
        """The larger number of layers of the two cells."""
        return max(self.normal.num_layers, self.reduce.num_layers)


class SeparableConv(nn.Module):
    """A depthwise and a 1x1 convolution with nothing between them."""

    features: int
    window: int
    strides: int
    conv: Callable[..., nn.Module]
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        depthwise = self.conv(
            x.shape[-1],
            self.window,
            self.strides,
            groups=x.shape[-1],
            dilation=self.dilation,
            name='depthwise',
        )
        x = depthwise(x)
        return self.conv(self.features, 1, name='pointwise')(x)


class FactorizedReduction(nn.Module):
    """A reduction to half height and width by two 1x1 convolutions of stride 2.

    The second sees pixels one row and one column after those of the first.
    """

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / 2, W / 2, features), rounded up."""
        half = self.features // 2
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        even = self.conv(half, 1, name='path1_conv')(x[:, ::2, ::2])
        odd = self.conv(self.features - half, 1, name='path2_conv')(shifted[:, ::2, ::2])
        return self.norm(name='final_path_bn')(jnp.concatenate([even, odd], -1))


class Operation(nn.Module):
    """The operation on an edge of a cell, by its name in OPERATIONS."""

    op: str
    features: int
    strides: int
    conv: Callable[..., nn.Module]  # with a convention of padding
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, features), rounded up."""
        apply, *arguments = OPERATIONS[self.op]
        return apply(self, x, *arguments)


def _identity(op: Operation, x: jax.Array) -> jax.Array:
    fits = op.strides == 1 and x.shape[-1] == op.features
    return x if fits else _project(op, x)


def _skip(op: Operation, x: jax.Array) -> jax.Array:
    """Returns DARTS's identity; with a stride, a factorized reduction."""
    if op.strides == 1:
        return _identity(op, x)
    return FactorizedReduction(op.features, op.conv, op.norm, name='reduction')(nn.relu(x))


def _project(op: Operation, x: jax.Array, window: int = 1) -> jax.Array:
    x = op.conv(op.features, window, op.strides, name=f'{window}x{window}')(nn.relu(x))
    return op.norm(name='bn_1')(x)


def _separable(op: Operation, x: jax.Array, window: int) -> jax.Array:
    """Returns two separable convolutions of x, the first with the stride."""
    for i, strides in enumerate((op.strides, 1), 1):
        suffix = f'{window}x{window}_{i}'
        conv = SeparableConv(op.features, window, strides, op.conv, name=f'separable_{suffix}')
        x = op.norm(name=f'bn_sep_{suffix}')(conv(nn.relu(x)))
    return x


def _dilated(op: Operation, x: jax.Array, window: int) -> jax.Array:
    """Returns a separable convolution of x with dilation 2."""
    suffix = f'{window}x{window}'
    conv = SeparableConv(op.features, window, op.strides, op.conv, 2, name=f'dilated_{suffix}')
    return op.norm(name=f'bn_dil_{suffix}')(conv(nn.relu(x)))


def _bottleneck(op: Operation, x: jax.Array, *windows: int | tuple[int, int]) -> jax.Array:
    """Returns convolutions of x at a quarter of the channels, between two 1x1 convolutions."""
    inner = max(op.features // 4, 1)
    x = op.conv(inner, 1, name='pre_1x1')(nn.relu(x))
    x = op.norm(name='pre_bn')(x)
    names = ['x'.join(map(str, pair(window))) for window in windows]
    for i, (window, name) in enumerate(zip(windows, names, strict=True)):
        strides = [op.strides if size > 1 else 1 for size in pair(window)]
        last = i == len(windows) - 1
        x = op.conv(inner, window, tuple(strides), name=name)(nn.relu(x))
        x = op.norm(name='bn' if last else f'bn_{"_".join(names)}')(x)
    x = op.conv(op.features, 1, name='post_1x1')(nn.relu(x))
    return op.norm(name='post_bn')(x)


def _pool(
    op: Operation, x: jax.Array, pool: Callable[..., jax.Array], window: int, padding: Padding
) -> jax.Array:
    x = pool(x, window, op.strides, padding)
    if x.shape[-1] != op.features:
        x = op.norm(name='bn_1')(op.conv(op.features, 1, name='1x1')(x))
    return x


def _max_of_zeros(x: jax.Array, window: int, strides: int, padding: Padding) -> jax.Array:
    """Returns maxima over windows that include the zeros of the padding."""
    pads = explicit_padding(padding, x.shape[1:3], pair(window), pair(strides))
    return max_pool(jnp.pad(x, ((0, 0), *pads, (0, 0))), window, strides, 'VALID')


OPERATIONS: dict[str, tuple[Any, ...]] = {
    # NASNet, PNASNet, AmoebaNet
    'identity': (_identity,),
    '1x1': (_project,),
    '3x3': (_bottleneck, 3),
    '1x3_3x1': (_bottleneck, (1, 3), (3, 1)),
    '1x7_7x1': (_bottleneck, (1, 7), (7, 1)),
    'sep_3x3': (_separable, 3),
    'sep_5x5': (_separable, 5),
    'sep_7x7': (_separable, 7),
    'avg_3x3': (_pool, avg_pool, 3, 'SAME'),
    'avg_3x3_zeros': (_pool, functools.partial(avg_pool, count_padding=True), 3, 'SAME'),
    'max_2x2': (_pool, max_pool, 2, 'SAME'),
    'max_3x3_zeros': (_pool, _max_of_zeros, 3, 'SAME'),
    'max_3x3': (_pool, max_pool, 3, 'SAME'),
    'max_5x5': (_pool, max_pool, 5, 'SAME'),
    'max_7x7': (_pool, max_pool, 7, 'SAME'),
    # DARTS
    'skip_connect': (_skip,),
    'sep_conv_3x3': (_separable, 3),
    'sep_conv_5x5': (_separable, 5),
    'dil_conv_3x3': (_dilated, 3),
    'dil_conv_5x5': (_dilated, 5),
    'avg_pool_3x3': (_pool, avg_pool, 3, 1),
    'max_pool_3x3': (_pool, max_pool, 3, 1),
    # NAS-Bench-201, together with 1x1, skip_connect and avg_pool_3x3
    'nor_conv_3x3': (_project, 3),
}


class Cell(nn.Module):
    """A cell of a network: state 0 is the previous cell, state 1 the cell before that.

    Both are projected to `features` channels, and state 1 is reduced to the resolution of state 0.
    The first cell of a network has one input, and its state 1 is the input unchanged.
    """

    spec: CellSpec
    features: int
    strides: int
    conv: Callable[..., nn.Module]  # with a convention of padding
    norm: Callable[..., nn.Module]
    always_project: bool = False  # state 1, even if it has the right shape (DARTS)

    @nn.compact
    def __call__(
        self, current: jax.Array, previous: jax.Array | None, drop_rate: jax.Array | float = 0.0
    ) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features * len(concat)).

        Args:
          current: output of the previous cell.
          previous: output of the cell before it, or None.
          drop_rate: drop rate of every path except identities (ScheduledDropPath, NASNet); 0.0 in
            evaluation. DARTS's skip_connect is an identity if its stride is 1.
        """
        adjusted = current if previous is None else self._adjust(previous, current)
        begin = self.conv(self.features, 1, name='1x1')(nn.relu(current))
        states = [self.norm(name='beginning_bn')(begin), adjusted]
        for i, (left, right) in enumerate(self.spec.nodes):
            name = f'comb_iter_{i}'
            left = self._edge(states, left, drop_rate, f'{name}.left')
            right = self._edge(states, right, drop_rate, f'{name}.right')
            states.append(left + right)
        return jnp.concatenate([self._output(states, i) for i in self.spec.concat], -1)

    def _adjust(self, previous, current):
        if previous.shape[2] != current.shape[2]:
            reduce = FactorizedReduction(self.features, self.conv, self.norm, name='prev_reduction')
            return reduce(nn.relu(previous))
        if self.always_project or previous.shape[-1] != self.features:
            projected = self.conv(self.features, 1, name='prev_1x1')(nn.relu(previous))
            return self.norm(name='prev_bn')(projected)
        return previous

    def _edge(self, states, edge, drop_rate, name):
        op, source = edge
        strides = self.strides if source < 2 else 1
        apply = Operation(op, self.features, strides, self.conv, self.norm, name=name)
        x = apply(states[source])
        spared = op == 'identity' or (op == 'skip_connect' and strides == 1)
        return x if spared else path_of(self, x, drop_rate)

    def _output(self, states, i):
        """Returns state i, reduced and projected to the shape of the last state."""
        x, last = states[i], states[-1]
        if x.shape[2] != last.shape[2]:
            reduce = FactorizedReduction(
                last.shape[-1], self.conv, self.norm, name=f'reduction_{i}'
            )
            return reduce(x)
        if x.shape[-1] != last.shape[-1]:
            projected = self.conv(last.shape[-1], 1, name=f'reduction_{i}.path_conv')(x)
            return self.norm(name=f'reduction_{i}.path_bn')(projected)
        return x


class AuxiliaryHead(nn.Module):
    """A classifier on an inner cell, for training only.

    The second convolution covers the whole output of the pool: 2x2 pixels for images of 8x8 or 7x7
    at this cell.
    """

    num_classes: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dtype: Any
    pool_strides: int = 3
    last_norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to logits (N, num_classes)."""
        x = nn.relu(x)
        x = avg_pool(x, min(5, *x.shape[1:3]), self.pool_strides)
        x = nn.relu(self.norm(name='aux_bn0')(self.conv(128, 1, name='proj')(x)))
        x = self.conv(768, x.shape[1:3], padding='VALID', name='Conv')(x)
        if self.last_norm:
            x = self.norm(name='aux_bn1')(x)
        return Dense(self.num_classes, dtype=self.dtype, name='FC')(nn.relu(x)[:, 0, 0])
