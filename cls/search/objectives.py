"""What metrics are worth: functions of their fields, then called with the metrics of a trial."""

from collections.abc import Callable, Mapping
from typing import Any

Objective = Callable[[Mapping[str, Any]], float]


def accuracy() -> Objective:
    """The accuracy on the images that the search may see."""
    return lambda metrics: float(metrics['accuracy'])
