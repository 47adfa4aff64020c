"""Evaluation by a table of a sample of a space, completed by ridge regression.

Accuracy and the logarithm of latency are modeled as sums over decisions and pairs of decisions. The
prediction replaces the measured value of every architecture, those of the table included, so that
no search profits from the choice of the sample.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from ml_collections import ConfigDict

from cls.errors import UserError
from cls.search.evaluators import table
from cls.search.searcher import Trial
from cls.search.space import Code, Space


class Pairs:
    """The positions of choices and pairs of choices in a one-hot vector of `size` numbers.

    Decisions with one choice have none.
    """

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._free = np.array([i for i, count in enumerate(counts) if count > 1], int)
        sizes = np.array(counts)[self._free]
        self._one, self._other = np.triu_indices(len(sizes), 1)
        self._times = sizes[self._other]
        blocks = np.concatenate([sizes, sizes[self._one] * self._times])
        self._starts = np.cumsum(blocks) - blocks
        self.size = int(blocks.sum())

    def positions(self, codes: np.ndarray) -> np.ndarray:
        """Returns the (N, choices and pairs) positions of the ones, of (N, decisions) codes."""
        free = codes[:, self._free]
        pairs = free[:, self._one] * self._times + free[:, self._other]
        return np.concatenate([free, pairs], 1) + self._starts


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A linear function of the choices: (positions, targets) weights, a (targets,) constant."""

    pairs: Pairs
    weights: np.ndarray
    constant: np.ndarray

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Returns the (N, targets) values of (N, decisions) codes."""
        return self.weights[self.pairs.positions(codes)].sum(1) + self.constant


def fit(counts: tuple[int, ...], codes: np.ndarray, values: np.ndarray, penalty: float) -> Ridge:
    """Returns the ridge regression of a sample.

    Args:
      counts: number of choices of each decision.
      codes: (N, decisions).
      values: (N, targets).
      penalty: the factor of the squares of all weights except the constant.
    """
    pairs = Pairs(counts)
    ones = np.zeros((len(codes), pairs.size))
    np.put_along_axis(ones, pairs.positions(codes), 1.0, 1)
    means, constant = ones.mean(0), values.mean(0)
    ones -= means
    square = ones.T @ ones
    square[np.diag_indices(pairs.size)] += penalty
    weights = np.linalg.solve(square, ones.T @ (values - constant))
    return Ridge(pairs, weights, constant - means @ weights)


class Named(Protocol):
    """A space whose architectures have names in a table."""

    counts: tuple[int, ...]

    def named(self, name: str) -> Code:
        """Returns the code of a name. Raises ValueError for any other text."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """Predictions of trials; columns are named as in cls.search.evaluators.table."""

    space: Named
    file: Path
    key: str
    accuracy: str
    latency: str
    penalty: float

    @classmethod
    def from_config(
        cls,
        space: Space,
        config: ConfigDict,
        key: str = 'e,k,l,se',
        accuracy: str = 'val_top1',
        latency: str = 'latency_vck190',
        penalty: float = 30.0,
    ) -> Self:
        """Returns the surrogate of config.search.table; its defaults are Accel-NASBench's.

        Args:
          space: with names, see Named.
          config: the config of the search.
          key: the columns that make a name, joined by commas.
          accuracy: the column to maximize.
          latency: a column of positive numbers, predicted by their logarithms.
          penalty: the penalty of the regression.

        Raises UserError for another space, and as `sample`.
        """
        if not hasattr(space, 'named'):
            raise UserError(
                f'config.search.evaluator surrogate has no table of {type(space).__name__}: '
                'expected the space accel_nasbench.'
            )
        if not config.search.table:
            raise UserError(
                f'config.search.table is empty: expected a CSV file with the columns {key}, '
                f'{accuracy}, {latency}; configs/search/README.md says where such tables come from.'
            )
        named: Any = space
        surrogate = cls(named, Path(config.search.table), key, accuracy, latency, penalty)
        surrogate.sample()
        return surrogate

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Returns accuracy and latency of a trial, in the table's units."""
        accuracy, latency = _ridge(self)(np.array([trial.code]))[0]
        return {'accuracy': float(accuracy), 'latency': float(np.exp(latency))}

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the table's (N, decisions) codes and (N, 2) accuracies and log-latencies.

        Raises UserError as `table.read`, and for a row that is not of the space.
        """
        columns = frozenset({self.accuracy, self.latency})
        rows = table.read(self.file, self.key, columns, sample=True)
        try:
            codes = np.array([self.space.named(name) for name in rows])
        except ValueError as error:
            raise UserError(f'{self.file} has a row that is not of the space ({error}).') from error
        values = np.array([(row[self.accuracy], row[self.latency]) for row in rows.values()])
        if not (values[:, 1] > 0).all():
            raise UserError(f'{self.file}, column {self.latency}: expected numbers above 0.')
        return codes, np.stack([values[:, 0], np.log(values[:, 1])], 1)


@functools.cache  # searches with many seeds fit once
def _ridge(surrogate: Surrogate) -> Ridge:
    return fit(surrogate.space.counts, *surrogate.sample(), surrogate.penalty)
