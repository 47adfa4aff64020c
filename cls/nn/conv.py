"""Convolution: the module `Conv` and the function `conv`.

Images are NHWC, kernels HWIO, and paddings are named by their convention (`cls.nn.padding`).
Programs for TPU and GPU contain XLA's convolution, whichever machine compiles them. On CPU,
`cls.nn.cpu.conv` replaces the forms that XLA is slow at; results and gradients agree up to
rounding.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import expansion, folding, init
from cls.nn.cpu import conv as cpu
from cls.nn.cpu.lowering import is_portable, xla_conv
from cls.nn.cpu.windows import cropped
from cls.nn.padding import Padding, Size, explicit_padding, pair


class Conv(nn.Module):
    """A convolution from (N, H, W, I) images to (N, H', W', features), without bias by default.

    Parameters: `kernel` (h, w, I / groups, features) and, with `use_bias`, `bias` (features,), both
    float32. The result has the type `dtype`, to which images and parameters are cast.
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
        """Maps (N, H, W, I) to (N, H', W', features)."""
        shape = (*pair(self.window), images.shape[-1] // self.groups, self.features)
        kernel = init.parameter(self, 'kernel', self.kernel_init, shape)
        out = conv(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
            dilation=self.dilation,
        )
        if self.use_bias:
            bias = init.parameter(self, 'bias', self.bias_init, (self.features,))
            if folding.is_tracing() and out.dtype == jnp.float32:
                return folding.scale_and_shift(out, jnp.ones_like(bias), bias)
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
    """Returns the convolution (N, H', W', O) of images with a kernel.

    Args:
      images: (N, H, W, I).
      kernel: (h, w, I / groups, O), of the same type.
      strides: one number, or (height, width).
      padding: the convention, see `cls.nn.padding`; negative numbers of pixels crop.
      groups: groups of channels that are convolved separately; I for a depthwise convolution.
      dilation: distance in pixels between neighboring taps of the kernel, as `strides`.
    """
    strides, dilation = pair(strides), pair(dilation)
    pads = explicit_padding(padding, images.shape[1:3], kernel.shape[:2], strides, dilation)
    if min(*pads[0], *pads[1]) < 0:  # XLA's gradients of such kernels are wrong on CPU
        images, pads = cropped(images, pads)
    if init.only_shapes() or is_portable():
        return xla_conv(images, kernel, strides, pads, dilation, groups)
    out = cpu.conv(images, kernel, strides, pads, dilation, groups)
    expansion.note(out, images, kernel, strides, pads)
    return out
