"""Tables of paths and labels: csv:FILE, parquet:FILE, or a folder of these with a file per split.

A table has a column of paths, relative to its folder, a column of labels, and perhaps one of
splits. No image is opened here, and only some are looked for, so that a table of two million rows
opens in seconds.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cls.data import labels as cells
from cls.data import split_files, splits, table_files
from cls.data.decode import Rules
from cls.data.file_list import FileList
from cls.data.labels import Classes
from cls.data.listed import Listed
from cls.data.scan import listed, once
from cls.data.spec import DataSpec
from cls.data.table_files import SUFFIXES, Table, place
from cls.errors import UserError
from cls.storage import download, paths

T = TypeVar('T')
KINDS = tuple(SUFFIXES)
_LOOKED_AT = 256  # files that are looked for, from the start of a table and evenly over it


@dataclasses.dataclass(frozen=True)
class Part:
    """A split of a data set: some rows of a table; None: all."""

    table: Table
    rows: np.ndarray | None
    split: str


class Rows(Listed):
    """The images of some rows of a table."""

    files: FileList

    def __init__(self, part: Part, *args: Any) -> None:
        super().__init__(*args)
        self._file = part.table.file

    def _made(self, index: int, make: Callable[[bytes, int, Rules], T]) -> T:
        try:
            return super()._made(index, make)
        except UserError as error:
            path = self.files.path(index)
            if os.path.exists(path):
                raise
            name = f'{self._file}: {place(self._file, self.files.row(index))}'
            raise UserError(f'{name} names {path}, which does not exist.') from error


def open_table(kind: str, rest: str, split: str, data: DataSpec, classes: Sequence[str]) -> Listed:
    """Opens a split, 'train' or 'eval', of a table or of a folder with one table for each split.

    Args:
      kind: 'csv' or 'parquet'.
      rest: a file, or a folder with train.csv, val.csv, ...
      split: 'train' or 'eval'.
      data: the specification.
      classes: the names of the classes by label; (): the different labels of the training split.

    Raises UserError, with the line of a table, for what cannot be read.
    """
    root = local(kind, rest)
    part_of = functools.partial(_part, kind, root, data)
    names = functools.partial(names_of, kind, rest, data)
    return of_parts(f'{kind}:{rest}', part_of, split, data, classes, names)


def of_parts(
    name: str,
    part_of: Callable[[str], Part | None],
    split: str,
    data: DataSpec,
    classes: Sequence[str],
    names: Callable[[], list[str]],
) -> Listed:
    """Opens a split of tables.

    Args:
      name: the name of the data set, for messages.
      part_of: 'train' or 'eval' -> its rows; None if there are no training images.
      split: 'train' or 'eval'.
      data: the specification.
      classes: see `open_table`.
      names: () -> the names of all splits, for messages.
    """
    part = part_of(split)
    training = part if split == 'train' or classes else part_of('train')
    if part is None:
        raise split_files.no_training(name, names())
    first = training or part
    labels = first.table.labels
    found = cells.classes_of(labels, first.rows, classes, data.class_order, str(first.table.file))
    return _opened(part, found, data)


def _opened(part: Part, classes: Classes, data: DataSpec) -> Rows:
    table, rows = part.table, part.rows
    labels = cells.numbered(table.labels, rows, classes, data.multi_label, table.name)
    files = table.files if rows is None else table.files.selected(rows)
    if not len(files):
        raise UserError(f'{table.file} has no rows of the split {part.split}: expected some.')
    _look_for(table, files)
    if isinstance(labels, np.ndarray):
        counts = np.bincount(labels, minlength=classes.count)
        if classes.names and not counts.all():
            missing = [classes.names[label] for label in np.flatnonzero(counts == 0)]
            once(
                f'{table.file}, {part.split}: no images of {len(missing)} of the {classes.count} '
                f'classes: {listed(missing, 5)}'
            )
    return Rows(part, table.file.parent, files, labels, classes, part.split, data.exif)


def has_training(kind: str, rest: str, data: DataSpec) -> bool:
    """Returns whether a table has training images. Raises UserError if it cannot be read."""
    return _part(kind, local(kind, rest), data, 'train') is not None


def names_of(kind: str, rest: str, data: DataSpec) -> list[str]:
    """Returns the names of the splits, ['all'] without any. Raises UserError."""
    root = local(kind, rest)
    if root.is_dir():
        return list(_files_of(kind, root))
    if data.eval_split.lower().endswith(SUFFIXES[kind]):
        return ['train', data.eval_split]
    return names_in(table_files.table(root, data))


def names_in(table: Table) -> list[str]:
    """Returns the names of the splits of one table, ['all'] without a column of them."""
    if table.splits is None:
        return ['all']
    _check_splits(table)
    return [str(value) for value in table.splits.values]


def local(kind: str, rest: str) -> Path:
    """Returns the local path of a table or folder; that of a copy, with its images, of remote ones.

    Raises UserError if it does not exist.
    """
    path = paths.path(rest)
    is_file = path.suffix.lower() in SUFFIXES[kind]
    if paths.is_remote(path):
        folder = download.fetched(path.parent if is_file else path)
        path = folder / path.name if is_file else folder
    if not path.exists():
        raise UserError(
            f'{path} does not exist: expected a table of images, NAME{SUFFIXES[kind][0]}, or a '
            'folder with one for each split.'
        )
    return path


def _part(kind: str, root: Path, data: DataSpec, split: str) -> Part | None:
    """Returns the rows of a split; None if there are no splits and it is 'train'."""
    if root.is_dir():
        files = _files_of(kind, root)
        chosen = split_files.chosen(str(root), files, split, data)
        if chosen is None:
            return None
        return Part(table_files.table(files[chosen], data), None, chosen)
    if data.eval_split.lower().endswith(SUFFIXES[kind]):
        file = root if split == 'train' else root.parent / data.eval_split
        return Part(table_files.table(file, data), None, file.stem)
    return part_of_table(table_files.table(root, data), data, split)


def part_of_table(table: Table, data: DataSpec, split: str) -> Part | None:
    """Returns the rows of a split of one table; None without splits if it is 'train'."""
    names = names_in(table)
    chosen = split_files.chosen(str(table.file), names, split, data)
    if chosen is None:
        return None
    if table.splits is None:
        return Part(table, None, chosen)
    rows = np.flatnonzero(table.splits.codes == names.index(chosen)).astype(np.uint32)
    return Part(table, rows, chosen)


def _files_of(kind: str, folder: Path) -> dict[str, Path]:
    """Returns the tables in a folder by the names of their splits. Raises UserError."""
    every = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES[kind])
    files = {file.stem: file for file in every if file.stem.lower() in splits.NAMES}
    if not files:
        raise UserError(
            f'{folder} has no table of a split: expected train{SUFFIXES[kind][0]} and '
            f'val{SUFFIXES[kind][0]} in it, or the name of a file.'
        )
    if unread := [file.name for file in every if file not in files.values()]:
        once(f'{folder}: not read, as these are not names of splits: {listed(unread, 5)}')
    return files


def _check_splits(table: Table) -> None:
    for code, value in enumerate(table.splits.values if table.splits else ()):
        if value is None and table.splits:
            raise UserError(
                f'{table.name(table.splits.first(code))} has no split: expected one in each row.'
            )


def _look_for(table: Table, files: FileList) -> None:
    """Raises UserError if some of the files do not exist; a bounded number is looked for."""
    count = len(files)
    some = np.unique(
        [*range(min(count, _LOOKED_AT)), *np.linspace(0, count - 1, _LOOKED_AT).round()]
    )
    some = some.astype(np.int64).tolist()
    missing = [index for index in some if not os.path.exists(files.path(index))]
    if not missing:
        return
    index = missing[0]
    found = ' (it exists in the working directory)' if os.path.exists(files[index]) else ''
    raise UserError(
        f'{table.name(files.row(index))} names {files[index]}, which does not exist in '
        f'{table.file.parent}{found}; of {len(some)} files looked for, {len(missing)} are missing: '
        'expected paths relative to the table.'
    )
