"""Data sets of tar files by pattern or folder: the files of each split, and their source."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.data import labels as cells
from cls.data import split_files, tars
from cls.data.labels import Column
from cls.data.listed import Listed
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.storage import download, paths

_MOST = 100_000  # files in a pattern
_GROUP = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')


def open_tars(rest: str, split: str, data: DataSpec, classes: Sequence[str]) -> Listed:
    """Opens a split, 'train' or 'eval', of samples in tar files.

    Args:
      rest: a folder with files named after splits, as train-000.tar, or a pattern of files with
        {000..012}, {a,b}, * and ?; several are separated by '::'.
      split: 'train' or 'eval'.
      data: the specification; data.eval_split may be a pattern too.
      classes: the names of a run's classes by label; (): those of the training samples.

    Raises UserError for files that are missing or cannot be read, and samples without labels.
    """
    root, files = _files_of(rest, data)
    training = split_files.chosen(str(root), files, 'train', data)
    name = training if split == 'train' else _evaluated(root, files, data)
    if name is None:
        raise split_files.no_training(f'wds:{rest}', files)
    images, labels = _read(files[name], data)
    first = labels if training in (name, None) else _read(files[training], data)[1]
    found = cells.classes_of(first, None, classes, data.class_order, f'wds:{rest}')
    numbers = cells.numbered(labels, None, found, data.multi_label, images.path)
    return Listed(root, images, numbers, found, name, data.exif)


def has_training(rest: str, data: DataSpec) -> bool:
    """Returns whether there are training samples. Raises UserError for missing files."""
    root, files = _files_of(rest, data)
    return split_files.chosen(str(root), files, 'train', data) is not None


def names_of(rest: str, data: DataSpec) -> list[str]:
    """Returns the names of the splits, ['all'] without any. Raises UserError."""
    return list(_files_of(rest, data)[1])


def _evaluated(root: Path, files: dict[str, list[Path]], data: DataSpec) -> str | None:
    if _is_pattern(data.eval_split):
        return next(name for name in files if name != 'train')
    return split_files.chosen(str(root), files, 'eval', data)


def _is_pattern(name: str) -> bool:
    return '.tar' in name


def _files_of(rest: str, data: DataSpec) -> tuple[Path, dict[str, list[Path]]]:
    """Returns (the folder, the tar files of each split)."""
    root, files = expanded(rest)
    if not _is_pattern(data.eval_split):
        return root, split_files.by_split(root, files)
    pattern = data.eval_split
    if '/' not in pattern:
        pattern = os.path.join(os.path.dirname(rest.split('::')[0]), pattern)
    _, evaluated = expanded(pattern)
    name = split_files.split_of(evaluated[0].name)
    return root, {'train': files, name if name not in ('', 'train') else 'validation': evaluated}


def _read(files: Sequence[Path], data: DataSpec) -> tuple[tars.TarImages, Column]:
    import pyarrow as pa

    indices = [tars.index_of(file, data.image_column, data.label_column) for file in files]
    content, ends = tars.joined([(index.labels, index.label_ends) for index in indices])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(content))]
    array = pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)
    return tars.TarImages(files, indices), cells.column(array, several=data.multi_label)


def expanded(rest: str) -> tuple[Path, list[Path]]:
    """Returns (their common folder, the tar files of a folder or pattern). Raises UserError."""
    if '{' not in rest and '*' not in rest and not _is_pattern(rest):
        root = download.fetched(rest)
        files = sorted(root.rglob('*.tar')) if root.is_dir() else []
        if not files:
            raise UserError(
                f'{root} has no tar files: expected a folder with some, or a pattern of them, as '
                'wds:DIR/train-{000..012}.tar.'
            )
        return root, files
    names = [name for part in rest.split('::') for name in braces(part)]
    if len(names) > _MOST:
        raise UserError(f'{rest} names {len(names):,} files: expected at most {_MOST:,}.')
    files = [file for name in names for file in _matching(name)]
    if absent := [file for file in files if not file.is_file()]:
        raise UserError(
            f'{len(absent)} of the {len(files)} files of {rest} do not exist, {absent[0]} for '
            'example: expected all of them.'
        )
    return Path(os.path.commonpath([file.absolute().parent for file in files])), files


def _matching(name: str) -> list[Path]:
    if paths.is_remote(name):
        return [download.fetched(name)]
    path = os.path.expanduser(name)
    if not glob.has_magic(path):
        return [Path(path)]
    found: list[Any] = sorted(glob.glob(path, recursive=True))
    if not found:
        raise UserError(f'no file matches {name}: expected a pattern of tar files.')
    return [Path(file) for file in found]


def braces(pattern: str) -> Iterator[str]:
    """Yields the names of a pattern with {a,b} and {000..012}, as a shell expands it."""
    group = _GROUP.search(pattern)
    if group is None:
        yield pattern
        return
    span = _RANGE.fullmatch(group[1])
    if span:
        first, last = int(span[1]), int(span[2])
        width = max(map(len, span.groups())) if '0' in (span[1][0], span[2][0]) else 0
        step = 1 if last >= first else -1
        texts = (f'{number:0{width}}' for number in range(first, last + step, step))
    else:
        texts = group[1].split(',')
    for text in texts:
        yield from braces(pattern[: group.start()] + text + pattern[group.end() :])
