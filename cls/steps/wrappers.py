"""Transformations around an optimizer: adaptive gradient clipping, lookahead."""

from collections.abc import Set
from typing import Any

import jax
import optax

from cls.steps import freeze


def adaptive_clip(clipping: float, params: Any, head: Set[str]) -> optax.GradientTransformation:
    """Returns adaptive gradient clipping (Brock et al. 2021, section 4), except of the head.

    The gradient of each unit, a filter or an output, is scaled down to `clipping` times the norm of
    the unit's weights, or 0.001 if that is smaller. Vectors are one unit, as in the authors' code.

    Args:
      clipping: the largest ratio of the norms; the paper has 0.01 to 0.08, by the batch size.
      params: the parameters, or their shapes.
      head: paths of the head's parameters.
    """
    mask = jax.tree.map_with_path(lambda path, _: freeze.name(path) not in head, params)
    return optax.masked(optax.adaptive_grad_clip(clipping), mask)


def lookahead(
    fast: optax.GradientTransformation, period: int, rate: float
) -> optax.GradientTransformation:
    """Returns an optimizer with slow weights (Zhang et al. 2019, algorithm 1).

    After each `period` updates the slow weights move by `rate` times their distance from the fast
    ones, and these start again from them. The parameters of the run are the fast weights; the slow
    ones are in the state.
    """
    rule: Any = optax.lookahead(fast, period, rate)

    def init(params: Any) -> Any:
        return {'slow': params, 'fast': rule.init(optax.LookaheadParams(params, params))}

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        both = optax.LookaheadParams(fast=params, slow=state['slow'])
        moves, inner = rule.update(updates, state['fast'], both)
        slow = optax.apply_updates(state['slow'], moves.slow)
        return moves.fast, {'slow': slow, 'fast': inner}

    return optax.GradientTransformation(init, update)
