"""The training state: all that a step updates and a checkpoint stores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """The state of training. Every leaf is an array."""

    step: Any  # steps taken, int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {'params': ..., 'batch_stats': ...}, averaged over steps; or None
    rng: Any  # key data, uint32; never changes: a step folds its number in

    def variables(self) -> dict[str, Any]:
        """Returns the variables for `model.apply`."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def new_state(
    variables: Any, optimizer: optax.GradientTransformation, seed: int, ema: bool
) -> TrainState:
    """Returns the state before the first step.

    Args:
      variables: 'params' and, if the network has any, 'batch_stats'.
      optimizer: the update rule.
      seed: the seed of augmentation, dropout and all other randomness of a step.
      ema: whether to keep averages, which start at the variables.
    """
    opt_state = optimizer.init(variables['params'])
    return first_state(variables, opt_state, seed, dict(variables) if ema else None)


def first_state(variables: Any, opt_state: Any, seed: int, averages: Any = None) -> TrainState:
    """Returns the state before the first step, see `new_state`.

    Args:
      variables: 'params' and, if the network has any, 'batch_stats'.
      opt_state: the state of the optimizer.
      seed: the seed of all randomness of a step.
      averages: the initial averages, in the form of `variables`; None: no averages are kept.
    """
    # The averages are copied: the step donates its input's buffers, and leaves may not share one.
    return TrainState(
        step=np.zeros((), np.int32),
        params=variables['params'],
        batch_stats=variables.get('batch_stats', {}),
        opt_state=opt_state,
        ema=None if averages is None else jax.tree.map(np.array, _both(averages)),
        rng=np.asarray(jax.random.key_data(jax.random.key(seed))),
    )


def new_state_shapes(
    variables: Any, optimizer: optax.GradientTransformation, ema: bool
) -> TrainState:
    """Returns the shapes and dtypes of `new_state`'s result, given those of the variables."""
    return TrainState(
        step=jax.ShapeDtypeStruct((), np.int32),
        params=variables['params'],
        batch_stats=variables.get('batch_stats', {}),
        opt_state=jax.eval_shape(optimizer.init, variables['params']),
        ema=_both(variables) if ema else None,
        rng=jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
    )


def _both(variables: Any) -> dict[str, Any]:
    return {'params': variables['params'], 'batch_stats': variables.get('batch_stats', {})}


def abstract(state: Any, shardings: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a tree."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=sharding),
        state,
        shardings,
    )
