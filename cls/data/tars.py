"""Samples in tar files, in WebDataset's format: wds:PATTERN.

Consecutive members with the same key, the name up to its first dot, are a sample: 0001.jpg and
0001.cls. An index of the members is made once for each file and kept in the cache; with it any
sample is read alone, so that the order of training is a shuffle of all samples.
"""

import contextlib
import hashlib
import io
import itertools
import logging
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cls.data.decode import SUFFIXES
from cls.data.file_list import ImageList, Strings
from cls.data.scan import once
from cls.data.shared import SharedArray
from cls.errors import UserError
from cls.storage import paths
from cls.storage.cache import cache_dir

LABEL = 'cls'  # the field of the label, if config.data.label_column is ''
_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
_KEY = re.compile(r'((?:.*/|)[^.]+)[.]([^/]*)', re.S)
_META = re.compile(r'__[^/]*__($|/)')
_COMPRESSED = b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd'
_VERSION = 1  # of the indices in the cache
log = logging.getLogger(__name__)


class Index(NamedTuple):
    """The samples of a tar file.

    Attributes:
      starts, sizes: (N,) int64, the bytes of the images in the file.
      names: their names, uint8, and `name_ends`, (N + 1,) int64.
      labels: the text of the labels, uint8, and `label_ends`, (N + 1,) int64.
    """

    starts: np.ndarray
    sizes: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray
    labels: np.ndarray
    label_ends: np.ndarray


class TarImages(ImageList):
    """The images of samples in tar files.

    Args:
      files: the tar files.
      indices: their samples.
    """

    def __init__(self, files: Sequence[Path], indices: Sequence[Index]) -> None:
        self._files = tuple(files)
        counts = [len(index.starts) for index in indices]
        self._ends = np.cumsum([0, *counts])
        self._starts, self._sizes = (
            SharedArray(np.concatenate([getattr(index, field) for index in indices]))
            for field in ('starts', 'sizes')
        )
        self._names = Strings(*joined([(index.names, index.name_ends) for index in indices]))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        return f'{self._file(index).name}/{os.fsdecode(self._names[index])}'

    def path(self, index: int) -> str:
        return f'{self._file(index).parent}/{self[index]}'

    def content(self, index: int) -> bytes:
        size = int(self._sizes.values[index])
        file = os.open(self._file(index), os.O_RDONLY)
        try:
            content = os.pread(file, size, int(self._starts.values[index]))
        finally:
            os.close(file)
        if len(content) < size:
            raise OSError('the tar file ends early')
        return content

    def digest(self) -> bytes:
        state = hashlib.sha256(self._sizes.values.data)
        self._names.update(state)
        return state.digest()

    def _file(self, index: int) -> Path:
        return self._files[int(np.searchsorted(self._ends, index, 'right')) - 1]


def joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (content uint8, ends (N + 1,) int64) of several lists of strings after each other."""
    contents = [content for content, _ in parts]
    lengths = [np.diff(ends) for _, ends in parts]
    return np.concatenate(contents), np.cumsum(np.concatenate([[0], *lengths])).astype(np.int64)


def index_of(file: Path, image: str, label: str) -> Index:
    """Returns the samples of a tar file, from the cache or read now.

    Args:
      file: the tar file.
      image: the field of the image, as 'jpg'; '': the one with the suffix of an image.
      label: the field of the label, or a key of the field 'json'; '': 'cls', else the key 'label'.

    Raises UserError for a compressed or damaged file, and samples without an image or label.
    """
    status = file.stat()
    text = (
        f'{_VERSION}\0{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{image}\0{label}'
    )
    kept = cache_dir() / 'tars' / f'{hashlib.sha256(os.fsencode(text)).hexdigest()[:32]}.npz'
    unusable = OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile  # missing, or damaged
    with contextlib.suppress(*unusable), np.load(kept, allow_pickle=False) as arrays:
        return Index(*(arrays[name] for name in Index._fields))
    log.info('%s: indexing its samples, once', file)
    index = _made(file, image, label)
    content = io.BytesIO()
    np.savez(content, **index._asdict())
    with contextlib.suppress(OSError):  # it can be made again
        kept.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(kept, content.getvalue())
    return index


def _made(file: Path, image: str, label: str) -> Index:
    starts, sizes, names, labels = [], [], [], []
    with file.open('rb') as opened:
        if opened.read(6).startswith(_COMPRESSED):
            raise UserError(
                f'{file} is compressed: expected a tar file without compression, in which any '
                'sample can be read alone (`gunzip`, `zstd -d`).'
            )
        for key, fields in itertools.groupby(_members(file), lambda member: member[0]):
            sample = _sample(file, key, fields)
            name, member = _image(file, key, sample, image)
            starts.append(member.offset_data)
            sizes.append(member.size)
            names.append(os.fsencode(f'{key}.{name}'))
            labels.append(_label(file, key, sample, label, opened).encode())
    if not starts:
        raise UserError(f'{file} has no samples: expected members as 0001.jpg and 0001.{LABEL}.')
    return Index(
        np.array(starts, np.int64),
        np.array(sizes, np.int64),
        *(_packed(names)),
        *(_packed(labels)),
    )


def _packed(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return np.frombuffer(b''.join(texts), np.uint8), ends


def _members(file: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yields (key, field, member) of the files in a tar file. Raises UserError."""
    try:
        with tarfile.open(file, 'r:') as opened:
            tar: Any = opened
            while (member := tar.next()) is not None:
                tar.members.clear()  # they would be kept until the end
                parts = _KEY.fullmatch(member.name)
                if not member.isreg() or not parts or _META.match(member.name):
                    continue
                if member.issparse():
                    raise UserError(f'{file}: {member.name} is stored sparse: expected it whole.')
                yield parts[1], parts[2].lower(), member
            _check_end(file, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f'{file} cannot be read ({error}): expected a whole tar file without compression.'
        ) from error


def _check_end(file: Path, offset: int) -> None:
    """Raises UserError unless a tar file has its end where tarfile has stopped.

    It also stops, without an error, at a header that is damaged or incomplete.
    """
    with file.open('rb') as opened:
        opened.seek(offset)
        block = opened.read(tarfile.BLOCKSIZE)
    if not block:
        once(f'{file} has no mark of its end: it may have been cut after its last member.')
    elif len(block) < tarfile.BLOCKSIZE or any(block):
        raise UserError(
            f'{file} is damaged or ends early, at byte {offset:,}: expected a whole tar file.'
        )


def _sample(file: Path, key: str, members: Any) -> dict[str, tarfile.TarInfo]:
    sample = {}
    for _, field, member in members:
        if field in sample:
            raise UserError(f'{file}: {key}.{field} is there twice: expected each field once.')
        sample[field] = member
    return sample


def _image(
    file: Path, key: str, sample: dict[str, tarfile.TarInfo], wanted: str
) -> tuple[str, tarfile.TarInfo]:
    """Returns the field of the image in a sample. Raises UserError without one, or with several."""
    found = [name for name in sample if name == wanted or (not wanted and name in _IMAGES)]
    if len(found) != 1:
        raise UserError(
            f'{file}: the sample {key} has the fields {", ".join(sample)}: expected '
            + (f'the field {wanted}' if wanted else 'one image, as jpg or png')
            + ' (a key ends at the first dot; config.data.image_column chooses the field).'
        )
    return found[0], sample[found[0]]


def _label(
    file: Path, key: str, sample: dict[str, tarfile.TarInfo], wanted: str, opened: Any
) -> str:
    """Returns the label of a sample as text; several are separated by |. Raises UserError."""

    def content(name: str) -> str:
        opened.seek(sample[name].offset_data)
        return opened.read(sample[name].size).decode().strip()

    try:
        if (wanted or LABEL) in sample:
            return content(wanted or LABEL)
        if 'json' in sample:
            value = paths.parse_json(content('json'))
            if isinstance(value, dict) and (wanted or 'label') in value:
                value = value[wanted or 'label']
                return '|'.join(map(str, value)) if isinstance(value, list) else str(value)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f'{file}: the label of the sample {key} cannot be read ({error}): expected text.'
        ) from error
    expected = f'the field {wanted or LABEL}, or json with the key {wanted or "label"}'
    raise UserError(
        f'{file}: the sample {key} has the fields {", ".join(sample)} and no label: expected '
        f'{expected} (config.data.label_column chooses another one).'
    )
