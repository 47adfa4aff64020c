"""Statistics over seeds: mean, spread, confidence interval, and paired tests."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping

from scipy import stats

LEVEL = 0.95  # of confidence intervals


@dataclasses.dataclass(frozen=True)
class Summary:
    """The results of one config over seeds.

    Attributes:
      values: the results.
      mean: their mean.
      std: the sample standard deviation, with n - 1; None for one value.
      low, high: the 95 % interval of the mean, by Student's t; None for one value.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def count(self) -> int:
        """The number of seeds."""
        return len(self.values)

    def __str__(self) -> str:
        if self.std is None:
            return f'{self.mean:.2f} (1 seed)'
        return f'{self.mean:.2f} ± {self.std:.2f} ({self.count} seeds)'

    @property
    def interval(self) -> str:
        """The interval as text, '' for one value."""
        return '' if self.low is None else f'{self.low:.2f} to {self.high:.2f}'


def summarize(values: Iterable[float]) -> Summary:
    """Returns the summary of one value or more."""
    values = tuple(values)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Summary(values, mean, None, None, None)
    std = statistics.stdev(values)
    half = _half_width(std, len(values))
    return Summary(values, mean, std, mean - half, mean + half)


def _half_width(std: float, count: int) -> float:
    """Returns half of the interval of a mean, see Student (1908)."""
    return float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * std / math.sqrt(count)


@dataclasses.dataclass(frozen=True)
class Paired:
    """The paired t test of two configs over the seeds that they share.

    Attributes:
      seeds: the shared seeds.
      difference: the mean of (other - one), seed by seed.
      low, high: its 95 % interval; None with fewer than two seeds.
      p: the two-sided p value of "no difference"; None with fewer than two seeds, and if all
        differences are equal, so that they have no spread.
    """

    seeds: tuple[int, ...]
    difference: float | None
    low: float | None
    high: float | None
    p: float | None

    def __str__(self) -> str:
        shared = len(self.seeds)
        if self.difference is None:
            return 'no shared seed: nothing can be said'
        if self.low is None:
            return f'{self.difference:+.2f} with one shared seed: nothing can be said'
        if self.p is None:
            return f'{self.difference:+.2f} for each of the {shared} shared seeds'
        interval = f'{self.low:+.2f} to {self.high:+.2f}'
        return f'{self.difference:+.2f} ({interval}), p = {self.p:.2g}, {shared} shared seeds'


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """Returns the test of two results by seed: {seed: value}."""
    seeds = tuple(sorted(one.keys() & other.keys()))
    if not seeds:
        return Paired(seeds, None, None, None, None)
    gains = [other[seed] - one[seed] for seed in seeds]
    summary = summarize(gains)
    p = None
    if summary.std:
        p = float(stats.ttest_rel([other[s] for s in seeds], [one[s] for s in seeds]).pvalue)
    return Paired(seeds, summary.mean, summary.low, summary.high, p)
