"""Comparison of groups of runs: differing fields, results over seeds, paired tests, curves."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cls.errors import UserError, nearest
from cls.experiments import statistics
from cls.experiments.groups import Group, differences, grouped, shown
from cls.experiments.runs import RunData
from cls.experiments.statistics import Paired, Summary
from cls.run import metric_names

BEST_FIRST = ('validation', 'test')  # kinds of splits, the preferred first
_LONG_LABEL = 60  # letters


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of runs and their results.

    Attributes:
      groups: the groups; the first is the one that the others are compared with.
      unfinished: runs without a result; they do not count.
    """

    groups: tuple[Group, ...]
    unfinished: tuple[RunData, ...]

    @property
    def runs(self) -> list[RunData]:
        """The finished runs."""
        return [run for group in self.groups for run in group.runs]

    @property
    def metrics(self) -> list[str]:
        """The names of the numbers in the results, as 'test/top1'."""
        names = (name for run in self.runs for name, value in _numbers(run).items())
        return list(dict.fromkeys(names))

    def summaries(self, metric: str) -> list[Summary | None]:
        """Returns the summary of each group; None if it does not have the metric."""
        values = [group.results(metric) for group in self.groups]
        return [statistics.summarize(v.values()) if v else None for v in values]

    def paired(self, metric: str) -> list[Paired | None]:
        """Returns the paired test of each group with the first; None for the first."""
        first, *others = [group.results(metric) for group in self.groups]
        return [None, *(statistics.paired(first, other) for other in others)]


def compare(runs: Sequence[RunData], varied: Sequence[str] = ()) -> Comparison:
    """Returns the comparison of runs. Raises UserError if none of them is finished.

    Args:
      runs: the runs.
      varied: fields to show for each group even if all have the same value.
    """
    finished = [run for run in runs if run.result]
    if not finished:
        names = ', '.join(str(run.folder) for run in runs[:3])
        raise UserError(f'no run is finished yet ({names}): expected one or more with result.json.')
    return Comparison(grouped(finished, varied), tuple(run for run in runs if not run.result))


def _numbers(run: RunData) -> dict[str, float]:
    result = run.result or {}
    return {k: v for k, v in result.items() if '/' in k and isinstance(v, (int, float))}


def chosen_metrics(comparison: Comparison, wanted: Sequence[str] = ()) -> list[str]:
    """Returns the metrics to show: the wanted ones, or the top-1 accuracies.

    Raises UserError for a metric that no run has.
    """
    known = comparison.metrics
    for name in wanted:
        if name not in known:
            raise UserError(
                f'no run has the metric {name!r}.{nearest(name, known)} Known: {", ".join(known)}.'
            )
    main = [name for name in known if name.endswith(f'/{metric_names.main(known)}')]
    return list(wanted) or main or known[:1]


# ------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------

NO_SPREAD = (
    'With one seed there is no spread: nothing can be said about the difference of two configs. '
    'Train more of them with `cls sweep --seeds 3`.'
)


def short_names(comparison: Comparison) -> list[str]:
    """Returns the labels of the groups, or A, B, ... if a label is long."""
    labels = [group.label for group in comparison.groups]
    if max(map(len, labels)) <= _LONG_LABEL:
        return labels
    letters = len(labels) <= 26
    return [chr(ord('A') + i) if letters else str(i + 1) for i in range(len(labels))]


def results_table(comparison: Comparison, metric: str, names: Sequence[str]) -> list[list[str]]:
    """Returns the table of a metric, with a header.

    Its last column, with two groups or more, has the mean difference to the first group over their
    shared seeds, its 95 % interval, and the p value of the paired t test.

    Args:
      comparison: the comparison.
      metric: the name of the metric.
      names: of the groups.
    """
    header = ['config', metric, '95 % interval of the mean', 'paired difference to the first']
    rows = [header]
    several = len(comparison.groups) > 1
    tests = comparison.paired(metric)
    for name, summary, test in zip(names, comparison.summaries(metric), tests, strict=True):
        cells = [str(summary), summary.interval] if summary else ['-', '']
        rows.append([name, *cells, '' if test is None else str(test)])
    return rows if several else [row[:-1] for row in rows]


def ranking(comparison: Comparison, metric: str, count: int) -> list[list[str]]:
    """Returns the groups with the highest mean of a metric, the best first, with a header."""
    pairs = zip(comparison.groups, comparison.summaries(metric), strict=True)
    ranked = sorted(
        ((group, s) for group, s in pairs if s), key=lambda pair: pair[1].mean, reverse=True
    )
    return [['config', metric], *([group.label, str(s)] for group, s in ranked[:count])]


def fields_table(names: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns the table of the differing fields, one row for each, with a header.

    Args:
      names: of the configs, for the header.
      fields: the configs by dotted names.
    """
    rows = [
        [name, *('-' if name not in f else shown(f[name]) for f in fields)]
        for name in differences(fields)
    ]
    return [['field', *names], *rows]


def by_run(comparison: Comparison) -> str:
    """Returns a table in CSV with a row for each run: its differing fields, seed and results."""
    fields = list(dict.fromkeys(name for group in comparison.groups for name in group.fields))
    metrics, text = comparison.metrics, io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['config', *fields, 'seed', *metrics, 'step', 'seconds', 'folder'])
    for group in comparison.groups:
        for run in group.runs:
            result = run.result or {}
            values = [result.get(name, '') for name in (*metrics, 'step', 'seconds')]
            own = [group.fields.get(name, '') for name in fields]
            writer.writerow([group.label, *own, run.seed, *values, run.folder])
    return text.getvalue()


# ------------------------------------------------------------------------------------------------
# Learning curves
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a group.

    Attributes:
      label: that of the group.
      steps: (T,) the steps at which all runs of the group have a value.
      values: (runs, T), one row for each run.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray


def curves(comparison: Comparison, metric: str) -> Iterator[Curve]:
    """Yields the learning curve of each group that has one; the last value of a step counts."""
    for group in comparison.groups:
        rows = [dict(run.curve(metric)) for run in group.runs]
        rows = [row for row in rows if row]
        if not rows:
            continue
        steps = sorted(set.intersection(*(set(row) for row in rows)))
        if steps:
            values = np.array([[row[step] for step in steps] for row in rows], float)
            yield Curve(group.label, np.array(steps), values)


def curve_metrics(comparison: Comparison) -> list[str]:
    """Returns the metrics to draw: top-1 of evaluations, or else of training, and the loss.

    For images with several labels it is mAP in place of top-1.
    """
    names = dict.fromkeys(name for run in comparison.runs for name in run.curves)
    main = metric_names.main(names)
    kinds = [kind for kind in BEST_FIRST if f'{kind}/{main}' in names]
    points = [len(run.curve(f'{kind}/{main}')) for kind in kinds[:1] for run in comparison.runs]
    accuracy = f'{kinds[0]}/{main}' if kinds and max(points) > 1 else 'train/top1'
    return [name for name in (accuracy, 'train/loss') if name in names]
