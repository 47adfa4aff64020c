"""Cutout and random erasing, on normalized images."""

import math

import jax
import jax.numpy as jnp

from cls.augment.batch import column, one_by_one
from cls.augment.color import uniform
from cls.augment.operations import box

AREA = (0.02, 1 / 3)  # relative to the image (timm; up to 0.4 in Zhong et al.)
ASPECT = (0.3, 1 / 0.3)  # height over width
TRIES = 10


def cutout(images: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """Returns images with a square set to 0, the mean (DeVries and Taylor 2017, 1708.04552).

    The center of a square is a random pixel, and the square is cropped at the borders. As in the
    authors' code, an odd side counts as one less.

    Args:
      images: float32 (N, H, W, C), normalized.
      keys: (N,).
      side: side in pixels.
    """
    size = jnp.array(images.shape[1:3])
    center = jnp.int32(uniform(keys, (2,)) * size)
    return jnp.where(box(images.shape, center, jnp.int32(side // 2)), 0, images)


def rectangles(numbers: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the rectangles of random erasing, int32 (N, 4): top, bottom, left, right.

    A rectangle is the first of TRIES that is smaller than the image. If there is none, it is empty:
    bottom equals top.

    Args:
      numbers: uniform in [0, 1), (N, TRIES, 4): area, aspect, row, column.
      height: height of the image.
      width: width of the image.
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
    """Returns masks of rectangles, bool (N, H, W, 1).

    Args:
      shape: shape of the images.
      corners: (N, 4), see `rectangles`.
    """
    top, bottom, left, right = corners.T[:, :, None]
    rows, columns = (jnp.arange(size) for size in shape[1:3])
    rows = (rows >= top) & (rows < bottom)
    columns = (columns >= left) & (columns < right)
    return (rows[:, :, None] & columns[:, None])[..., None]


def random_erasing(images: jax.Array, keys: jax.Array, chance: float, fill: str) -> jax.Array:
    """Returns images with a random rectangle erased (Zhong et al. 2020, 1708.04896).

    Ranges are timm's.

    Args:
      images: float32 (N, H, W, C), normalized.
      keys: (N,).
      chance: probability that an image has a rectangle erased.
      fill: 'noise' (values from a standard normal distribution) or 'mean' (0).
    """
    n, height, width, _ = images.shape
    numbers = uniform(keys, (1 + 4 * TRIES,))
    corners = rectangles(numbers[:, 1:].reshape(n, TRIES, 4), height, width)
    drawn = numbers[:, 0] < chance
    if fill == 'mean':
        return jnp.where(inside(images.shape, corners) & column(drawn), 0, images)

    def erased(images, keys, corners, drawn):
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
        return jnp.where(inside(images.shape, corners) & column(drawn), noise, images)

    def drawn_only(images, keys, corners, drawn):
        unchanged = lambda images, *_: images  # noqa: E731
        return jax.lax.cond(drawn[0], erased, unchanged, images, keys, corners, drawn)

    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    return one_by_one(drawn_only, erased, images, keys, corners, drawn)
