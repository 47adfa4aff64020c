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
    pooled: dict[tuple[str, ...], Pooled] = {}  # by the path of the norm
    for index in range(count):
        check()
        batch = meshes.put_batch(next(batches), sharding)
        batch_key = jax.random.fold_in(key, index)
        tree = jax.device_get(moments_step(gathered, batch, step, batch_key))
        moments: Any = traverse_util.flatten_dict(tree)
        for path in {path[:-1] for path in moments}:
            used = zip(moments[*path, 'mean'], moments[*path, 'var'], strict=True)
            for mean, var in used:  # once for each time that the norm was used
                pooled.setdefault(path, Pooled()).add(mean, var)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(weights['batch_stats'])
    exact = {
        path: meshes.put(getattr(pooled[path[:-1]], path[-1]), x.sharding)
        if path[:-1] in pooled and path[-1] in ('mean', 'var')
        else x
        for path, x in flat.items()
    }
    return {'params': weights['params'], 'batch_stats': traverse_util.unflatten_dict(exact)}


class Pooled:
    """The mean and the variance of a norm's inputs over all batches, from those of each batch.

    The variance of the means is updated as by Welford 1962, in float64: no batch is kept.
    """

    def __init__(self) -> None:
        """Starts without batches."""
        self._count = 0
        self._sum: Any = 0.0  # of the means
        self._mean: Any = 0.0  # of the means, for the next line
        self._squares: Any = 0.0  # of their differences from their mean, summed
        self._var: Any = 0.0  # of the variances, summed

    def add(self, mean: np.ndarray, var: np.ndarray) -> None:
        """Adds the moments of a batch, (C,) float32 each."""
        self._count += 1
        self._sum = self._sum + np.float64(mean)
        difference = np.float64(mean) - self._mean
        self._mean = self._mean + difference / self._count
        self._squares = self._squares + difference * (mean - self._mean)
        self._var = self._var + np.float64(var)

    @property
    def mean(self) -> np.ndarray:
        """The mean, (C,) float32."""
        return (self._sum / self._count).astype(np.float32)

    @property
    def var(self) -> np.ndarray:
        """The variance, (C,) float32."""
        return (self._var / self._count + self._squares / self._count).astype(np.float32)
