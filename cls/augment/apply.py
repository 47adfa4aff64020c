"""The augmentation of a training batch, inside the compiled step.

Everything that is drawn for an image comes from a key that is folded from the batch's and the
image's place in the whole batch, so that it depends neither on the devices nor on microbatches.
Only what is asked for is traced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cls.augment import color, erase, policies, warp
from cls.augment.mix import mix
from cls.augment.spec import Augment


def apply(
    augment: Augment,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    normalise: Callable[[jax.Array], jax.Array],
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Augments a batch.

    Args:
      augment: what to do.
      images: uint8 (N, H, W, C), C 1 or 3.
      labels: int32 (N,).
      key: of the step.
      normalise: maps pixels in 0..255 to what the net sees.
      num_classes: that the net tells apart.

    Returns:
      Normalised images, float32 (N, H, W, C), and the labels; with mixup or CutMix probabilities,
      float32 (N, num_classes).
    """

    def keys(stage: int) -> jax.Array:
        of_stage = jax.random.fold_in(key, stage)
        return jax.vmap(jax.random.fold_in, (None, 0))(of_stage, jnp.arange(len(images)))

    images = jnp.float32(_policy(augment, images, keys(0)))
    if augment.rotation:
        degrees = augment.rotation * (2 * color.uniform(keys(1)) - 1)
        images = warp.bilinear(images, warp.rotation(degrees, *images.shape[1:3]), 0.0)
    if augment.distortion:
        images = color.inception(images, keys(2), augment.distortion == 'inception_fast')
    if augment.jitters:
        factors = augment.brightness, augment.contrast, augment.saturation, augment.hue
        images = color.jitter(images, keys(3), *factors)
    if any(augment.hsl):
        shifts = (2 * color.uniform(keys(4), (3,)) - 1) * jnp.array(augment.hsl)
        images = color.shift_hsl(images, shifts / jnp.array([180.0, 255.0, 255.0]))
    if augment.lighting:
        amounts = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys(5))
        images = color.light(images, augment.lighting * amounts)
    if augment.noise:
        noise = 2 * color.uniform(keys(6), images.shape[1:]) - 1
        images = jnp.clip(images + augment.noise * noise, 0, 255)
    images = normalise(images)
    if augment.cutout:
        images = erase.cutout(images, keys(7), augment.cutout)
    if augment.erasing:
        images = erase.random_erasing(images, keys(8), augment.erasing, augment.erasing_fill)
    if augment.mixes:
        targets = jax.nn.one_hot(labels, num_classes)
        key = jax.random.fold_in(key, 9)
        return mix(images, targets, key, augment.mixup, augment.cutmix)
    return images, labels


def _policy(augment: Augment, images: jax.Array, keys: jax.Array) -> jax.Array:
    policy = augment.policy
    if policy in policies.TABLES:
        return policies.auto_augment(images, keys, policy)
    if policy:
        layers, magnitude, std = augment.layers, augment.magnitude, augment.magnitude_std
        return policies.rand_augment(images, keys, policy, layers, magnitude, std)
    return images
