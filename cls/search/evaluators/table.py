"""Evaluation by a table of published measurements of every architecture of a space."""

import csv
import dataclasses
import functools
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from ml_collections import ConfigDict

from cls.errors import UserError, nearest, refuse
from cls.search.searcher import Trial
from cls.search.space import Space


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file (.csv or .csv.gz) with a row for each architecture of a space.

    The `accuracy` of a trial is the value that a search sees: that of one of the columns `signals`,
    drawn for each trial if there are several, for example of trainings with several seeds. `truth`,
    from another column, is the true score of the architecture, for reports only.
    """

    space: Space
    file: Path
    key: str  # the column with the space's genotypes
    signals: tuple[str, ...]
    truth: str
    seed: int = 0

    @classmethod
    def from_config(cls, space: Space, config: ConfigDict) -> Self:
        """Returns the table of config.search.table and config.search.columns.

        Raises UserError for a config that names none, and as `read`.
        """
        names = config.search.columns
        columns = {*names.signals, names.truth}
        if not config.search.table:
            raise UserError(f'config.search.table is empty: {_expected(names.key, columns)}')
        file, signals = Path(config.search.table), tuple(names.signals)
        table = cls(space, file, names.key, signals, names.truth, seed=config.seed)
        table.truths()
        return table

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Returns accuracy and truth of a trial."""
        rng = np.random.default_rng([self.seed, trial.number, 2])
        signal = self.signals[rng.integers(len(self.signals))] if self.signals[1:] else ''
        row = self._rows[self.space.genotype(trial.code)]
        return {'accuracy': row[signal or self.signals[0]], 'truth': row[self.truth]}

    def truths(self) -> np.ndarray:
        """Returns the column `truth` of all architectures."""
        return np.array([row[self.truth] for row in self._rows.values()])

    @functools.cached_property
    def _rows(self) -> dict[str, dict[str, float]]:
        return read(self.file, self.key, frozenset({*self.signals, self.truth}))


@functools.cache
def read(
    file: Path, key: str, columns: frozenset[str], sample: bool = False
) -> dict[str, dict[str, float]]:
    """Returns the columns of a table, as numbers, by its key.

    Args:
      file: a CSV file.
      key: the column that names a row, or several, joined by commas.
      columns: columns to read.
      sample: whether the table is a sample of a space; rows with an empty column are then left out.

    Raises UserError for a file that is missing, is not such a table or lacks a column.
    """
    if not file.is_file():
        raise UserError(f'there is no table {str(file)!r}: {_expected(key, columns)}')
    try:
        with (gzip.open if file.suffix == '.gz' else open)(file, 'rt') as lines:
            rows = csv.DictReader(lines)
            keys = key.split(',')
            present = rows.fieldnames or ()
            refuse(
                f'the table {file} has no column {name}.{nearest(name, present)}'
                for name in sorted({*keys, *columns}.difference(present))
            )
            return {
                ','.join(row[name] for name in keys): {name: float(row[name]) for name in columns}
                for row in rows
                if not sample or all(row[name] for name in columns)
            }
    except (OSError, ValueError, TypeError, csv.Error, EOFError) as error:
        raise UserError(f'{file} is not a table of numbers ({error}).') from error


def _expected(key: str, columns: Iterable[str]) -> str:
    named = ', '.join([key, *sorted(columns)])
    return (
        f'expected a CSV file with a row for each architecture and the columns {named}; '
        'configs/search/README.md says where such tables come from.'
    )
