"""The best checkpoint of a run, and early stopping: both by a metric of its evaluations.

After an evaluation that is better than all before, the checkpoint of its step is kept, in addition
to the newest ones, and checkpoints/best.json names it. A value that is not finite is never the
best. Every checkpoint stores the `Standing` of the evaluations before its step: a run that
continues repeats the evaluation at that step, and all following ones, with the same results.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from cls.distributed import agreement
from cls.errors import nearest
from cls.run import metric_names
from cls.run.checkpoint import Checkpoints


@dataclasses.dataclass(frozen=True)
class Standing:
    """The best evaluation so far.

    Attributes:
      metric: the name of the metric that decides; '': none, and no checkpoint is the best.
      step: the step of the best evaluation; None: there is none with a finite value.
      values: the metrics of that evaluation.
      since: the number of evaluations after it; without a best one, of all evaluations.
    """

    metric: str = ''
    step: int | None = None
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    since: int = 0

    @classmethod
    def read(cls, metric: str, record: Mapping[str, Any] | None) -> 'Standing':
        """Returns a standing from `record()`; a new one for None or for another metric."""
        if not record or record.get('metric') != metric:
            return cls(metric)
        return cls(**record)

    def record(self) -> dict[str, Any]:
        """Returns the standing as a JSON value."""
        return dataclasses.asdict(self)

    @property
    def value(self) -> float | None:
        """The value of the metric in the best evaluation."""
        return None if self.step is None else self.values[self.metric]

    def after(self, step: int, values: Mapping[str, float]) -> 'Standing':
        """Returns the standing after one more evaluation; equal values do not replace the best."""
        value, best = values[self.metric], self.value
        if math.isfinite(value) and (best is None or _is_better(self.metric, value, best)):
            return Standing(self.metric, step, dict(values))
        return dataclasses.replace(self, since=self.since + 1)


def _is_better(metric: str, value: float, best: float) -> bool:
    return value > best if metric_names.HIGHER[metric.rpartition('/')[2]] else value < best


_NONE = Standing()


class Selection:
    """The choice of the best checkpoint during a training."""

    def __init__(
        self,
        checkpoints: Checkpoints | None = None,
        standing: Standing = _NONE,
        patience: int = 0,
    ) -> None:
        """Continues from the standing of a checkpoint.

        Args:
          checkpoints: the checkpoints of the run; None: no checkpoint is chosen.
          standing: the standing before the next evaluation.
          patience: the number of evaluations in succession without a better one that end the
            training; 0: none do.
        """
        self._checkpoints, self._patience = checkpoints, patience
        self.standing = standing
        self._last: tuple[int, Standing] | None = None  # the step observed, the standing before
        if checkpoints:
            checkpoints.best = standing.step

    def record(self, step: int) -> dict[str, Any] | None:
        """Returns the standing for the checkpoint of a step, None if no checkpoint is chosen.

        It is the one before an evaluation at that step: a run that continues there repeats that.
        """
        if not self.standing.metric:
            return None
        before = self._last[1] if self._last and self._last[0] == step else self.standing
        return before.record()

    def observe(self, step: int, values: Mapping[str, float], save: Callable[[], None]) -> str:
        """Takes an evaluation; returns the reason to end the training, '' to go on.

        The standing of process 0 holds for all processes.

        Args:
          step: the step of the evaluation.
          values: its metrics.
          save: saves the checkpoint of the step, unless it is saved.
        """
        before, checkpoints = self.standing, self._checkpoints
        if not before.metric or checkpoints is None:
            return ''
        name = before.metric
        record = agreement.on_first('best', lambda: before.after(step, values).record())
        standing = Standing.read(name, record)
        self._last = step, before
        if standing.step == step:
            save()
            content = {'step': step, 'metric': name, 'value': standing.value}
            checkpoints.keep_best(step, content)
        self.standing = standing
        if not 0 < self._patience <= standing.since:
            return ''
        best = 'none had a finite value'
        if standing.step is not None:
            best = f'the best, {standing.value:.6g}, is of step {standing.step}'
        return f'no better {name} in {standing.since} evaluations ({best})'


def mistakes(
    metric: str, patience: int, every: int, names: tuple[str, ...], chosen_on: str
) -> list[str]:
    """Returns the mistakes in config.checkpoint.best and config.eval.patience.

    Args:
      metric: config.checkpoint.best.
      patience: config.eval.patience.
      every: steps between evaluations; 0: only the end is evaluated.
      names: the metrics of an evaluation during the training.
      chosen_on: 'validation' or 'test', the images of these evaluations.
    """
    if not metric:
        sentence = (
            f'config.eval.patience is {patience}, without a metric: expected '
            'config.checkpoint.best too, as validation/top1.'
        )
        return [sentence] if patience else []
    field = f'config.checkpoint.best is {metric!r}'
    if chosen_on == 'test':
        return [
            f'{field}, and the evaluations are of the test split, which must not choose weights: '
            'expected config.eval.validation too, as 0.1, and validation/... here.'
        ]
    if metric not in names:
        return [f'{field}: expected one of {", ".join(names)}.{nearest(metric, names)}']
    if not every:
        return [
            f'{field}, and nothing is evaluated before the end: expected config.eval.every, as '
            "'1 epochs'."
        ]
    return []
