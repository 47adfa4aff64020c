"""Inception blocks as data: parallel branches with concatenated outputs.

A block is a table from names of branches to their steps. A step is a `Unit` (convolution,
normalization, rectifier), a tuple of parallel units, or a function without parameters, such as a
pool. Parameters of step k of the branch `b` are under `b.k`, those of the only step of a branch
under `b`, and those of parallel units under `b.ka`, `b.kb`, .... The tables follow the figures of
Szegedy et al. 2016 (1512.00567, figures 5 to 7 and 10) and 2017 (1602.07261, figures 3 to 19).
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
    """The fields of a `ConvNorm`: a convolution with normalization and rectifier."""

    features: int
    window: Size
    strides: int = 1
    padding: Padding = None


Pool = Callable[[jax.Array], jax.Array]
Step = Unit | tuple[Unit, ...] | Pool
Branches = Mapping[str, tuple[Step, ...]]
MakeUnit = Callable[..., nn.Module]  # (unit, name=) -> module

# The pools of all tables: at the same resolution, and to half of it.
AVERAGE = functools.partial(avg_pool, window=3, strides=1, padding=1)
MAX = functools.partial(max_pool, window=3, strides=2)

# From 299 pixels to 35 (Inception-v3, and the released Inception-ResNet-v2).
STEM = {
    'conv2d_1a': Unit(32, 3, 2, 'VALID'),
    'conv2d_2a': Unit(32, 3, 1, 'VALID'),
    'conv2d_2b': Unit(64, 3),
    'maxpool_3a': MAX,
    'conv2d_3b': Unit(80, 1),
    'conv2d_4a': Unit(192, 3, 1, 'VALID'),
    'maxpool_5a': MAX,
}
# Not from the papers: for images of 16 to 32 pixels, in place of the 35 pixels after `STEM`.
SMALL_STEM = {'conv2d_1a': Unit(64, 3)}


def make_unit(
    unit: Unit, name: str, *, conv: Callable, norm: Callable, width: float = 1.0
) -> ConvNorm:
    """Returns the module of a unit, with `width` times its features, rounded down, at least 1."""
    features = max(1, int(unit.features * width))
    return ConvNorm(features, unit.window, conv, norm, unit.strides, unit.padding, name=name)


def layers(module: nn.Module, train: bool, kernel_init: Callable) -> tuple[Callable, Callable]:
    """Returns constructors of a network's convolutions and units (see `make_unit`).

    Epsilon is TF-Slim's, 1e-3.

    Args:
      module: the network; has `width`, `bn_momentum`, `bn_group` and `dtype`.
      train: whether the statistics of the batch normalize it.
      kernel_init: initializer of the convolutions.
    """
    conv = functools.partial(Conv, dtype=module.dtype, kernel_init=kernel_init)
    norm = functools.partial(
        BatchNorm,
        train,
        momentum=module.bn_momentum,
        epsilon=1e-3,
        group=module.bn_group,
        dtype=module.dtype,
    )
    return conv, functools.partial(make_unit, conv=conv, norm=norm, width=module.width)


def chain(x: jax.Array, steps: Mapping[str, Step], unit: MakeUnit) -> jax.Array:
    """Returns x (N, H, W, C) after all steps, in order; their modules are those of the caller."""
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
    """Returns x (N, H, W, C) after the steps of a branch, named as the module says."""
    names = [f'{name}.{k}' for k in range(len(steps))] if len(steps) > 1 else [name]
    return chain(x, dict(zip(names, steps, strict=True)), unit)


def concatenated(x: jax.Array, branches: Branches, unit: MakeUnit) -> jax.Array:
    """Returns the outputs of all branches for x (N, H, W, C), concatenated by channels."""
    outputs = [branch(x, name, steps, unit) for name, steps in branches.items()]
    return jnp.concatenate(outputs, -1)


class Mixed(nn.Module):
    """A block of branches."""

    branches: Branches
    unit: MakeUnit

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', channels of all branches together)."""
        return concatenated(x, self.branches, self.unit)


class ScaledResidual(nn.Module):
    """A residual block, act(x + scale * y), y a 1x1 convolution of concatenated branches.

    1602.07261, section 3.3: with more than a thousand channels, networks with unscaled sums do not
    train. The convolution has a bias, no normalization and no rectifier.
    """

    branches: Branches
    unit: MakeUnit
    conv: Callable[..., nn.Module]
    scale: float
    act: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        y = concatenated(x, self.branches, self.unit)
        y = self.conv(x.shape[-1], 1, use_bias=True, name='conv2d')(y)
        x = x + self.scale * y
        return x if self.act is None else self.act(x)


def head(
    module: nn.Module, x: jax.Array, train: bool, name: str, kernel_init: Callable
) -> jax.Array:
    """Returns float32 logits (N, num_classes): the mean over all pixels, dropout, a linear layer.

    The mean is sown as `pre_logits`.

    Args:
      module: the network; has `num_classes`, `dropout_rate` and `dtype`.
      x: (N, H, W, C).
      train: whether dropout is on.
      name: name of the linear layer.
      kernel_init: initializer of the linear layer.
    """
    x = jnp.mean(x, (1, 2))
    module.sow('intermediates', 'pre_logits', x)
    x = nn.Dropout(module.dropout_rate, deterministic=not train)(x)
    dense = Dense(module.num_classes, dtype=module.dtype, kernel_init=kernel_init, name=name)
    return dense(x).astype(jnp.float32)
