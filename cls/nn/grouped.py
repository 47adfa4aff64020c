"""Parts of DPN (1707.01629) and CRU-Net (1703.02180), pre-activation ResNeXts by the same hand."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.pool import max_pool
from cls.nn.units import ConvNorm, NormConv


def layers(net: nn.Module, train: bool) -> tuple[Callable, Callable, Callable]:
    """Returns what makes the net's convolutions, normalisations and NormConvs.

    Epsilon is 1e-3, the default of MXNet, which the authors use.

    Args:
      net: the module that these are a part of; has `bn_group` and `dtype`.
      train: whether normalisation is by the batch's statistics.
    """
    conv = functools.partial(Conv, dtype=net.dtype, kernel_init=init.he_normal)
    norm = functools.partial(BatchNorm, train, epsilon=1e-3, group=net.bn_group, dtype=net.dtype)
    return conv, norm, functools.partial(NormConv, conv=conv, norm=norm)


def stem(net: nn.Module, images: jax.Array, conv: Callable, norm: Callable, window: int = 7):
    """A convolution to `net.stem_features` channels and a 3x3 max pool, each with stride 2."""
    x = ConvNorm(net.stem_features, window, conv, norm, strides=2, name='conv1')(images)
    x = max_pool(x, 3, 2, padding=1)
    net.sow('intermediates', 'stem', x)
    return x


def bottleneck(
    unit: Callable[..., nn.Module],
    x: jax.Array,
    inner: int,
    features: int,
    strides: int,
    groups: int,
) -> jax.Array:
    """1x1, 3x3 grouped and 1x1 convolutions: submodules conv1, conv2, conv3 of the caller.

    Xie et al. 2017 (1611.05431), with normalisation and rectifier before each convolution.

    Args:
      unit: makes a NormConv of (features, window, strides=, groups=, name=).
      x: (N, H, W, C).
      inner: channels of the first two.
      features: channels of the last.
      strides: of the 3x3 convolution.
      groups: of the 3x3 convolution.

    Returns:
      (N, H / strides, W / strides, features), rounded up.
    """
    x, _ = unit(inner, 1, name='conv1')(x)
    x, _ = unit(inner, 3, strides=strides, groups=groups, name='conv2')(x)
    x, _ = unit(features, 1, name='conv3')(x)
    return x
