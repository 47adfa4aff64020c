"""Encoded images in Arrow files, as the package `datasets` stores them; copies of Parquet files.

Arrow files are mapped into memory, so that any image is read without those before it. Parquet files
are compressed in groups of a hundred images and more, and are copied to Arrow in the cache once.
"""

import collections
import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.data.file_list import ImageList, content
from cls.errors import UserError
from cls.storage import paths
from cls.storage.cache import cache_dir

_MOST_OPEN = 128  # files that are mapped at the same time
_ROWS = 256  # of a batch in a copy
log = logging.getLogger(__name__)


class ArrowImages(ImageList):
    """The images in a column of Arrow files: a struct of bytes and path, or binary.

    Args:
      folder: the folder that paths of images are relative to, if the files have only paths.
      files: the Arrow files.
      column: the name of the column.
      counts: the number of rows of each file.
      identity: text for `digest`, the names and sizes of the original files.

    The names are those of examples; a pickle has only the names of the files.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], column: str, counts: Sequence[int], identity: str
    ) -> None:
        self._folder, self._files, self._column = folder, tuple(files), column
        self._counts, self._identity = tuple(counts), identity
        self._ends = np.cumsum([0, *counts])
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self._folder, self._files, self._column, self._counts, self._identity
        return ArrowImages, arguments

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        path = _field(self._scalar(index % len(self)), 'path')
        return f'example {index % len(self)}' + (f' ({path})' if path else '')

    def path(self, index: int) -> str:
        return f'{self[index]} of {self._folder}'

    def content(self, index: int) -> bytes:
        value = self._scalar(index)
        encoded = _field(value, 'bytes')
        if encoded is None and (path := _field(value, 'path')):
            return content(os.path.join(self._folder, path))
        if encoded is None:
            raise OSError('it is empty')
        return encoded

    def digest(self) -> bytes:
        return hashlib.sha256(self._identity.encode()).digest()

    def _scalar(self, index: int) -> Any:
        number = int(np.searchsorted(self._ends, index, 'right')) - 1
        column = self._open.get(number)
        if column is None:
            column = self._open[number] = table(self._files[number])[self._column]
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return column[index - int(self._ends[number])]


def _field(value: Any, name: str) -> Any:
    """Returns a field of a pyarrow scalar, the bytes of one that is binary; None without it."""
    if not value.is_valid:
        return None
    if not hasattr(value, 'keys'):
        return value.as_py() if name == 'bytes' else None
    return value[name].as_py() if name in value.keys() else None  # noqa: SIM118


def table(file: Path) -> Any:
    """Returns the pyarrow.Table of an Arrow file, mapped into memory. Raises UserError."""
    import pyarrow as pa

    try:
        mapped = pa.memory_map(os.fspath(file))
        try:
            return pa.ipc.open_stream(mapped).read_all()
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_file(mapped).read_all()
    except (OSError, pa.ArrowException) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file} cannot be read ({reason}): expected an Arrow file.') from error


def copied(files: Sequence[Path], column: str, identity: str) -> list[Path]:
    """Returns Arrow files with a column of Parquet files, from the cache or made now.

    Args:
      files: the Parquet files.
      column: the name of the column.
      identity: text that changes with the files.

    Raises UserError for a file that cannot be read, and a disk without room.
    """
    key = hashlib.sha256(f'{column}\0{identity}\0{files[0].absolute()}'.encode()).hexdigest()[:16]
    folder = cache_dir() / 'arrow' / key
    places = [folder / f'{number:05}.arrow' for number in range(len(files))]
    folder.mkdir(parents=True, exist_ok=True)
    with paths.only_one(folder / '.lock'):
        missing = [pair for pair in zip(files, places, strict=True) if not pair[1].exists()]
        if missing:
            _check_room([file for file, _ in missing], column, folder)
        for file, place in missing:
            _copy(file, column, place)
    return places


def _check_room(files: Sequence[Path], column: str, folder: Path) -> None:
    needed = sum(_size(file, column) for file in files)
    free = shutil.disk_usage(folder).free
    amount = f'{len(files)} file(s), {needed / 2**20:,.1f} MiB'
    if needed > free:
        raise UserError(
            f'no space left for a copy of {files[0].parent} in {folder}: {amount}, and '
            f'{free / 2**20:,.1f} MiB are free. Make room, or set CLS_CACHE_DIR to another disk.'
        )
    log.info('%s: copying %s of images to %s, once', files[0].parent, amount, folder)


def _size(file: Path, column: str) -> int:
    """Returns the bytes of a column of a Parquet file without compression."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
        return sum(
            group.column(i).total_uncompressed_size
            for group in groups
            for i in range(group.num_columns)
            if group.column(i).path_in_schema.split('.')[0] == column
        )


def _copy(file: Path, column: str, place: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened, paths.writing(place) as output:
            schema = pa.schema([opened.schema_arrow.field(column)])
            with pa.ipc.new_stream(output, schema) as writer:
                for batch in opened.iter_batches(_ROWS, columns=[column]):
                    writer.write_batch(batch)
    except (OSError, pa.ArrowException) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file} cannot be copied ({reason}): expected a Parquet file.') from error
