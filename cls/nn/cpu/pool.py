"""Pools as operations on shifted images on CPU, where XLA's window reductions are slow.

The gradient of XLA's max pool is slower still (`python -m cls.tools.benchmark layers` measures
it). Results are the same: at ties the gradient of a max pool goes to the first maximum of the
window, as in XLA and PyTorch. Programs for other platforms contain XLA's reductions.
"""

import functools

import jax
import jax.numpy as jnp

from cls.nn.cpu import compact
from cls.nn.cpu.lowering import by_platform, jitted, xla_max_pool, xla_sum_pool
from cls.nn.cpu.windows import (
    Pads,
    depthwise_image_grad,
    output_size,
    pad_images,
    shift_and_add,
    take_window,
    transposed_pads,
)


def max_pool(
    images: jax.Array, window: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """Returns the maxima (N, H', W', C) over windows of images; padding never wins.

    Args:
      images: (N, H, W, C).
      window: height and width.
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
    """
    if 0 in (images.size, *output_size(images, window, strides, pads, (1, 1))):
        return xla_max_pool(images, window, strides, pads)
    return _max_pool_jitted(images, window, strides, pads)


def sum_pool(
    images: jax.Array, window: tuple[int, int], strides: tuple[int, int], pads: Pads
) -> jax.Array:
    """Returns the sums (N, H', W', C) over windows of images; arguments as for `max_pool`.

    Within `compact.few_operations`, small images take that form, on every platform.
    """
    size = output_size(images, window, strides, pads, (1, 1))
    if 0 in (images.size, *size):
        return xla_sum_pool(images, window, strides, pads)
    if compact.fits(images.shape[1:3], size):
        return compact.sum_pool(images, tuple(size), window, strides, pads)
    return _sum_pool_jitted(images, window, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _sum_pool(images, window, strides, pads):
    def shifts(images):
        return shift_and_add(images, _ones(window, images), strides, pads, (1, 1))

    xla = functools.partial(xla_sum_pool, window=window, strides=strides, pads=pads)
    return by_platform(shifts, xla, images)


def _ones(window, images):
    return jnp.ones((*window, 1, 1), images.dtype)


def _sum_pool_forward(images, window, strides, pads):
    return _sum_pool(images, window, strides, pads), images


def _sum_pool_backward(window, strides, pads, images, grad):
    def shifts(images, grad):
        ones = _ones(window, images)
        return depthwise_image_grad(images.shape, ones, grad, strides, pads, (1, 1))

    def xla(images, grad):
        forward = functools.partial(xla_sum_pool, window=window, strides=strides, pads=pads)
        return jax.vjp(forward, images)[1](grad)[0]

    return (by_platform(shifts, xla, images, grad),)


_sum_pool.defvjp(_sum_pool_forward, _sum_pool_backward)
_sum_pool_jitted = jitted(_sum_pool, static_argnums=(1, 2, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(images, window, strides, pads):
    def shifts(images):
        return functools.reduce(jnp.maximum, _seen(images, window, strides, pads))

    xla = functools.partial(xla_max_pool, window=window, strides=strides, pads=pads)
    return by_platform(shifts, xla, images)


def _seen(images, window, strides, pads):
    """Returns the pixels (N, H', W', C) that each tap sees, from first to last."""
    padded = pad_images(images, pads, -jnp.inf)
    size = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], window, strides, strict=True)]
    return [
        take_window(padded, i, j, size, strides) for i in range(window[0]) for j in range(window[1])
    ]


def _max_pool_forward(images, window, strides, pads):
    return _max_pool(images, window, strides, pads), images


def _max_pool_backward(window, strides, pads, images, grad):
    def shifts(images, grad):
        seen = _seen(images, window, strides, pads)
        top = functools.reduce(jnp.maximum, seen)
        # From the last tap to the first, so that the first maximum overwrites later ones.
        winner = jnp.full(top.shape, -1, jnp.int16)
        for position in reversed(range(len(seen))):
            winner = jnp.where(seen[position] == top, jnp.int16(position), winner)
        return _max_pool_image_grad(images.shape, winner, grad, window, strides, pads)

    def xla(images, grad):
        forward = functools.partial(xla_max_pool, window=window, strides=strides, pads=pads)
        return jax.vjp(forward, images)[1](grad)[0]

    return (by_platform(shifts, xla, images, grad),)


def _max_pool_image_grad(shape, winner, grad, window, strides, pads):
    """Returns for every pixel the sum of the gradients of the windows that it was the maximum of.

    Args:
      shape: shape of the images.
      winner: int16 (N, H', W', C), the tap of each window's maximum.
      grad: (N, H', W', C), of the loss with respect to the outputs.
      window: height and width.
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
    """
    around = transposed_pads(shape, window, grad.shape, strides, pads, (1, 1))
    interior = (strides[0] - 1, strides[1] - 1)
    spread = pad_images(grad, around, 0, interior)
    winners = pad_images(winner, around, -1, interior)
    total = 0
    for i in range(window[0]):
        for j in range(window[1]):
            position = (window[0] - 1 - i) * window[1] + (window[1] - 1 - j)
            of_window = take_window(spread, i, j, shape[1:3], (1, 1))
            won = take_window(winners, i, j, shape[1:3], (1, 1)) == position
            total = total + jnp.where(won, of_window, 0)
    return total


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
_max_pool_jitted = jitted(_max_pool, static_argnums=(1, 2, 3))
