"""Looking trials up: what others have measured of every architecture of a space."""

import csv
import dataclasses
import functools
import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cls.errors import UserError, nearest
from cls.search.searcher import Trial
from cls.search.space import Space


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file (.csv or .csv.gz) with a row for each architecture of a space.

    A trial's `accuracy` is what a search sees: the value of one of the columns `signals`, drawn for
    each trial where there are several, as of trainings with several seeds. `truth` is what the
    architecture is really worth, by another column: for reports, never for a searcher.
    """

    space: Space
    file: Path
    key: str  # the column with the space's genotypes
    signals: tuple[str, ...]
    truth: str
    seed: int = 0

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


def of(space: Space, config: ConfigDict) -> Table:
    """Returns the table of config.search.table and config.search.columns.

    Raises UserError where none is named, and as `read`.
    """
    names = config.search.columns
    columns = {*names.signals, names.truth}
    if not config.search.table:
        raise UserError(f'config.search.table is empty: {_expected(names.key, columns)}')
    table = Table(
        space,
        Path(config.search.table),
        names.key,
        tuple(names.signals),
        names.truth,
        seed=config.seed,
    )
    table.truths()
    return table


@functools.cache
def read(
    file: Path, key: str, columns: frozenset[str], sample: bool = False
) -> dict[str, dict[str, float]]:
    """Returns the columns of a table, as numbers, by its key: one column, or several with commas.

    Of a table that is a sample, rows in which one of the columns is empty are left out.

    Raises UserError for a file that is not there, is no such table or lacks a column.
    """
    if not file.is_file():
        raise UserError(f'there is no table {str(file)!r}: {_expected(key, columns)}')
    try:
        with (gzip.open if file.suffix == '.gz' else open)(file, 'rt') as lines:
            rows = csv.DictReader(lines)
            keys = key.split(',')
            for name in sorted({*keys, *columns}):
                if name not in (rows.fieldnames or ()):
                    hint = nearest(name, rows.fieldnames or ())
                    raise UserError(f'the table {file} has no column {name}.{hint}')
            return {
                ','.join(row[name] for name in keys): {name: float(row[name]) for name in columns}
                for row in rows
                if not sample or all(row[name] for name in columns)
            }
    except (OSError, ValueError, TypeError, csv.Error, EOFError) as error:
        raise UserError(f'{file} is no table of numbers ({error}).') from error


def _expected(key: str, columns: Iterable[str]) -> str:
    named = ', '.join([key, *sorted(columns)])
    return (
        f'expected a CSV file with a row for each architecture and the columns {named}; '
        'configs/search/README.md says where such tables come from.'
    )
