"""Layers on small images as few operations, for nets that compile for longer than they train.

On CPU the forms of cls.nn.conv and cls.nn.pool have some operations for each tap of a window, and
XLA compiles the thousands of a net of cells for a minute. Within `few_operations` a layer whose
input and output have at most PIXELS pixels is one product with a matrix between them, which has the
kernel's taps in their places: more multiply-adds, and less to compile. Results are the same. Max
pools keep their form: gathering their windows is as long a program, and a slower one.
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
    """While entered, what is traced has layers on small images in this form."""
    token = _few_operations.set(True)
    try:
        yield
    finally:
        _few_operations.reset(token)


def fits(*sizes: Sequence[int]) -> bool:
    """Whether a layer between images of such heights and widths is to have this form."""
    return _few_operations.get() and all(0 < h * w <= PIXELS for h, w in sizes)


def _taps(size, out, window, strides, pads, dilation):
    """Returns (H' W', H W), which tap of the window each output pixel has on each input pixel.

    Taps are counted row by row; one more stands for none.
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
    """Convolves (N, H, W, I) with an (h, w, I, O) kernel, or depthwise with an (h, w, 1, I) one."""
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
    """Sums over windows of (N, H, W, C) into (N, *out, C)."""
    count, *size, channels = images.shape
    seen = _taps(size, out, window, strides, pads, (1, 1)) < window[0] * window[1]
    flat = images.reshape(count, -1, channels)
    total = jnp.einsum('nqc,pq->npc', flat, jnp.asarray(seen, images.dtype))
    return total.reshape(count, *out, channels)
