"""Contents of loggers besides numbers: augmented images, histograms, confusion matrices.

May import: data, run, setup, steps.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls.data import pipeline
from cls.run.loggers.base import Histogram
from cls.run.telemetry import Metrics
from cls.setup import Setup
from cls.steps import sharding as meshes
from cls.steps.train_step import Recipe, augmented

CLASSES = 2000  # of the largest confusion matrix that is counted: its memory grows with the square


def augmented_images(setup: Setup, count: int) -> np.ndarray:
    """Returns training images (N, H, W, C) uint8 as the network sees them before normalization.

    They are the first `count` images of the training, or a few more with repeated augmentation,
    with operations drawn as in training. Images with other than 1 or 3 channels are shown by their
    first channel. This process computes alone, on one of its devices.
    """
    assert setup.train is not None  # the setup is for training
    repeats = setup.data.repeats
    size = min(-(-count // repeats) * repeats, setup.batch)
    data = setup.data.at_size(setup.phases.at(0).size)
    data = dataclasses.replace(data, workers=0)  # processes would take longer than the images
    classes = setup.info.num_classes
    iterator = pipeline.train_batches(
        setup.train, data, batch=size, seed=setup.seed, num_classes=classes, process=(0, 1)
    )
    with contextlib.closing(iterator):
        batch = next(iterator)
    images, recipe = batch['image'], setup.recipe
    if recipe.flip or recipe.augment.active:
        mesh = meshes.make_mesh(1, jax.local_devices()[:1])
        sharding = meshes.batch_sharding(mesh)

        def shown(batch: Any) -> jax.Array:
            key = jax.random.key(setup.seed)
            images, _ = augmented(recipe, batch, key, setup.model, sharding)
            return pixels(recipe, images) if recipe.augment.active else images

        images = jax.jit(shown)(meshes.put_batch(batch, sharding))
    images = np.asarray(images)
    return images if images.shape[-1] in (1, 3) else images[..., :1]


def pixels(recipe: Recipe, images: jax.Array) -> jax.Array:
    """Returns normalized images as uint8; images standardized one by one fill the range."""
    images = images * jnp.asarray(recipe.std) + jnp.asarray(recipe.mean)
    if recipe.contrast:
        low = images.min((1, 2, 3), keepdims=True)
        high = images.max((1, 2, 3), keepdims=True)
        images = 255 * (images - low) / jnp.maximum(high - low, 1e-6)
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)


def histograms(fetched: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Histogram]:
    """Returns histograms of cls.steps.histograms for loggers; those of NaN or infinity are omitted.

    Values that are not finite end the run at its next log event, with a message.
    """
    result = {}
    for name, each in fetched.items():
        low, high = float(each['low']), float(each['high'])
        if math.isfinite(low) and math.isfinite(high):
            sums = float(each['total']), float(each['squares'])
            result[name] = Histogram(np.asarray(each['counts']), low, high, *sums)
    return result


def confusion(setup: Setup) -> np.ndarray | None:
    """Returns a matrix (K, K) of zeros to count predictions in, None for more than CLASSES.

    Images with several labels have none either.
    """
    if setup.recipe.multi_label:
        return None
    classes = setup.model.num_classes
    return np.zeros((classes, classes), np.int64) if classes <= CLASSES else None


def show_confusion(
    metrics: Metrics, step: int, values: Mapping[str, float], counts: np.ndarray, setup: Setup
) -> None:
    """Logs a confusion matrix under the name of the last weights that `values` are of."""
    name = [name.removesuffix('/top1') for name in values if name.endswith('/top1')][-1]
    classes = setup.info.class_names
    metrics.show(lambda log: log.confusion(step, f'{name}/confusion', counts, classes))


def fields(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Returns the fields of a config as dotted name -> value, 'optim.lr' and so on."""
    values = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping)
        values |= fields(value, f'{prefix}{name}.') if nested else {f'{prefix}{name}': value}
    return values


def flat(result: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Returns the numbers and texts of a run's result, nested ones as 'time/step'."""
    values = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            values |= flat(value, f'{prefix}{name}/')
        elif isinstance(value, str | int | float):
            values[f'{prefix}{name}'] = value
    return values
