"""Histograms of parameters and gradients, computed on the devices."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding

from cls.steps.state import TrainState
from cls.steps.train_step import Batch, Recipe, augmented, make_gradients

BINS = 64


def histogram(values: jax.Array) -> dict[str, jax.Array]:
    """Returns the distribution of an array of any shape.

    Returns:
      `counts` (BINS,) int32 in bins of one width from `low` to `high`, the smallest and the largest
      value, and `total` and `squares`, the sums of the values and of their squares. Equal values
      are counted in the middle bin.
    """
    values = values.astype(jnp.float32).ravel()
    low, high = values.min(), values.max()
    width = (high - low) / BINS
    index = jnp.where(width > 0, (values - low) / jnp.where(width > 0, width, 1.0), BINS // 2)
    index = jnp.clip(index.astype(jnp.int32), 0, BINS - 1)
    return {
        'counts': jnp.zeros(BINS, jnp.int32).at[index].add(1),
        'low': low,
        'high': high,
        'total': values.sum(),
        'squares': jnp.square(values).sum(),
    }


def make_histograms(
    model: nn.Module, recipe: Recipe, batch_sharding: NamedSharding
) -> Callable[..., tuple[TrainState, dict[str, dict[str, jax.Array]]]]:
    """Returns step(state, batch) -> (the same state, histograms).

    They are those of the parameters 'params/...' and of the gradients 'gradients/...', before
    clipping and weight decay, that the training step computes for this state and batch, see
    `cls.steps.train_step.make_train_step`.
    """
    gradients = make_gradients(model, recipe, batch_sharding)

    def step(
        state: TrainState, batch: Batch, teacher: Any = None
    ) -> tuple[TrainState, dict[str, Any]]:
        key = state.key()
        _, net_key = jax.random.split(key)
        images, labels = augmented(recipe, batch, key, model, batch_sharding)
        grads, _ = gradients(state, images, labels, net_key, teacher)
        trees = {'params': state.params, 'gradients': grads}
        leaves: Any = traverse_util.flatten_dict(trees, sep='/')
        return state, {name: histogram(leaf) for name, leaf in leaves.items()}

    return step
