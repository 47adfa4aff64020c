"""Convolutions for loops: gradients in the form that XLA's library for CPU computes.

XLA's CPU compiler transposes the operands of convolutions into that form only outside of loops.
Inside, it computes the gradients of a plain convolution element by element, eight times slower.
"""

import functools

import jax
import jax.numpy as jnp

from cls.nn.cpu.lowering import by_platform, xla_conv
from cls.nn.cpu.windows import Pads


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(images: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Returns the convolution (N, H', W', O) of images with a kernel, with stride 1.

    Args:
      images: (N, H, W, I).
      kernel: (h, w, I, O).
      pads: ((top, bottom), (left, right)) in pixels.
    """
    return xla_conv(images, kernel, (1, 1), pads)


def _forward(images, kernel, pads):
    return conv(images, kernel, pads), (images, kernel)


def _backward(pads, residuals, grad):
    def xla(images, kernel, grad):
        forward = functools.partial(xla_conv, strides=(1, 1), pads=pads)
        return jax.vjp(forward, images, kernel)[1](grad)

    return by_platform(functools.partial(_gradients, pads=pads), xla, *residuals, grad)


def _gradients(images, kernel, grad, pads):
    """Returns the gradients as forward convolutions of transposed operands."""
    mirrored = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    back = [(n - 1 - low, n - 1 - high) for n, (low, high) in zip(kernel.shape, pads, strict=False)]
    d_images = xla_conv(grad, mirrored, (1, 1), back)
    # Channels are the examples of this convolution, and examples its channels.
    d_kernel = xla_conv(jnp.swapaxes(images, 0, 3), jnp.moveaxis(grad, 0, 2), (1, 1), pads)
    return d_images, jnp.moveaxis(d_kernel, 0, 2)


conv.defvjp(_forward, _backward)
