"""What a step of training turns into the next: the whole of it is in a checkpoint."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """The state of training. Every leaf is an array."""

    step: jax.Array  # steps taken, int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {'params': ..., 'batch_stats': ...}, averaged over steps, or None
    rng: jax.Array  # key data, uint32; never changes: a step folds its number in

    def variables(self) -> dict[str, Any]:
        """Returns what `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def new_state(
    variables: Any, optimizer: optax.GradientTransformation, seed: int, ema: bool
) -> TrainState:
    """Returns the state before the first step.

    Args:
      variables: 'params' and, if the net has any, 'batch_stats'.
      optimizer: the update rule.
      seed: of augmentation, dropout and all else that is random in a step.
      ema: whether averages are kept; they start at the variables.
    """
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    # Copied, since the step gives its input's buffers away and no two leaves may share one.
    averages = jax.tree.map(np.array, {'params': params, 'batch_stats': batch_stats})
    return TrainState(
        step=np.zeros((), np.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=averages if ema else None,
        rng=np.asarray(jax.random.key_data(jax.random.key(seed))),
    )


def new_state_shapes(
    variables: Any, optimizer: optax.GradientTransformation, ema: bool
) -> TrainState:
    """Returns the shapes and dtypes of what `new_state` returns, given those of the variables."""
    params, batch_stats = variables['params'], variables.get('batch_stats', {})
    return TrainState(
        step=jax.ShapeDtypeStruct((), np.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.eval_shape(optimizer.init, params),
        ema={'params': params, 'batch_stats': batch_stats} if ema else None,
        rng=jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
    )


def abstract(state: Any, shardings: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a tree."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=sharding),
        state,
        shardings,
    )
