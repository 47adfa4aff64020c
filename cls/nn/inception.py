"""Inception blocks as data: branches side by side, their outputs concatenated.

A block is a table, name -> steps of that branch. A step is a `Unit` (convolution, norm, rectifier),
several of them side by side, or a function without parameters, such as a pool. The parameters of
step k of the branch `b` are under `b.k`, of a branch that has but one step under `b`; units side by
side are `b.ka`, `b.kb`, .... Szegedy et al. 2016 (1512.00567, figures 5 to 7, 10) and 2017
(1602.07261, figures 3 to 19) draw such tables.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.nn.padding import Padding, Size
from cls.nn.pool import avg_pool, max_pool
from cls.nn.units import ConvNorm


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution with norm and rectifier, as `ConvNorm` takes it."""

    features: int
    window: Size
    strides: int = 1
    padding: Padding = None


Pool = Callable[[jax.Array], jax.Array]
Step = Unit | tuple[Unit, ...] | Pool
Branches = Mapping[str, tuple[Step, ...]]
MakeUnit = Callable[..., nn.Module]  # (unit, name=) -> module

# The pools of all tables: between layers of one resolution, and to half of it.
AVERAGE = functools.partial(avg_pool, window=3, strides=1, padding=1)
MAX = functools.partial(max_pool, window=3, strides=2)

# From 299 pixels to 35 (Inception-v3, and Inception-ResNet-v2 as it was released).
STEM = {
    'conv2d_1a': Unit(32, 3, 2, 'VALID'),
    'conv2d_2a': Unit(32, 3, 1, 'VALID'),
    'conv2d_2b': Unit(64, 3),
    'maxpool_3a': MAX,
    'conv2d_3b': Unit(80, 1),
    'conv2d_4a': Unit(192, 3, 1, 'VALID'),
    'maxpool_5a': MAX,
}
# Not the papers': for images of 16 to 32 pixels, which the blocks then reduce as they do 35.
SMALL_STEM = {'conv2d_1a': Unit(64, 3)}


def make_unit(
    unit: Unit, name: str, *, conv: Callable, norm: Callable, width: float = 1.0
) -> ConvNorm:
    """Returns the module of a unit with `width` times its features, rounded down, at least one."""
    features = max(1, int(unit.features * width))
    return ConvNorm(features, unit.window, conv, norm, unit.strides, unit.padding, name=name)


def layers(net: nn.Module, train: bool, kernel_init: Callable) -> tuple[Callable, Callable]:
    """Returns what makes a net's convolutions (`conv`) and units (`unit`, see `make_unit`).

    Epsilon is TF-Slim's, 1e-3.

    Args:
      net: the module that these are a part of; has `width`, `bn_momentum`, `bn_group` and `dtype`.
      train: whether normalisation is by the batch's statistics.
      kernel_init: of the convolutions.
    """
    conv = functools.partial(Conv, dtype=net.dtype, kernel_init=kernel_init)
    norm = functools.partial(
        BatchNorm,
        train,
        momentum=net.bn_momentum,
        epsilon=1e-3,
        group=net.bn_group,
        dtype=net.dtype,
    )
    return conv, functools.partial(make_unit, conv=conv, norm=norm, width=net.width)


def chain(x: jax.Array, steps: Mapping[str, Step], unit: MakeUnit) -> jax.Array:
    """Applies named steps to x (N, H, W, C), one after the other, in the calling module."""
    for name, step in steps.items():
        if isinstance(step, Unit):
            x = unit(step, name=name)(x)
        elif isinstance(step, tuple):
            named = zip('abcd', step, strict=False)
            x = jnp.concatenate([unit(one, name=name + letter)(x) for letter, one in named], -1)
        else:
            x = step(x)
    return x


def branch(x: jax.Array, name: str, steps: tuple[Step, ...], unit: MakeUnit) -> jax.Array:
    """Applies the steps of a branch; see the module for their names."""
    names = [f'{name}.{k}' for k in range(len(steps))] if len(steps) > 1 else [name]
    return chain(x, dict(zip(names, steps, strict=True)), unit)


def concatenated(x: jax.Array, branches: Branches, unit: MakeUnit) -> jax.Array:
    """Applies all branches to x (N, H, W, C) and concatenates what they give by channels."""
    outputs = [branch(x, name, steps, unit) for name, steps in branches.items()]
    return jnp.concatenate(outputs, -1)


class Mixed(nn.Module):
    """A block of branches: (N, H, W, C) to (N, H', W', the sum of the branches' channels)."""

    branches: Branches
    unit: MakeUnit

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return concatenated(x, self.branches, self.unit)


class ScaledResidual(nn.Module):
    """Adds `scale` times a block, brought to x's channels by a 1x1 convolution with bias, to x.

    1602.07261, section 3.3: with more than a thousand channels, unscaled sums do not train. The
    convolution has neither norm nor rectifier; `act` follows the sum. Keeps the shape.
    """

    branches: Branches
    unit: MakeUnit
    conv: Callable[..., nn.Module]
    scale: float
    act: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = concatenated(x, self.branches, self.unit)
        y = self.conv(x.shape[-1], 1, use_bias=True, name='conv2d')(y)
        x = x + self.scale * y
        return x if self.act is None else self.act(x)


def head(net: nn.Module, x: jax.Array, train: bool, name: str, kernel_init: Callable) -> jax.Array:
    """The mean over all pixels, dropout, and a linear layer to float32 logits.

    Args:
      net: the module that this is a part of; has `num_classes`, `dropout_rate` and `dtype`.
      x: (N, H, W, C).
      train: whether dropout is on.
      name: of the linear layer.
      kernel_init: its initialiser.
    """
    x = jnp.mean(x, (1, 2))
    net.sow('intermediates', 'pre_logits', x)
    x = nn.Dropout(net.dropout_rate, deterministic=not train)(x)
    dense = Dense(net.num_classes, dtype=net.dtype, kernel_init=kernel_init, name=name)
    return dense(x).astype(jnp.float32)
