"""The residual function of a pre-activation ResNeXt unit, for systems that change what is added."""

from collections.abc import Callable

import flax.linen as nn
import jax


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
