"""Mixup and CutMix: each image of a batch, and its label, mixed with the one before it.

As in both papers' code there is one share for a batch. The batch is in random order, so that it may
as well be turned by one place as shuffled: then images stay where they are but for the last one of
each device, which the next device needs. Copies of an image (data.repeats) are never neighbours.
"""

import jax
import jax.numpy as jnp

from cls.augment.erase import inside


def before(images: jax.Array) -> jax.Array:
    """Returns for each example of a batch the one before it, for the first the last."""
    return jnp.roll(images, 1, axis=0)


def mixup(images: jax.Array, share: jax.Array) -> jax.Array:
    """Returns share * images + (1 - share) * those before them (Zhang et al., ICLR 2018)."""
    return share * images + (1 - share) * before(images)


def beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draws from Beta(alpha, alpha), exactly, for any alpha > 0.

    From Student's t with 2 alpha degrees of freedom (Bailey 1994; Devroye 1996, "Random variate
    generation in one line of code"). jax.random.beta compiles for seconds.
    """
    one, other = jax.random.uniform(key, (2,))
    wide = (one ** (-1 / alpha) - 1) * jnp.cos(2 * jnp.pi * other) ** 2
    side = jnp.where(other < 0.5, -0.5, 0.5)  # the square does not tell the halves apart
    return 0.5 + side / jnp.sqrt(1 + 1 / wide)


def rectangle(share: jax.Array, centre: jax.Array, height: int, width: int) -> jax.Array:
    """Returns top, bottom, left, right, int32 (4,), of what CutMix pastes, cut at the border.

    Args:
      share: of the image that is to stay, in 0..1.
      centre: (2,) in 0..1, row and column.
      height: of the image.
      width: of the image.
    """
    size = jnp.array([height, width])
    side = jnp.int32(size * jnp.sqrt(1 - share))
    middle = jnp.int32(size * centre)
    low = jnp.clip(middle - side // 2, 0, size)
    high = jnp.clip(middle + side // 2, 0, size)
    return jnp.stack([low[0], high[0], low[1], high[1]])


def cutmix(images: jax.Array, share: jax.Array, centre: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pastes a rectangle of the image before each (Yun et al., ICCV 2019, arXiv:1905.04899).

    Args:
      images: (N, H, W, C).
      share: of the image that is to stay.
      centre: see `rectangle`.

    Returns:
      The images, and the share that did stay, of whole pixels.
    """
    height, width = images.shape[1:3]
    corners = rectangle(share, centre, height, width)
    pasted = inside(images.shape, corners[None])
    top, bottom, left, right = corners
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return jnp.where(pasted, before(images), images), share


def mix(
    images: jax.Array, targets: jax.Array, key: jax.Array, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes a batch by either of two ways, by both of them with even chances.

    Args:
      images: float32 (N, H, W, C), normalised.
      targets: probabilities (N, K).
      key: of the batch.
      mixup_alpha: the share has the distribution Beta(alpha, alpha); 0: no mixup.
      cutmix_alpha: likewise, of the share before the rectangle is cut at the border; 0: no CutMix.

    Returns:
      Images and targets of the same shapes.
    """
    which, share, where = jax.random.split(key, 3)

    def mixed_up(images):
        drawn = beta(share, mixup_alpha)
        return mixup(images, drawn), drawn

    def cut(images):
        drawn = beta(share, cutmix_alpha)
        return cutmix(images, drawn, jax.random.uniform(where, (2,)))

    if mixup_alpha and cutmix_alpha:
        images, kept = jax.lax.cond(jax.random.bernoulli(which), mixed_up, cut, images)
    else:
        images, kept = (mixed_up if mixup_alpha else cut)(images)
    return images, mixup(targets, kept)
