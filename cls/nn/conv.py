"""Convolution.

All images are NHWC and all kernels HWIO.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import init
from cls.nn.cpu import conv as cpu
from cls.nn.cpu.lowering import xla_conv
from cls.nn.padding import Padding, Size, explicit_padding, pair


class Conv(nn.Module):
    """Convolution of (N, H, W, I) images into (N, H', W', features), without bias by default.

    Parameters: `kernel` (h, w, I / groups, features), `bias` (features,); both float32.
    """

    features: int
    window: Size = 1
    strides: Size = 1
    padding: Padding = None
    groups: int = 1
    dilation: Size = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = init.he_normal_fan_out
    bias_init: Callable = init.zeros

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (*pair(self.window), images.shape[-1] // self.groups, self.features)
        kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
        out = conv(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            dilation=self.dilation,
        )
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
            out = out + bias.astype(self.dtype)
        return out


def conv(
    images: jax.Array,
    kernel: jax.Array,
    *,
    strides: Size = 1,
    padding: Padding = None,
    groups: int = 1,
    dilation: Size = 1,
) -> jax.Array:
    """Convolves (N, H, W, I) images with an (h, w, I / groups, O) kernel into (N, H', W', O)."""
    strides, dilation = pair(strides), pair(dilation)
    pads = explicit_padding(padding, images.shape[1:3], kernel.shape[:2], strides, dilation)
    if init.only_shapes():
        return xla_conv(images, kernel, strides, pads, dilation, groups)
    return cpu.conv(images, kernel, strides, pads, dilation, groups)
