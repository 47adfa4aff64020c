"""Learning rates that fall when an evaluation stops improving, as PyTorch's ReduceLROnPlateau.

The factor of the learning rate is in the state of the optimizer, so a checkpoint restores it. The
training loop calls `observed` after each evaluation.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

METRICS = ('loss', 'top1')


class PlateauState(NamedTuple):
    """The standing of the evaluations.

    Attributes:
      scale: factor of the learning rate, float32.
      best: the best value of the metric, float32; not finite before the first.
      bad: the number of evaluations since then, or since the last change of the scale, int32.
      rule: the state of the optimizer.
    """

    scale: Any
    best: Any
    bad: Any
    rule: Any


def scaled(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer with updates that are multiplied by a factor in its state."""

    def init(params: Any) -> PlateauState:
        none = jnp.full((), jnp.nan, jnp.float32)
        one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32)
        return PlateauState(one, none, zero, rule.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        moves, inner = rule.update(updates, state.rule, params)
        return jax.tree.map(lambda x: state.scale * x, moves), state._replace(rule=inner)

    return optax.GradientTransformation(init, update)


def find(opt_state: Any) -> PlateauState | None:
    """Returns the state of `scaled` inside the state of an optimizer, or None."""
    leaves = jax.tree.leaves(opt_state, is_leaf=_is_plateau)
    return next(filter(_is_plateau, leaves), None)


def scale(opt_state: Any) -> float:
    """Returns the factor of the learning rate in the state of an optimizer, 1 without one."""
    state = find(opt_state)
    return 1.0 if state is None else float(state.scale)


def replaced(opt_state: Any, new: PlateauState) -> Any:
    """Returns the state of an optimizer with another state of `scaled`."""
    return jax.tree.map(lambda x: new if _is_plateau(x) else x, opt_state, is_leaf=_is_plateau)


def _is_plateau(x: Any) -> bool:
    return isinstance(x, PlateauState)


def observed(
    state: PlateauState,
    value: float,
    *,
    higher: bool,
    factor: float,
    patience: int,
    threshold: float,
    least: float,
) -> PlateauState:
    """Returns the standing after one more evaluation, with NumPy scalars.

    Args:
      state: the standing before it.
      value: the value of the metric; one that is not finite is no improvement.
      higher: whether more is better.
      factor: of the scale, after more than `patience` evaluations without an improvement.
      patience: see `factor`.
      threshold: the part of the best value that an improvement exceeds.
      least: the smallest scale.
    """
    scale, best, bad = float(state.scale), float(state.best), int(state.bad)
    limit = best * (1 + threshold if higher else 1 - threshold)
    if math.isfinite(value) and (math.isnan(best) or (value > limit if higher else value < limit)):
        best, bad = value, 0
    else:
        bad += 1
    if bad > patience:
        scale, bad = max(scale * factor, least), 0
    return state._replace(scale=np.float32(scale), best=np.float32(best), bad=np.int32(bad))
