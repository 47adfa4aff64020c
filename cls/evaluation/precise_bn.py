"""Precise batch norm: statistics of the network with its current weights.

The running statistics of training are averages over the last steps, during which the weights
changed. Wu & Johnson 2021 ("Rethinking 'Batch' in BatchNorm", 2105.07576, section 3) recompute
them: the network in training mode, with fixed weights, is applied to batches of training images,
cropped and mirrored as in training, and each norm gets the mean and variance over all of these
(E[mean_B], and E[var_B] + Var[mean_B]). The norms before it normalize by the moments of their own
batch, as in training. This is done for the weights and for their average at each evaluation.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from cls.steps import sharding as meshes

Moments = dict[tuple[str, ...], tuple[np.ndarray, ...]]
# (variables, batch, steps taken, key) -> moments, see cls.steps.train_step.make_moments_step
MomentsStep = Callable[[Any, Any, int, jax.Array], Any]


def with_precise_statistics(
    weights: Any,
    batches: Iterator[Any],
    moments_step: MomentsStep,
    mesh: Mesh,
    *,
    count: int,
    step: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Returns `weights` with statistics recomputed from training batches.

    Statistics outside of norms are unchanged.

    Args:
      weights: {'params', 'batch_stats'} on the mesh.
      batches: this process's share of the training batches.
      moments_step: the jitted step that computes the moments of a batch.
      mesh: the mesh of the devices.
      count: number of batches.
      step: number of training steps taken.
      seed: the seed of the run.
      check: called before every batch; may raise to stop.
    """
    sharding = meshes.batch_sharding(mesh)
    key = jax.random.fold_in(jax.random.key(seed), step)
    gathered = meshes.whole(weights, mesh)
    trees = []
    for index in range(count):
        check()
        batch = meshes.put_batch(next(batches), sharding)
        batch_key = jax.random.fold_in(key, index)
        trees.append(jax.device_get(moments_step(gathered, batch, step, batch_key)))
    moments: list[Any] = [traverse_util.flatten_dict(tree) for tree in trees]
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(weights['batch_stats'])
    exact = {
        path: meshes.put(pooled(moments, path), x.sharding) if path in moments[0] else x
        for path, x in flat.items()
    }
    return {'params': weights['params'], 'batch_stats': traverse_util.unflatten_dict(exact)}


def pooled(moments: list[Moments], path: tuple[str, ...]) -> np.ndarray:
    """Returns the mean or the variance over all batches, (C,) float32, from those of each batch.

    Args:
      moments: for each batch, path -> one array (C,) for each time that the norm was used.
      path: the path of a statistic of a norm, with 'mean' or 'var' as its leaf.
    """

    def of_all(leaf: str) -> np.ndarray:
        return np.asarray([x for batch in moments for x in batch[*path[:-1], leaf]], np.float64)

    means = of_all('mean')
    if path[-1] == 'mean':
        return means.mean(0).astype(np.float32)
    return (of_all('var').mean(0) + means.var(0)).astype(np.float32)
