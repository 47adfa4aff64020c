"""Names of the metrics of an evaluation in metrics.jsonl, result.json and evaluation.json.

Metrics are 'test/top1', ... on a test split and 'validation/top1', ... on any other split: a
validation set, or a part of the training set. With config.eval.validation the images to test on are
'test' whatever their split is called. Metrics of an average of weights, or with recomputed
statistics, are 'validation_ema/top1' and so on, see `weights_name`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# Whether higher values of a metric are better.
HIGHER = {'top1': True, 'top5': True, 'loss': False, 'map': True}
KINDS = ('validation', 'test')  # the results of cls.data.splits.kind


def weights_name(kind: str, *, ema: bool = False, precise: bool = False) -> str:
    """Returns the prefix of metric names: 'test', 'validation_ema_precise', ...

    Args:
      kind: one of KINDS.
      ema: whether the metrics are those of the average of weights.
      precise: whether batch-norm statistics are recomputed.
    """
    return kind + '_ema' * ema + '_precise' * precise


def main(names: Iterable[str]) -> str:
    """Returns the metric that compares runs: 'map' if any name is of it, else 'top1'.

    Args:
      names: names of metrics, as 'test/map': images with several labels have it.
    """
    return 'map' if any(name.endswith('/map') for name in names) else 'top1'


def figure(values: Mapping[str, Any], metric: str, *, ema: bool = False) -> Any:
    """Returns a metric of an evaluation, on the test split if it has both; None if it is missing.

    Args:
      values: a line of metrics.jsonl, the content of result.json or evaluation.json.
      metric: 'top1', ...
      ema: whether to return the metric of the average of weights.
    """
    names = (f'{weights_name(kind, ema=ema)}/{metric}' for kind in reversed(KINDS))
    return next((values[name] for name in names if name in values), None)
