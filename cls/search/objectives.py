"""What metrics are worth: functions of their fields, then called with the metrics of a trial."""

import math
from collections.abc import Callable, Mapping
from typing import Any

Objective = Callable[[Mapping[str, Any]], float]


def accuracy() -> Objective:
    """The accuracy on the images that the search may see."""
    return lambda metrics: float(metrics['accuracy'])


def early_stop(mu: float = 1.0, rho: float = 8.0) -> Objective:
    """Block-QNN's correction of what training that stops early shows (Zhong et al. 2018, 3.3).

    accuracy - mu * log(macs) - rho * log(density): of blocks equal after a few epochs, the paper
    found those worse in the end that compute more and are more densely connected. Density is a
    block's connections over its nodes. mu and rho are for accuracies in percent; their values are
    of a public implementation (elenathfgs/BlockQNN_Keras), the paper's text could not be had.
    Multiply-adds for its FLOPs only add a constant.
    """

    def corrected(metrics: Mapping[str, Any]) -> float:
        behind = mu * math.log(metrics['macs']) + rho * math.log(metrics['density'])
        return metrics['accuracy'] - behind / 100

    return corrected
