"""Changing the resolution of images inside a net."""

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Interpolates (N, H, W, C) linearly in height and width to (N, *size, C).

    The corner pixels of both images lie on one another: row i of the result is at row
    i (H - 1) / (size - 1) of `images` (Caffe's Interp, PyTorch's align_corners), where
    `jax.image.resize` has the outer edges of the pixels meet instead.
    """
    return _linear(_linear(images, size[0], 1), size[1], 2)


def _linear(images: jax.Array, size: int, axis: int) -> jax.Array:
    """Interpolates along one axis: each output from the two inputs it lies between."""
    length = images.shape[axis]
    if length == size:
        return images
    place = np.linspace(0, length - 1, size)  # one output takes the first input
    before = np.minimum(place.astype(int), max(length - 2, 0))
    after = np.minimum(before + 1, length - 1)
    shape = [-1 if i == axis else 1 for i in range(images.ndim)]
    part = jnp.asarray((place - before).reshape(shape), images.dtype)
    low, high = jnp.take(images, before, axis), jnp.take(images, after, axis)
    return low + (high - low) * part
