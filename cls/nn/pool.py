"""Pooling over windows, with the padding conventions of cls.nn.conv and exact fast CPU forms.

XLA's CPU backend is slow on windowed reductions and slower still on the max pool's gradient
(`python -m cls.tools.benchmark --layers` measures it). As in cls.nn.conv, the CPU program is made
of shifted images instead, with the same results; ties in a max pool send the gradient to the
window's first maximum, as XLA and PyTorch do.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cls.nn import init
from cls.nn.conv import (
    Padding,
    Pads,
    Size,
    by_platform,
    depthwise_image_grad,
    explicit_padding,
    pad_images,
    pair,
    shift_and_add,
    take_window,
    transposed_pads,
)
from cls.nn.cpu import compact


def max_pool(
    images: jax.Array,
    window: Size,
    strides: Size,
    padding: Padding = 'VALID',
    ceil_mode: bool = False,
) -> jax.Array:
    """Maximum over windows of (N, H, W, C); padding never wins.

    Args:
      images: (N, H, W, C).
      window: height and width.
      strides: in height and width.
      padding: see cls.nn.conv.
      ceil_mode: a last window that starts inside the image counts though it overhangs (Caffe and
        PyTorch's ceil_mode).
    """
    window, strides = pair(window), pair(strides)
    pads = pooling_padding(padding, images.shape[1:3], window, strides, ceil_mode)
    if init.only_shapes():
        return _xla_max(images, window, strides, pads)
    return _max_pool_once(images, window, strides, pads)


def avg_pool(
    images: jax.Array,
    window: Size,
    strides: Size,
    padding: Padding = 'VALID',
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> jax.Array:
    """Mean over windows of (N, H, W, C).

    Args:
      images: (N, H, W, C).
      window: height and width.
      strides: in height and width.
      padding: see cls.nn.conv.
      ceil_mode: as for `max_pool`.
      count_padding: padded zeros count in the mean (PyTorch's default); otherwise the mean is over
        the pixels of the image alone (TensorFlow). The overhang of ceil_mode never counts.
    """
    window, strides = pair(window), pair(strides)
    size = images.shape[1:3]
    pads = pooling_padding(padding, size, window, strides, ceil_mode)
    counted = explicit_padding(padding, size, window, strides) if count_padding else ((0, 0),) * 2
    if init.only_shapes():
        return _xla_sum(images, window, strides, pads)
    out = _size(images, window, strides, pads)
    few = compact.fits(size, out)
    total = (
        compact.sum_pool(images, out, window, strides, pads)
        if few
        else _sum_pool_once(images, window, strides, pads)
    )
    rows, columns = (
        _counts(*along) for along in zip(size, window, strides, pads, counted, strict=True)
    )
    count = jnp.asarray(rows)[:, None, None] * jnp.asarray(columns)[:, None]
    return total / count.astype(images.dtype)


def adaptive_avg_pool(images: jax.Array, size: int) -> jax.Array:
    """Mean over size x size bins of (N, H, W, C), whatever H and W: (N, size, size, C).

    Bin i goes from floor(i n / size) to ceil((i + 1) n / size), as PyTorch's adaptive pools and
    spatial pyramid pooling (He et al. 2014, 1406.4729) have it; neighbours may share a pixel.
    """
    return _by_bins(_by_bins(images, size, 1, jnp.mean), size, 2, jnp.mean)


def adaptive_max_pool(images: jax.Array, size: int) -> jax.Array:
    """Maximum over the bins of `adaptive_avg_pool`."""
    return _by_bins(_by_bins(images, size, 1, jnp.max), size, 2, jnp.max)


def over_windows(
    images: jax.Array, size: Size, function: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """What a function gives for each window of (N, H, W, C), at stride 1.

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
    """How many countable pixels each window covers along one axis."""
    low, high = -counted[0], size + counted[1]
    outputs = (size + sum(pad) - window) // stride + 1
    starts = (i * stride - pad[0] for i in range(outputs))
    return [min(start + window, high) - max(start, low) for start in starts]


def pooling_padding(padding, size, window, strides, ceil_mode) -> Pads:
    """The explicit padding, with what ceil_mode adds at the bottom and right."""
    pads = explicit_padding(padding, size, window, strides)
    if not ceil_mode:
        return pads
    extended = []
    for n, k, s, (low, high) in zip(size, window, strides, pads, strict=True):
        outputs = -(-(n + low + high - k) // s) + 1
        if (outputs - 1) * s >= n + low:  # the last window would start beyond the image
            outputs -= 1
        extended.append((low, max(high, (outputs - 1) * s + k - n - low)))
    return tuple(extended)


def _size(images, window, strides, pads) -> tuple[int, int]:
    """Height and width of what a pool gives."""
    axes = zip(images.shape[1:3], window, strides, pads, strict=True)
    return tuple((n + sum(pad) - k) // s + 1 for n, k, s, pad in axes)


def _reduce(images, start, reduce, window, strides, pads):
    return lax.reduce_window(
        images, start, reduce, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0))
    )


def _xla_max(images, window, strides, pads):
    return _reduce(images, -jnp.inf, lax.max, window, strides, pads)


def _xla_sum(images, window, strides, pads):
    return _reduce(images, 0.0, lax.add, window, strides, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _sum_pool(images, window, strides, pads):
    def shifts(images):
        return shift_and_add(images, _ones(window, images), strides, pads, (1, 1))

    xla = functools.partial(_xla_sum, window=window, strides=strides, pads=pads)
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
        forward = functools.partial(_xla_sum, window=window, strides=strides, pads=pads)
        return jax.vjp(forward, images)[1](grad)[0]

    return (by_platform(shifts, xla, images, grad),)


_sum_pool.defvjp(_sum_pool_forward, _sum_pool_backward)
_sum_pool_once = jax.jit(_sum_pool, static_argnums=(1, 2, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(images, window, strides, pads):
    def shifts(images):
        return functools.reduce(jnp.maximum, _seen(images, window, strides, pads))

    xla = functools.partial(_xla_max, window=window, strides=strides, pads=pads)
    return by_platform(shifts, xla, images)


def _seen(images, window, strides, pads):
    """What each position of the window sees, first to last: a list of (N, H', W', C)."""
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
        # Positions are numbered from the last so that the first maximum has the last word.
        winner = jnp.full(top.shape, -1, jnp.int16)
        for position in reversed(range(len(seen))):
            winner = jnp.where(seen[position] == top, jnp.int16(position), winner)
        return _max_pool_image_grad(images.shape, winner, grad, window, strides, pads)

    def xla(images, grad):
        forward = functools.partial(_xla_max, window=window, strides=strides, pads=pads)
        return jax.vjp(forward, images)[1](grad)[0]

    return (by_platform(shifts, xla, images, grad),)


def _max_pool_image_grad(shape, winner, grad, window, strides, pads):
    """Gathers, for every pixel, the gradients of the windows in which it was the maximum."""
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
_max_pool_once = jax.jit(_max_pool, static_argnums=(1, 2, 3))
