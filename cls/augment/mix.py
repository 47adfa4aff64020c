"""Mixup and CutMix: each image and label of a batch mixed with the previous one.

As in the code of both papers, a batch has one share. The batch is in random order, so a roll by one
is as good as a shuffle, and only the last image of each device moves to another. Copies of an image
(data.repeats) are never adjacent.
"""

import jax
import jax.numpy as jnp

from cls.augment.erase import inside


def previous(images: jax.Array) -> jax.Array:
    """Returns the previous example for each of a batch (N, ...), and for the first the last."""
    return jnp.roll(images, 1, axis=0)


def mixup(images: jax.Array, share: jax.Array) -> jax.Array:
    """Returns share * images + (1 - share) * the previous images (Zhang et al. 2018, 1710.09412).

    Args:
      images: (N, ...), or targets (N, K).
      share: a number in 0..1.
    """
    return share * images + (1 - share) * previous(images)


def beta(key: jax.Array, alpha: float) -> jax.Array:
    """Returns a number from Beta(alpha, alpha), exact for any alpha > 0.

    From Student's t with 2 alpha degrees of freedom (Bailey 1994; Devroye 1996, "Random variate
    generation in one line of code"). jax.random.beta takes seconds to compile.
    """
    one, other = jax.random.uniform(key, (2,))
    wide = (one ** (-1 / alpha) - 1) * jnp.cos(2 * jnp.pi * other) ** 2
    side = jnp.where(other < 0.5, -0.5, 0.5)  # independent of the squared cosine
    return 0.5 + side / jnp.sqrt(1 + 1 / wide)


def rectangle(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the rectangle that CutMix pastes, int32 (4,): top, bottom, left, right.

    It is cropped at the borders of the image.

    Args:
      share: part of the area outside the rectangle before the crop, in 0..1.
      center: row and column in 0..1, (2,).
      height: height of the image.
      width: width of the image.
    """
    size = jnp.array([height, width])
    side = jnp.int32(size * jnp.sqrt(1 - share))
    middle = jnp.int32(size * center)
    low = jnp.clip(middle - side // 2, 0, size)
    high = jnp.clip(middle + side // 2, 0, size)
    return jnp.stack([low[0], high[0], low[1], high[1]])


def cutmix(images: jax.Array, share: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns images with a rectangle of the previous image (Yun et al. 2019, 1905.04899).

    Args:
      images: (N, H, W, C).
      share: part of the image that stays, see `rectangle`.
      center: center of the rectangle, see `rectangle`.

    Returns:
      The images, and the part of the pixels that stayed.
    """
    height, width = images.shape[1:3]
    corners = rectangle(share, center, height, width)
    pasted = inside(images.shape, corners[None])
    top, bottom, left, right = corners
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return jnp.where(pasted, previous(images), images), share


def mix(
    images: jax.Array, targets: jax.Array, key: jax.Array, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns a batch mixed by mixup or CutMix; if both are on, each has probability 1/2.

    Args:
      images: float32 (N, H, W, C), normalized.
      targets: probabilities (N, K).
      key: the key of the batch.
      mixup_alpha: alpha of the share's distribution Beta(alpha, alpha); 0: no mixup.
      cutmix_alpha: as mixup_alpha, of the share before the rectangle is cropped; 0: no CutMix.

    Returns:
      Images and targets of the same shapes.
    """
    choice_key, share_key, center_key = jax.random.split(key, 3)

    def mixed_up(images):
        share = beta(share_key, mixup_alpha)
        return mixup(images, share), share

    def cut(images):
        share = beta(share_key, cutmix_alpha)
        return cutmix(images, share, jax.random.uniform(center_key, (2,)))

    if mixup_alpha and cutmix_alpha:
        images, kept = jax.lax.cond(jax.random.bernoulli(choice_key), mixed_up, cut, images)
    else:
        images, kept = (mixed_up if mixup_alpha else cut)(images)
    return images, mixup(targets, kept)
