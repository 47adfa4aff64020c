"""Pooling over windows and bins.

Paddings are named by their convention (`cls.nn.padding`). Programs for TPU and GPU contain XLA's
window reductions; on CPU, `cls.nn.cpu.pool` replaces them by faster forms with the same results.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cls.nn import init
from cls.nn.cpu import pool as cpu
from cls.nn.cpu.lowering import is_portable, xla_max_pool, xla_sum_pool
from cls.nn.padding import Padding, Size, explicit_padding, pair, pooling_padding


def max_pool(
    images: jax.Array,
    window: Size,
    strides: Size,
    padding: Padding = 'VALID',
    ceil_mode: bool = False,
) -> jax.Array:
    """Returns the maxima (N, H', W', C) over windows of images; padding never wins.

    The gradient of a window goes to its first maximum.

    Args:
      images: (N, H, W, C).
      window: one number, or (height, width).
      strides: as `window`.
      padding: the convention, see `cls.nn.padding`.
      ceil_mode: whether a last window counts that starts inside the image and overhangs it (Caffe,
        and PyTorch's ceil_mode).
    """
    window, strides = pair(window), pair(strides)
    pads = pooling_padding(padding, images.shape[1:3], window, strides, ceil_mode)
    if init.only_shapes() or is_portable():
        return xla_max_pool(images, window, strides, pads)
    return cpu.max_pool(images, window, strides, pads)


def avg_pool(
    images: jax.Array,
    window: Size,
    strides: Size,
    padding: Padding = 'VALID',
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> jax.Array:
    """Returns the means (N, H', W', C) over windows of images.

    Args:
      images: (N, H, W, C).
      window: one number, or (height, width).
      strides: as `window`.
      padding: the convention, see `cls.nn.padding`.
      ceil_mode: as in `max_pool`.
      count_padding: whether padded zeros count in the mean (PyTorch's default) or only pixels of
        the image (TensorFlow). The overhang of ceil_mode never counts.
    """
    window, strides = pair(window), pair(strides)
    size = images.shape[1:3]
    pads = pooling_padding(padding, size, window, strides, ceil_mode)
    counted = explicit_padding(padding, size, window, strides) if count_padding else ((0, 0),) * 2
    if init.only_shapes():
        return xla_sum_pool(images, window, strides, pads)
    if is_portable():
        total = xla_sum_pool(images, window, strides, pads)
        if pads == ((0, 0), (0, 0)):  # needs no size, which may be symbolic
            return total / (window[0] * window[1])
    else:
        total = cpu.sum_pool(images, window, strides, pads)
    rows, columns = (
        _counts(*along) for along in zip(size, window, strides, pads, counted, strict=True)
    )
    count = jnp.asarray(rows)[:, None, None] * jnp.asarray(columns)[:, None]
    return total / count.astype(images.dtype)


def adaptive_avg_pool(images: jax.Array, size: int) -> jax.Array:
    """Returns the means over size x size bins of images (N, H, W, C): (N, size, size, C).

    Bin i goes from floor(i n / size) to ceil((i + 1) n / size), as in PyTorch's adaptive pools and
    in spatial pyramid pooling (He et al. 2014, 1406.4729). Adjacent bins may share a pixel.
    """
    return _by_bins(_by_bins(images, size, 1, jnp.mean), size, 2, jnp.mean)


def adaptive_max_pool(images: jax.Array, size: int) -> jax.Array:
    """Returns the maxima over the bins of `adaptive_avg_pool`, (N, size, size, C)."""
    return _by_bins(_by_bins(images, size, 1, jnp.max), size, 2, jnp.max)


def over_windows(
    images: jax.Array, size: Size, function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Returns the values of a function on all windows of images, at stride 1.

    Raises ValueError for windows larger than the images.

    Args:
      images: (N, H, W, C).
      size: height and width (h, w) of the windows, no larger than the images.
      function: maps a window (N, h, w, C) to (N, F).

    Returns:
      (N, (H - h + 1) * (W - w + 1), F), row by row.
    """
    height, width = pair(size)
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    if rows < 1 or columns < 1:
        raise ValueError(f'windows of {height} x {width} in images of {images.shape[1:3]}')

    def at(position):
        top, left = position // columns, position % columns
        shape = (images.shape[0], height, width, images.shape[3])
        return function(lax.dynamic_slice(images, (0, top, left, 0), shape))

    return lax.map(at, jnp.arange(rows * columns)).swapaxes(0, 1)


def _by_bins(images, size, axis, reduce):
    length = images.shape[axis]
    if length == size:
        return images
    edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    bins = [lax.slice_in_dim(images, start, stop, axis=axis) for start, stop in edges]
    return jnp.concatenate([reduce(x, axis, keepdims=True) for x in bins], axis)


def _counts(size, window, stride, pad, counted) -> list[int]:
    """Returns the number of pixels that count in each window along one axis."""
    low, high = -counted[0], size + counted[1]
    outputs = (size + sum(pad) - window) // stride + 1
    starts = (i * stride - pad[0] for i in range(outputs))
    return [min(start + window, high) - max(start, low) for start in starts]
