"""Sharpness-aware minimization."""

from collections.abc import Callable
from typing import Any

import jax

from cls.steps.norms import global_norm
from cls.steps.state import TrainState


def sharpness_aware(gradients: Callable, radius: float) -> Callable:
    """Returns the gradients of sharpness-aware minimization (Foret et al. 2021, algorithm 1).

    They are those of the parameters that are moved by `radius` along the gradient of the same batch
    with the same random numbers. Statistics and metrics are of the parameters themselves.
    """

    def sharp(state: TrainState, *inputs: Any) -> Any:
        uphill, results = gradients(state, *inputs)
        scale = radius / (global_norm(uphill) + 1e-12)
        moved = jax.tree.map(lambda x, g: x + scale * g, state.params, uphill)
        return gradients(state.replace(params=moved), *inputs)[0], results

    return sharp
