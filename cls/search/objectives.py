"""Objectives: functions of their fields that return a function from metrics to fitness."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from cls.errors import UserError

Objective = Callable[[Mapping[str, Any]], float]


def accuracy() -> Objective:
    """The accuracy on the images that the search may see."""
    return lambda metrics: float(metrics['accuracy'])


def early_stop(mu: float = 1.0, rho: float = 8.0) -> Objective:
    """Block-QNN's correction of the accuracy of trainings that stop early (Zhong et al. 2018, 3.3).

    accuracy - mu * log(macs) - rho * log(density): of blocks equal after a few epochs, the paper
    found those with more operations and denser connections worse in the end. Density is the number
    of a block's connections over that of its nodes. mu and rho are for accuracies in percent; their
    values are of a public implementation (elenathfgs/BlockQNN_Keras), since the paper's text was
    not at hand. Multiply-adds instead of its FLOPs only add a constant.
    """

    def corrected(metrics: Mapping[str, Any]) -> float:
        behind = mu * math.log(metrics['macs']) + rho * math.log(metrics['density'])
        return metrics['accuracy'] - behind / 100

    return corrected


def accuracy_latency(
    target: float = 75.0, alpha: float = -0.07, beta: float = -0.07, metric: str = 'latency'
) -> Objective:
    """MnasNet's reward: accuracy (latency / target)^w, with w = alpha up to the target, then beta.

    Tan et al. 2019, equations 2 and 3; the target is 75 ms on a Pixel 1. -0.07 and -0.07 trade off
    softly: twice the latency is worth 5 % more accuracy. 0 and -1 make the target a limit.

    Args:
      target: the target, in the metric's units.
      alpha: exponent of networks up to the target.
      beta: exponent of slower networks.
      metric: the cost of a trial: 'latency', 'macs', ...
    """
    if target <= 0:
        raise ValueError(f'target is {target}: expected more than 0')

    def reward(metrics: Mapping[str, Any]) -> float:
        if metric not in metrics:
            raise UserError(
                f'trials have no metric {metric!r}; known: {", ".join(metrics)}. Choose another '
                'config.search.objective.metric or config.search.evaluator.name.'
            )
        share = float(metrics[metric]) / target
        return float(metrics['accuracy']) * share ** (alpha if share <= 1 else beta)

    return reward
