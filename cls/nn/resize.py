"""Interpolation of images inside a network."""

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns images (N, H, W, C) interpolated linearly in height and width, (N, *size, C).

    Corner pixels are aligned: row i of the result is at row i (H - 1) / (size - 1) of `images`, as
    in Caffe's Interp and PyTorch's align_corners. `jax.image.resize` aligns the outer edges of the
    pixels instead.
    """
    return _linear(_linear(images, size[0], 1), size[1], 2)


def _linear(images: jax.Array, size: int, axis: int) -> jax.Array:
    """Returns images interpolated along one axis, each output from its two nearest inputs."""
    length = images.shape[axis]
    if length == size:
        return images
    position = np.linspace(0, length - 1, size)  # of a single output: 0
    before = np.minimum(position.astype(int), max(length - 2, 0))
    after = np.minimum(before + 1, length - 1)
    shape = [-1 if i == axis else 1 for i in range(images.ndim)]
    part = jnp.asarray((position - before).reshape(shape), images.dtype)
    low, high = jnp.take(images, before, axis), jnp.take(images, after, axis)
    return low + (high - low) * part
