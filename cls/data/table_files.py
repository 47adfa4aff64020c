"""Files of tables: the columns of images, labels and splits, and the place of each mistake."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.data import csv_files
from cls.data import labels as cells
from cls.data.file_list import FileList, hashed
from cls.data.labels import Column
from cls.data.scan import listed, once
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.storage import paths

SUFFIXES = {'csv': ('.csv', '.tsv'), 'parquet': ('.parquet', '.pq')}
# Names of columns, in the order in which they are looked for.
IMAGES = ('image', 'path', 'file', 'filename', 'file_name')
LABELS = ('label', 'labels', 'class', 'target')
SPLITS = ('split',)
_BLOCK = 2**20  # bytes that are searched together
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Table:
    """The images and labels of a table.

    Attributes:
      file: the file of the table.
      files: the images of all rows.
      labels: their labels.
      splits: their splits, None without a column of splits.
    """

    file: Path
    files: FileList
    labels: Column
    splits: Column | None

    def name(self, row: int) -> str:
        """Returns the place of a row, for messages: 'birds.csv: line 7'."""
        return f'{self.file}: {place(self.file, row)}'


def place(file: Path, row: int) -> str:
    """Returns 'line 7' of a CSV file for a row counted from 0, 'row 6' of other tables."""
    if file.suffix.lower() == '.jsonl':
        return f'line {row + 1}'
    if file.suffix.lower() in SUFFIXES['csv']:
        return f'line {csv_files.line_of(file, row)}'
    return f'row {row + 1}'


def table(file: Path, data: DataSpec) -> Table:
    """Returns a table; that of an unchanged file is kept for its other split."""
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f'{file} cannot be read ({error.strerror}): expected a table.') from error
    wanted = data.image_column, data.label_column, data.split_column
    return read(file, (status.st_size, status.st_mtime_ns), wanted, data.multi_label)


@functools.lru_cache(maxsize=2)
def read(file: Path, state: tuple[int, int], wanted: tuple[str, str, str], several: bool) -> Table:
    """Returns a table.

    Args:
      file: its file.
      state: the size of the file and its time, which change with its content.
      wanted: the names of the columns of images, labels and splits; '': they are looked for.
      several: whether a cell may have several labels.
    """
    del state
    names, load = _reader(file)
    image, label, split = columns(file, names, wanted)
    content = load([name for name in (image, label, split) if name is not None])
    parts = dict(zip(content.column_names, content.columns, strict=True))
    del content
    return made(file, parts, image, label, split, several)


def made(
    file: Path, content: dict[str, Any], image: str, label: str, split: str | None, several: bool
) -> Table:
    """Returns the table of columns of pyarrow by name. Raises UserError.

    The column of images, most of a table, is taken out of `content`, and freed as it is read.
    """
    if not len(content[label]):
        raise UserError(f'{file} has no rows: expected one for each image.')
    try:
        labels = cells.column(content[label], several=several)
        parts = None if split is None else cells.column(content[split])
    except ValueError as error:  # pyarrow.ArrowInvalid too
        raise UserError(
            f'{file}: the column {label!r} cannot be read ({error}): expected names or integers.'
        ) from error
    kind = content[image].type
    files, hashes = _files(file, kind, content.pop(image).chunks)
    table = Table(file, files, labels, parts)
    _check_repeated(table, hashes)
    return table


def _reader(file: Path) -> tuple[list[str], Callable[[Sequence[str]], Any]]:
    """Returns (the names of the columns of a file, names -> a pyarrow.Table). Raises UserError."""
    if file.suffix.lower() in SUFFIXES['csv']:
        return csv_files.header(file), functools.partial(csv_files.read, file)
    if file.suffix.lower() == '.jsonl':
        content = _json_lines(file)
        return content.column_names, content.select
    return _parquet(file, None), functools.partial(_parquet, file)


def _json_lines(file: Path) -> Any:
    """Returns the pyarrow.Table of a file with an object of JSON on each line. Raises UserError."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    try:
        with file.open(encoding='utf-8-sig') as lines:
            for text in lines:
                row = paths.parse_json(text)
                if not isinstance(row, dict):
                    raise ValueError('not an object')
                rows.append(row)
        return pa.Table.from_pylist(rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(
            f'{file}: line {len(rows) + 1} cannot be read ({why}): expected an object of JSON on '
            'each line, all with the same types.'
        ) from error


def _parquet(file: Path, names: Sequence[str] | None) -> Any:
    """Returns some columns of a Parquet file; None: the names of all. Raises UserError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            return opened.schema_arrow.names if names is None else opened.read(list(names))
    except (OSError, pa.ArrowException) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file} cannot be read ({reason}): expected a Parquet file.') from error


def columns(
    file: Path, names: Sequence[str], wanted: tuple[str, str, str]
) -> tuple[str, str, str | None]:
    """Returns the columns of images, labels and splits, and logs those that are not read.

    Args:
      file: the table.
      names: the names of all columns.
      wanted: the fields config.data.image_column, label_column and split_column.

    Raises UserError if there is no such column.
    """
    used = [
        _column(file, names, name, known, field)
        for name, known, field in zip(
            wanted, (IMAGES, LABELS, SPLITS), ('image', 'label', 'split'), strict=True
        )
    ]
    image, label, split = used
    line = f'{file}: images are in the column {image!r}, labels in {label!r}'
    line += f', splits in {split!r}' if split is not None else ''
    if unread := [name for name in names if name not in used]:
        line += f'; not read: {listed(unread, 8)}'
    _inform(line)
    return str(image), str(label), split


@functools.cache
def _inform(line: str) -> None:
    log.info(line)


def _column(
    file: Path, names: Sequence[str], wanted: str, known: Sequence[str], field: str
) -> str | None:
    if wanted:
        if wanted not in names:
            raise UserError(
                f'config.data.{field}_column is {wanted!r}, and {file} has no such column: '
                f'expected one of {listed(names, 12)}.{nearest(wanted, names)}'
            )
        return wanted
    by_word = {name.strip().lower(): name for name in reversed(names)}
    found = next((by_word[word] for word in known if word in by_word), None)
    if found is None and field != 'split':
        other = next((c for c in ';\t' if len(names) == 1 and c in names[0]), '')
        how = f' (separated by {other!r}: expected commas, or tabs in a .tsv)' if other else ''
        raise UserError(
            f'{file} has no column {" or ".join(known)}, but {listed(names, 12)}{how}: expected a '
            f'header with one of these, or --config.data.{field}_column=NAME.'
        )
    return found


def _files(file: Path, kind: Any, chunks: list[Any]) -> tuple[FileList, np.ndarray]:
    """Returns (the images of a column of paths, their hashes), see `strings`. Raises UserError."""
    import pyarrow as pa

    try:
        content, ends = strings(chunks)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f'{file}: the images are of the type {kind}: expected paths (images in the table '
            'itself are read by datasets:DIR).'
        ) from error
    for problem, rows in (
        ('has no path', np.flatnonzero(np.diff(ends) == 0)),
        ('has a path with a zero byte', _rows_with(content, ends, 0)),
        ('has a path with a line end (a quote that is not closed?)', _rows_with(content, ends, 10)),
    ):
        if len(rows):
            raise UserError(
                f'{file}: {place(file, int(rows[0]))} {problem}: expected one in each row.'
            )
    return FileList.of_paths(file.parent, content, ends), hashed(content, ends)


def _rows_with(content: np.ndarray, ends: np.ndarray, byte: int) -> np.ndarray:
    found = next((i for i in range(0, len(content), _BLOCK) if byte in content[i : i + _BLOCK]), 0)
    first = found + np.flatnonzero(content[found : found + _BLOCK] == byte)[:1]
    return np.searchsorted(ends, first, 'right') - 1


def strings(chunks: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (content uint8, ends (N + 1,) int64) of pyarrow arrays of text; null is empty.

    Args:
      chunks: the arrays; they are taken out of the list, so that each is freed once it is copied.
    """
    import pyarrow as pa

    content, lengths = bytearray(), [np.zeros(1, np.int64)]
    chunks.reverse()
    while chunks:
        chunk = chunks.pop()
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.cast(chunk.type.value_type)
        chunk = chunk.cast(pa.large_binary())
        offsets = np.frombuffer(chunk.buffers()[1], np.int64)
        offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
        if offsets[-1] > offsets[0]:
            content += memoryview(chunk.buffers()[2])[offsets[0] : offsets[-1]]
        lengths.append(np.diff(offsets))
    pa.default_memory_pool().release_unused()
    return np.frombuffer(content, np.uint8), np.cumsum(np.concatenate(lengths))


def _check_repeated(table: Table, hashes: np.ndarray) -> None:
    """Warns of images in several rows. Raises UserError if their labels differ.

    Args:
      table: the table.
      hashes: (N,) hashes of the paths.
    """
    order = np.sort(hashes)
    if not (order[1:] == order[:-1]).any():
        return
    first = np.unique(hashes, return_index=True)[1]
    first = first[np.searchsorted(hashes[first], hashes)]
    again = np.flatnonzero(first != np.arange(len(first)))
    files = table.files
    pairs = zip(again.tolist(), first[again].tolist(), strict=True)
    again = np.array([row for row, before in pairs if files[row] == files[before]], np.int64)
    if not len(again):
        return
    other = again[table.labels.codes[again] != table.labels.codes[first[again]]]

    def pair(row: int) -> str:
        before = place(table.file, int(first[row]))
        return f'{table.name(row)} has the image of {before}, {table.files[row]}'

    if len(other):
        raise UserError(
            f'{pair(int(other[0]))}, with another label: expected one row for each image (several '
            'labels as cat|dog, with config.data.multi_label=True).'
        )
    once(f'{pair(int(again[0]))}: {len(again)} row(s) repeat an image, and count again.')
    if table.splits is not None:
        across = again[table.splits.codes[again] != table.splits.codes[first[again]]]
        if len(across):
            once(f'{pair(int(across[0]))}, which is of another split: {len(across)} such row(s).')
