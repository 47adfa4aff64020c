"""Means of the training metrics over the steps between two log events."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Interval:
    """The steps since the last log event: their number, and the sums of their metrics.

    The sums are added step by step in float64, so they do not depend on the number of steps in a
    call. Checkpoints have them (`record`): a run that is resumed between two events logs the same
    means as an undisturbed one.
    """

    def __init__(self, record: Mapping[str, Any] | None = None) -> None:
        """Continues from a `record`; None: starts without steps."""
        record = record or {}
        self._steps = int(record.get('steps', 0))
        self._sums = {name: float(value) for name, value in record.get('sums', {}).items()}

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds the metrics (n,) of n steps."""
        for name, row in rows.items():
            total = self._sums.get(name, 0.0)
            for value in row.tolist():
                total += value
            self._sums[name] = total
        self._steps += max(map(len, rows.values()), default=0)

    def take(self) -> tuple[int, dict[str, float]]:
        """Returns (number of steps, the means of their metrics), and starts without steps."""
        steps, sums = self._steps, self._sums
        self._steps, self._sums = 0, {}
        return steps, {name: total / steps for name, total in sums.items()}

    def record(self) -> dict[str, Any]:
        """Returns the content for a checkpoint, as JSON."""
        return {'steps': self._steps, 'sums': dict(self._sums)}
