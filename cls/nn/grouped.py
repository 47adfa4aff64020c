"""Common parts of DPN (1707.01629) and CRU-Net (1703.02180), two pre-activation ResNeXts."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import max_pool
from cls.nn.units import ConvNorm, NormConv


def layers(module: nn.Module, train: bool) -> tuple[Callable, Callable, Callable]:
    """Returns constructors of a network's convolutions, normalizations and NormConvs.

    Epsilon is 1e-3, the default of MXNet, the authors' framework.

    Args:
      module: the network; has `bn_group` and `dtype`.
      train: whether the statistics of the batch normalize it.
    """
    conv = functools.partial(Conv, dtype=module.dtype, kernel_init=init.he_normal)
    norm = functools.partial(
        BatchNorm, train, epsilon=1e-3, group=module.bn_group, dtype=module.dtype
    )
    return conv, norm, functools.partial(NormConv, conv=conv, norm=norm)


def stem(
    module: nn.Module, images: jax.Array, conv: Callable, norm: Callable, window: int = 7
) -> jax.Array:
    """Returns a convolution to `module.stem_features` channels and a 3x3 max pool of images.

    Each has stride 2. The result is sown as `stem`.

    Args:
      module: the network.
      images: (N, H, W, C).
      conv: constructor of convolutions, see `layers`.
      norm: constructor of normalizations.
      window: window of the convolution.

    Returns:
      (N, H / 4, W / 4, stem_features), rounded up twice.
    """
    x = ConvNorm(module.stem_features, window, conv, norm, strides=2, name='conv1')(images)
    x = max_pool(x, 3, 2, padding=1)
    module.sow('intermediates', 'stem', x)
    return x


def bottleneck(
    unit: Any,
    x: jax.Array,
    inner: int,
    features: int | tuple[int, ...],
    strides: int,
    groups: int,
) -> jax.Array:
    """Returns 1x1, 3x3 grouped and 1x1 convolutions of x: submodules conv1, conv2, conv3.

    Xie et al. 2017 (1611.05431), with normalization and rectifier before each convolution.

    Args:
      unit: constructor of NormConvs, (features, window, strides=, groups=, name=).
      x: (N, H, W, C).
      inner: channels of the first two convolutions.
      features: channels of the last; several numbers for as many convolutions, `conv3.conv1` and
        so on, of which the outputs are concatenated.
      strides: strides of the 3x3 convolution.
      groups: number of groups of the 3x3 convolution.

    Returns:
      (N, H / strides, W / strides, features), rounded up.
    """
    x, _ = unit(inner, 1, name='conv1')(x)
    x, _ = unit(inner, 3, strides=strides, groups=groups, name='conv2')(x)
    if isinstance(features, int):
        x, _ = unit(features, 1, name='conv3')(x)
        return x
    return _Split(features, unit.keywords['conv'], unit.keywords['norm'], name='conv3')(x)


class _Split(nn.Module):
    """A normalization, a rectifier and several 1x1 convolutions; `bn` and `conv1`, ...."""

    features: tuple[int, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C'), the concatenated outputs."""
        x = nn.relu(self.norm(name='bn')(x))
        parts = [self.conv(size, 1, name=f'conv{i}')(x) for i, size in enumerate(self.features, 1)]
        return jnp.concatenate(parts, -1)
