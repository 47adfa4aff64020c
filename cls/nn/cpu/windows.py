"""Sums over windows as sums of shifted images."""

import jax.numpy as jnp
import numpy as np
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]


def output_size(images, window, strides, pads, dilation):
    axes = zip(images.shape[1:3], window, strides, pads, dilation, strict=True)
    return [(n + sum(pad) - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in axes]


def pad_images(images, pads, value=0, interior=(0, 0)):
    """Pads height and width (negative: crops), with `interior` values between pixels."""
    config = ((0, 0, 0), (*pads[0], interior[0]), (*pads[1], interior[1]), (0, 0, 0))
    return lax.pad(images, jnp.asarray(value, images.dtype), config)


def take_window(images, row, column, size, strides):
    """The pixels that tap (row, column) sees: (N, size[0], size[1], C)."""
    # Not by indexing, which takes far longer to trace: a net has thousands of these.
    rows, columns = (
        first + (n - 1) * stride + 1
        for first, n, stride in zip((row, column), size, strides, strict=True)
    )
    start, stop = (0, row, column, 0), (len(images), rows, columns, images.shape[-1])
    return lax.slice(images, start, stop, (1, *strides, 1))


def taps_of(images, window, strides, pads, dilation):
    """Yields (row, column, what it sees: (N, H', W', C)) of each tap that sees any of the image."""
    size = output_size(images, window, strides, pads, dilation)
    padded = pad_images(images, pads)
    for i, j in np.ndindex(window):
        corner = i * dilation[0], j * dilation[1]
        axes = zip(corner, size, strides, pads, images.shape[1:3], strict=True)
        if all(_sees_image(*axis) for axis in axes):
            yield i, j, take_window(padded, *corner, size, strides)


def _sees_image(first, size, stride, pad, length):
    """Whether a tap sees anything but padding, along one axis."""
    return any(0 <= first + n * stride - pad[0] < length for n in range(size))


def shift_and_add(images, kernel, strides, pads, dilation):
    """Depthwise convolution of (N, H, W, C) images with an (h, w, 1, C or 1) kernel."""
    taps = taps_of(images, kernel.shape[:2], strides, pads, dilation)
    size = output_size(images, kernel.shape[:2], strides, pads, dilation)
    total = jnp.zeros((len(images), *size, images.shape[-1]), images.dtype)
    for i, j, seen in taps:
        tap = lax.slice(kernel, (i, j, 0, 0), (i + 1, j + 1, *kernel.shape[2:]))
        total = lax.add(total, lax.mul(seen, jnp.broadcast_to(tap, total.shape)))
    return total


def transposed_pads(shape, window, grad_shape, strides, pads, dilation):
    """What pads a gradient, spread by the strides, so that a window sees all that saw a pixel."""
    sizes = (shape[1:3], window, grad_shape[1:3], strides, pads, dilation)
    around = []
    for n, k, m, s, (low, _), d in zip(*sizes, strict=True):
        before = d * (k - 1) - low
        spread = (m - 1) * s + 1
        around.append((before, n + d * (k - 1) - before - spread))
    return around


def depthwise_image_grad(shape, kernel, grad, strides, pads, dilation):
    """The transposed convolution: the flipped kernel over the gradient, spread by the strides."""
    around = transposed_pads(shape, kernel.shape[:2], grad.shape, strides, pads, dilation)
    spread = pad_images(grad, ((0, 0), (0, 0)), interior=(strides[0] - 1, strides[1] - 1))
    return shift_and_add(spread, kernel[::-1, ::-1], (1, 1), around, dilation)
