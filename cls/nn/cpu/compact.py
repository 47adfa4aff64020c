"""Layers on small images as few operations, for networks that compile for longer than they train.

The forms of `cls.nn.cpu` have several operations for each tap of a window, and a network of cells
has thousands: XLA compiles them for a minute. Within `few_operations`, a layer whose input and
output have at most PIXELS pixels is one product with a matrix from input to output pixels, filled
with the taps of the kernel: more multiply-adds, less to compile, the same results up to rounding.
Max pools keep their form: to gather their windows takes as many operations, and slower ones.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

PIXELS = 64

_few_operations = contextvars.ContextVar('few_operations', default=False)


@contextlib.contextmanager
def few_operations() -> Iterator[None]:
    """A context in which layers on small images are traced in this form."""
    token = _few_operations.set(True)
    try:
        yield
    finally:
        _few_operations.reset(token)


def fits(*sizes: Sequence[int]) -> bool:
    """Returns whether a layer between images of these heights and widths takes this form."""
    return _few_operations.get() and all(0 < h * w <= PIXELS for h, w in sizes)


def _taps(size, out, window, strides, pads, dilation):
    """Returns the tap of the window between each output and each input pixel, (H' W', H W).

    Taps are numbered row by row; h * w stands for no tap.
    """
    along = []
    for n, m, k, s, (low, _), d in zip(size, out, window, strides, pads, dilation, strict=True):
        offset = np.arange(n) - s * np.arange(m)[:, None] + low  # from the window's corner
        tap, rest = np.divmod(offset, d)
        along.append(np.where((rest == 0) & (tap >= 0) & (tap < k), tap, -1))
    rows, columns = along[0][:, None, :, None], along[1][None, :, None, :]
    taps = np.where((rows < 0) | (columns < 0), window[0] * window[1], rows * window[1] + columns)
    return taps.reshape(out[0] * out[1], size[0] * size[1])


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def conv(images, kernel, out, strides, pads, dilation):
    """Returns a convolution (N, *out, O) of images, dense or depthwise.

    Args:
      images: (N, H, W, I).
      kernel: (h, w, I, O); of a depthwise convolution (h, w, 1, I).
      out: height and width of the result.
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
      dilation: dilation in height and width.
    """
    count, *size, channels = images.shape
    *window, inputs, outputs = kernel.shape
    taps = _taps(size, out, window, strides, pads, dilation)
    matrix = jnp.pad(kernel.reshape(-1, inputs, outputs), ((0, 1), (0, 0), (0, 0)))[taps]
    seen = images.reshape(count, -1, channels)
    if inputs == channels:
        result = jnp.einsum('nqi,pqio->npo', seen, matrix)
    else:
        result = jnp.einsum('nqc,pqc->npc', seen, matrix[:, :, 0])
    return result.reshape(count, *out, outputs)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def sum_pool(images, out, window, strides, pads):
    """Returns the sums (N, *out, C) over windows of images.

    Args:
      images: (N, H, W, C).
      out: height and width of the result.
      window: height and width.
      strides: strides in height and width.
      pads: ((top, bottom), (left, right)) in pixels.
    """
    count, *size, channels = images.shape
    seen = _taps(size, out, window, strides, pads, (1, 1)) < window[0] * window[1]
    flat = images.reshape(count, -1, channels)
    total = jnp.einsum('nqc,pq->npc', flat, jnp.asarray(seen, images.dtype))
    return total.reshape(count, *out, channels)
