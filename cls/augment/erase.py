"""Parts of normalised images blanked: Cutout and random erasing."""

import math

import jax
import jax.numpy as jnp

from cls.augment.color import uniform
from cls.augment.operations import box

AREA = (0.02, 1 / 3)  # of the image's (timm; Zhong et al. have up to 0.4)
ASPECT = (0.3, 1 / 0.3)  # height over width
TRIES = 10


def cutout(images: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """Sets a square to 0, the mean (DeVries and Taylor, 2017, arXiv:1708.04552).

    Its centre is any pixel, so that parts of it may lie outside. As in the authors' code an odd
    side is one less.

    Args:
      images: float32 (N, H, W, C), normalised.
      keys: (N,).
      side: in pixels.
    """
    size = jnp.array(images.shape[1:3])
    centre = jnp.int32(uniform(keys, (2,)) * size)
    return jnp.where(box(images.shape, centre, jnp.int32(side // 2)), 0, images)


def rectangles(numbers: jax.Array, height: int, width: int) -> jax.Array:
    """Returns top, bottom, left, right, int32 (N, 4), of random erasing's rectangles.

    The first of TRIES that is smaller than the image; if none is, nothing: bottom is top.

    Args:
      numbers: (N, TRIES, 4) in 0..1: area, aspect, row, column.
      height: of the image.
      width: of the image.
    """
    area, aspect, row, column = jnp.moveaxis(numbers, -1, 0)
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * height * width
    logs = [math.log(x) for x in ASPECT]
    aspect = jnp.exp(logs[0] + (logs[1] - logs[0]) * aspect)
    tall, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (tall < height) & (wide < width)
    tall = jnp.where(fits, tall, 0)
    top = jnp.floor(row * (height - tall + 1))
    left = jnp.floor(column * (width - wide + 1))
    corners = jnp.int32(jnp.stack([top, top + tall, left, left + wide], -1))
    first = jnp.argmax(fits, axis=1)
    return jnp.take_along_axis(corners, first[:, None, None], 1)[:, 0]


def inside(shape: tuple[int, ...], corners: jax.Array) -> jax.Array:
    """Returns where the rectangles (N, 4) lie in images of a shape, bool (N, H, W, 1)."""
    top, bottom, left, right = corners.T[:, :, None]
    rows, columns = (jnp.arange(size) for size in shape[1:3])
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None])[..., None]


def random_erasing(images: jax.Array, keys: jax.Array, chance: float, fill: str) -> jax.Array:
    """Erases a rectangle of an image (Zhong et al., AAAI 2020, arXiv:1708.04896; ranges: timm).

    Args:
      images: float32 (N, H, W, C), normalised.
      keys: (N,).
      chance: of an image to be erased from.
      fill: noise (each value of a standard normal distribution) | mean (0).
    """
    n, height, width, _ = images.shape
    numbers = uniform(keys, (1 + 4 * TRIES,))
    corners = rectangles(numbers[:, 1:].reshape(n, TRIES, 4), height, width)
    erased = inside(images.shape, corners) & (numbers[:, 0] < chance)[:, None, None, None]
    if fill == 'mean':
        return jnp.where(erased, 0, images)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return jnp.where(erased, noise, images)
