"""Affine maps of images, each with its own matrix.

A matrix (a, b, c, d, e, f) maps output to input positions, as Pillow's: the output pixel centered
at (x, y) shows the input at (a x + b y + c, d x + e y + f), in pixels from the top left corner.
"""

import jax
import jax.numpy as jnp

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def rotation(degrees: jax.Array, height: int, width: int) -> jax.Array:
    """Returns matrices (N, 6) for counterclockwise rotations about the center.

    Args:
      degrees: (N,).
      height: height of the images.
      width: width of the images.
    """
    cos, sin = jnp.cos(jnp.radians(degrees)), jnp.sin(jnp.radians(degrees))
    x, y = width / 2, height / 2
    return jnp.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y], -1)


def _sources(matrix: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Returns the input positions x and y of all output pixels, each (N, H, W)."""
    x = jnp.arange(width) + 0.5
    y = jnp.arange(height)[:, None] + 0.5
    a, b, c, d, e, f = jnp.moveaxis(matrix, -1, 0)[:, :, None, None]
    return a * x + b * y + c, d * x + e * y + f


def _take(images: jax.Array, x: jax.Array, y: jax.Array, fill: float) -> jax.Array:
    """Returns the pixels at columns x and rows y, both (N, H, W); outside the image, `fill`."""
    n, height, width, channels = images.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    flat = images.reshape(n, height * width, channels)
    taken = jnp.take_along_axis(flat, index.reshape(n, -1, 1), axis=1)
    return jnp.where(inside[..., None], taken.reshape(images.shape), jnp.asarray(fill, flat.dtype))


def nearest(images: jax.Array, matrix: jax.Array, fill: float) -> jax.Array:
    """Returns images (N, H, W, C) warped by matrices (N, 6), with nearest-neighbor sampling.

    The identity returns an image bit for bit. Pixels from outside the image are `fill`.
    """
    x, y = _sources(matrix, *images.shape[1:3])
    return _take(images, jnp.int32(jnp.floor(x)), jnp.int32(jnp.floor(y)), fill)


def bilinear(images: jax.Array, matrix: jax.Array, fill: float) -> jax.Array:
    """Returns float images (N, H, W, C) warped by matrices (N, 6), with bilinear interpolation.

    Pixels outside the image count as `fill`.
    """
    n, height, width, channels = images.shape
    x, y = (value - 0.5 for value in _sources(matrix, height, width))
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]
    # With a border of two pixels, four pixels next to each other are always inside. Fused into
    # the four lookups, the border and the index would be computed for each.
    border = ((0, 0), (2, 2), (2, 2), (0, 0))
    flat = jnp.pad(images, border, constant_values=fill).reshape(n, -1, channels)
    row = width + 4
    index = jnp.clip(jnp.int32(top) + 2, 0, height + 2) * row
    index = (index + jnp.clip(jnp.int32(left) + 2, 0, width + 2)).reshape(n, -1, 1)
    flat, index = jax.lax.optimization_barrier((flat, index))

    def take(offset):
        taken = jnp.take_along_axis(flat, index + offset, 1, mode='promise_in_bounds')
        return taken.reshape(images.shape)

    upper = take(0) * (1 - across) + take(1) * across
    lower = take(row) * (1 - across) + take(row + 1) * across
    return upper * (1 - down) + lower * down
