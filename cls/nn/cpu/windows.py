"""Sums over windows as sums of shifted images.

A tap is one position (row, column) of a window. Over all outputs it sees a strided part of the
padded image, the size of the output.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def output_size(
    images: jax.Array, window: Sequence[int], strides: Pair, pads: Pads, dilation: Pair
) -> list[int]:
    """Returns the height and width of a convolution or pool of (N, H, W, C) images.

    0 where the window is larger than the padded images, as in XLA.
    """
    axes = zip(images.shape[1:3], window, strides, pads, dilation, strict=True)
    return [max((n + sum(pad) - d * (k - 1) - 1) // s + 1, 0) for n, k, s, pad, d in axes]


def pad_images(
    images: jax.Array, pads: Pads, value: float = 0, interior: Pair = (0, 0)
) -> jax.Array:
    """Returns images with `value` around them and, `interior` times, between their pixels.

    Negative pads crop.
    """
    config = ((0, 0, 0), (*pads[0], interior[0]), (*pads[1], interior[1]), (0, 0, 0))
    return lax.pad(images, jnp.asarray(value, images.dtype), config)


def cropped(images: jax.Array, pads: Pads) -> tuple[jax.Array, Pads]:
    """Returns images without the pixels that negative pads crop, and the remaining pads."""
    negative = [(min(low, 0), min(high, 0)) for low, high in pads]
    rows, columns = ((max(low, 0), max(high, 0)) for low, high in pads)
    return pad_images(images, (negative[0], negative[1])), (rows, columns)


def take_window(
    images: jax.Array, row: int, column: int, size: Sequence[int], strides: Pair
) -> jax.Array:
    """Returns the pixels that the tap (row, column) sees: (N, size[0], size[1], C)."""
    # Not by indexing, which takes far longer to trace: a network has thousands of these.
    rows, columns = (
        first + (n - 1) * stride + 1
        for first, n, stride in zip((row, column), size, strides, strict=True)
    )
    start, stop = (0, row, column, 0), (len(images), rows, columns, images.shape[-1])
    return lax.slice(images, start, stop, (1, *strides, 1))


def taps_of(
    images: jax.Array, window: Sequence[int], strides: Pair, pads: Pads, dilation: Pair
) -> Iterator[tuple[int, int, jax.Array]]:
    """Yields (row, column, pixels (N, H', W', C)) of each tap that sees a part of the image."""
    size = output_size(images, window, strides, pads, dilation)
    padded = pad_images(images, pads)
    for i, j in np.ndindex(*window):
        corner = i * dilation[0], j * dilation[1]
        axes = zip(corner, size, strides, pads, images.shape[1:3], strict=True)
        if all(_sees_image(*axis) for axis in axes):
            yield i, j, take_window(padded, *corner, size, strides)


def _sees_image(first, size, stride, pad, length):
    """Returns whether a tap sees anything but padding, along one axis."""
    return any(0 <= first + n * stride - pad[0] < length for n in range(size))


def shift_and_add(
    images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, dilation: Pair
) -> jax.Array:
    """Returns the depthwise convolution of (N, H, W, C) with an (h, w, 1, C or 1) kernel."""
    taps = taps_of(images, kernel.shape[:2], strides, pads, dilation)
    size = output_size(images, kernel.shape[:2], strides, pads, dilation)
    total = jnp.zeros((len(images), *size, images.shape[-1]), images.dtype)
    for i, j, seen in taps:
        tap = lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, *kernel.shape[2:]))
        total = lax.add(total, lax.mul(seen, jnp.broadcast_to(tap, total.shape)))
    return total


def transposed_pads(
    shape: Sequence[int],
    window: Sequence[int],
    grad_shape: Sequence[int],
    strides: Pair,
    pads: Pads,
    dilation: Pair,
) -> Pads:
    """Returns the padding of a gradient, spread by the strides, for a transposed convolution.

    With it, the window of a pixel covers all outputs that saw the pixel.

    Args:
      shape: shape of the images.
      window: height and width.
      grad_shape: shape of the gradient with respect to the outputs.
      strides: strides of the forward pass, as `pads` and `dilation`.
      pads: padding in pixels.
      dilation: dilation in height and width.
    """
    sizes = (shape[1:3], window, grad_shape[1:3], strides, pads, dilation)
    rows, columns = (_transposed_pad(*axis) for axis in zip(*sizes, strict=True))
    return rows, columns


def _transposed_pad(n, k, m, s, pad, d) -> Pair:
    """Returns `transposed_pads` along one axis."""
    before = d * (k - 1) - pad[0]
    spread = (m - 1) * s + 1
    return before, n + d * (k - 1) - before - spread


def depthwise_image_grad(
    shape: Sequence[int],
    kernel: jax.Array,
    grad: jax.Array,
    strides: Pair,
    pads: Pads,
    dilation: Pair,
) -> jax.Array:
    """Returns the gradient of `shift_and_add` with respect to the images.

    It is the transposed convolution: the flipped kernel over the gradient, spread by the strides.
    """
    around = transposed_pads(shape, kernel.shape[:2], grad.shape, strides, pads, dilation)
    spread = pad_images(grad, ((0, 0), (0, 0)), interior=(strides[0] - 1, strides[1] - 1))
    return shift_and_add(spread, kernel[::-1, ::-1], (1, 1), around, dilation)
