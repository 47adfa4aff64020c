"""Precise batch norm: the statistics of a net as it is, not averaged over how it came to be.

The running statistics of training are averages over the last steps, of a net that changed
meanwhile. Wu & Johnson 2021 ("Rethinking 'Batch' in BatchNorm", 2105.07576, section 3) take them
anew: the net in training mode, its weights fixed, sees batches of training images, cropped and
mirrored as in training, and each norm gets the mean and variance over all of these (E[mean_B], and
E[var_B] + Var[mean_B]). A norm sees what the norms before it make of their own batches, as in
training. This is done for the weights and for their average each time they are evaluated.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cls.data import pipeline
from cls.errors import UserError
from cls.setup import Setup, process
from cls.steps import sharding as meshes
from cls.steps.state import TrainState

Moments = dict[tuple[str, ...], tuple[np.ndarray, ...]]


def variables(
    setup: Setup, state: TrainState, weights: Any, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Returns `weights` with the statistics of config.eval.precise_bn training examples.

    The examples are those that come next in training (at the end: that would come), in batches as
    they are computed together there; their number is rounded up to whole batches. Statistics that
    are no norm's stay.

    Args:
      setup: of the run.
      state: of the run, for the number of steps taken.
      weights: {'params', 'batch_stats'} on the mesh.
      check: called before every batch; may raise to end it.

    Raises UserError where there are no training images.
    """
    if setup.train is None:
        raise UserError(
            f'config.eval.precise_bn is {setup.config.eval.precise_bn}, but '
            f'{setup.config.data.name} has no images to train on: expected 0 here.'
        )
    config, step = setup.config, int(state.step)
    batch = config.batch // config.accumulate
    count = -(-config.eval.precise_bn // batch)
    iterator = pipeline.train_batches(
        setup.train,
        pipeline.at_size(config.data, setup.phase(step).size),
        batch=batch,
        seed=config.seed,
        num_classes=setup.info.num_classes,
        process=process(),
    )
    iterator.set_state({'step': step * config.accumulate})
    sharding = meshes.batch_sharding(setup.mesh)
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    whole_weights = meshes.whole(weights, setup.mesh)
    found = []
    try:
        for index in range(count):
            check()
            examples = meshes.put_batch(next(iterator), sharding)
            here = jax.random.fold_in(key, index)
            found.append(jax.device_get(setup.moments_step(whole_weights, examples, step, here)))
    finally:
        iterator.close()
    moments = [traverse_util.flatten_dict(tree) for tree in found]
    flat = traverse_util.flatten_dict(weights['batch_stats'])
    exact = {
        path: meshes.put(whole(moments, path), x.sharding) if path in moments[0] else x
        for path, x in flat.items()
    }
    return {'params': weights['params'], 'batch_stats': traverse_util.unflatten_dict(exact)}


def whole(moments: list[Moments], path: tuple[str, ...]) -> np.ndarray:
    """Returns a mean or a variance (C,) float32 over all batches, from those of each batch.

    Args:
      moments: for each batch, path -> one array (C,) for each time that the norm was used.
      path: of a norm, with 'mean' or 'var' as its leaf.
    """
    means = np.float64([mean for batch in moments for mean in batch[*path[:-1], 'mean']])
    if path[-1] == 'mean':
        return np.float32(means.mean(0))
    variances = np.float64([var for batch in moments for var in batch[*path[:-1], 'var']])
    return np.float32(variances.mean(0) + means.var(0))
