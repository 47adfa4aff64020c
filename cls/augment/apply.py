"""The augmentation of a training batch inside the compiled step.

The random numbers of an image come from a key folded from the key of the batch and the index of the
image in the global batch: they depend neither on devices nor on microbatches. Only operations of
the specification are traced. Each device augments its own images; only mixing takes one from
another device.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cls.augment import color, erase, policies, warp
from cls.augment.mix import mix
from cls.augment.spec import AugmentSpec


def apply(
    augment: AugmentSpec,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    normalize: Callable[[jax.Array], jax.Array],
    num_classes: int,
    batch_sharding: NamedSharding,
) -> tuple[jax.Array, jax.Array]:
    """Returns an augmented and normalized batch.

    Args:
      augment: the specification.
      images: uint8 (N, H, W, C), C 1 or 3.
      labels: int32 (N,).
      key: the key of the step.
      normalize: maps pixels in 0..255 to the input of the network.
      num_classes: number of classes, for the probabilities of mixed labels.
      batch_sharding: the sharding of the batch over devices.

    Returns:
      Images, float32 (N, H, W, C), and the labels; with mixup or CutMix probabilities, float32
      (N, num_classes).
    """
    # XLA alone would send all images to each device where a loop takes one by one.
    rows = batch_sharding.spec
    each = jax.shard_map(
        functools.partial(_each, augment, normalize),
        mesh=batch_sharding.mesh,
        in_specs=(rows, rows, P()),
        out_specs=rows,
    )
    images = each(images, jnp.arange(len(images)), key)
    if augment.mixes:
        targets = jax.nn.one_hot(labels, num_classes)
        key = jax.random.fold_in(key, 9)
        return mix(images, targets, key, augment.mixup, augment.cutmix)
    return images, labels


def _each(
    augment: AugmentSpec,
    normalize: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    indices: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Returns images (N, H, W, C), float32, augmented and normalized, but not mixed.

    `indices` (N,) are those of the images in the global batch.
    """

    def keys(stage: int) -> jax.Array:
        stage_key = jax.random.fold_in(key, stage)
        return jax.vmap(jax.random.fold_in, (None, 0))(stage_key, indices)

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
        images = color.add_noise(images, keys(6), augment.noise)
    images = normalize(images)
    if augment.cutout:
        images = erase.cutout(images, keys(7), augment.cutout)
    if augment.erasing:
        images = erase.random_erasing(images, keys(8), augment.erasing, augment.erasing_fill)
    return images


def _policy(augment: AugmentSpec, images: jax.Array, keys: jax.Array) -> jax.Array:
    policy = augment.policy
    if policy in policies.TABLES:
        return policies.auto_augment(images, keys, policy)
    if policy == policies.TRIVIAL:
        return policies.trivial_augment(images, keys)
    if policy:
        layers, magnitude, std = augment.layers, augment.magnitude, augment.magnitude_std
        return policies.rand_augment(images, keys, policy, layers, magnitude, std)
    return images
