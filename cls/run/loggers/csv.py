"""CSV files of a run: metrics/train.csv, metrics/validation.csv, ..., a row for each event."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cls.run.loggers import drawing
from cls.run.loggers.base import Logger, Place
from cls.storage import paths

FOLDER = 'metrics'  # in the run folder
_CONFUSION = '-confusion.csv'


def open_logger(place: Place) -> 'Tables':
    """Returns a logger for a run."""
    return Tables(place.workdir / FOLDER, place.folder / FOLDER, place.step)


class Tables(Logger):
    """CSV files, one for each kind of event, with the names of the values in the first row.

    Files only grow, as `cls.storage.paths.Mirror` needs it. If a run continues with other values
    (another field of the evaluation, an average of weights), these rows are in NAME-2.csv.
    """

    def __init__(self, source: Path, folder: Path, step: int) -> None:
        """Continues after `step`: later rows, of a process that was killed, are removed.

        Evaluations at `step` are removed as well: they come after the save and are repeated.

        Args:
          source: the folder of the files until now.
          folder: the folder to write to.
          step: the last step that is kept.
        """
        paths.make_folder(folder)
        self._folder = folder
        self._columns: dict[str, list[str]] = {}  # of each file
        for file in sorted(source.glob('*.csv')) if source.exists() else ():
            if file.name.endswith(_CONFUSION):
                continue
            last = step if file.name.startswith('train') else step - 1
            header, kept = _until(file.read_text(), last)
            if header:
                self._columns[file.name] = header
                paths.write_whole(folder / file.name, kept.encode())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        columns = ['step', *values]
        file = self._file(_kind(values), columns)
        rows = [] if file in self._columns else [columns]
        self._columns[file] = columns
        with (self._folder / file).open('ab', buffering=0) as stream:  # a whole row or an error
            stream.write(_text([*rows, [step, *values.values()]]).encode())

    def _file(self, kind: str, columns: list[str]) -> str:
        """Returns the name of the file of a kind that has these columns, or a new name."""
        number = 1
        while True:
            name = f'{kind}.csv' if number == 1 else f'{kind}-{number}.csv'
            if self._columns.get(name, columns) == columns:
                return name
            number += 1

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        names = drawing.named(classes, len(counts))
        rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
        text = _text([['class \\ prediction', *names], *rows])
        paths.write_whole(self._folder / f'{_kind({name: 0})}{_CONFUSION}', text.encode())


def _kind(values: Mapping[str, float]) -> str:
    """Returns 'train', 'validation', ...: the first part of the first name that has two."""
    return next((name.partition('/')[0] for name in values if '/' in name), 'run')


def _text(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator='\n').writerows(rows)
    return stream.getvalue()


def _until(text: str, step: int) -> tuple[list[str], str]:
    """Returns the first row of a file, and its text up to a step, without rows that are cut."""
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    whole = text.endswith('\n')
    rows = rows if whole else rows[:-1]
    kept = [row for row in rows if len(row) == len(header) and row[0].isdigit()]
    return header, _text([header, *(row for row in kept if int(row[0]) <= step)])
