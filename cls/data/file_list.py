"""The names of the files of a data set, in little memory that worker processes share."""

import abc
import array
import copy
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from cls.data.shared import SharedArray

_AT_ONCE = 2**12  # names whose bytes are gathered together, with a 64-bit index for each


class ImageList(Sequence[str], abc.ABC):
    """The names of encoded images, and their contents. Names and numbers are in shared memory."""

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """Returns the place of an image, for messages: the path of its file for example."""

    @abc.abstractmethod
    def content(self, index: int) -> bytes:
        """Returns an encoded image. Raises OSError."""

    @abc.abstractmethod
    def digest(self) -> bytes:
        """Returns a digest of the names, in their order, and of what is known without reading."""


class FileList(ImageList):
    """The names of files in a folder, relative to it; those of `of_paths` may be absolute.

    A file takes four bytes and those of its name without folders: for ImageNet a tenth of a list of
    paths. Folders are stored once for each run of files in the same one.

    Args:
      folder: The folder.
      groups: (prefix, names) pairs: the files are prefix + name below the folder, in this order. A
        prefix is empty or ends in a slash; names may have slashes.
    """

    def __init__(self, folder: Path, groups: Iterable[tuple[str, Iterable[str]]]) -> None:
        self._folder = os.path.join(folder, '')
        names, folders, starts = _Builder(), _Builder(), array.array('Q')
        for prefix, group in groups:
            for inner, run in itertools.groupby(group, _inner):
                starts.append(len(names))
                folders.add([os.fsencode(prefix + inner)])
                names.add([os.fsencode(name[len(inner) :]) for name in run])
        self._names, self._folders = names.built(), folders.built()
        self._starts = SharedArray(np.frombuffer(starts, np.uint64))
        self._rows: SharedArray | None = None

    @classmethod
    def of_paths(cls, folder: Path, content: np.ndarray, ends: np.ndarray) -> 'FileList':
        """Returns N paths, relative to a folder or absolute.

        Args:
          folder: The folder.
          content: uint8, the bytes of all paths.
          ends: (N + 1,) the ends of the paths in `content`, after a 0.
        """
        files = cls(folder, [])
        kind = np.uint32 if len(content) < 2**32 else np.uint64
        files._names = Strings(content, ends.astype(kind))
        files._folders = Strings(np.zeros(0, np.uint8), np.zeros(2, np.uint32))
        files._starts = SharedArray(np.zeros(1, np.uint64))
        return files

    def selected(self, rows: np.ndarray) -> 'FileList':
        """Returns some of the files, by their (n,) indices; the memory of the names is shared."""
        files = copy.copy(self)
        files._rows = SharedArray(np.asarray(rows, np.uint32))
        return files

    def __len__(self) -> int:
        return len(self._names) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        index = self.row(index)
        run = int(np.searchsorted(self._starts.values, np.uint64(index), 'right')) - 1
        return os.fsdecode(self._folders[run] + self._names[index])

    def __iter__(self) -> Iterator[str]:
        if self._rows is not None:
            yield from map(self.__getitem__, range(len(self)))
            return
        starts = [*self._starts.values.tolist(), len(self)]
        for run, (start, stop) in enumerate(itertools.pairwise(starts)):
            folder = self._folders[run]
            for name in self._names.between(start, stop):
                yield os.fsdecode(folder + name)

    def row(self, index: int) -> int:
        """Returns the index of a file in the list that it was selected from."""
        return index if self._rows is None else int(self._rows.values[index])

    def path(self, index: int) -> str:
        """Returns the path of a file."""
        return os.path.join(self._folder, self[index])

    def content(self, index: int) -> bytes:
        """Returns the content of a file. Raises OSError."""
        return content(self.path(index))

    def digest(self) -> bytes:
        """Returns a digest of the names, in their order; fast for files of one folder."""
        state = hashlib.sha256()
        for first in range(0, len(self), _AT_ONCE):
            rows = np.arange(first, min(first + _AT_ONCE, len(self)))
            rows = rows if self._rows is None else self._rows.values[rows]
            runs = np.searchsorted(self._starts.values, rows.astype(np.uint64), 'right') - 1
            for strings, at in ((self._folders, runs), (self._names, rows)):
                for part in strings.gathered(at):
                    state.update(part.data)
        return state.digest()


def hashed(content: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns (N,) uint64, hashes of strings that are equal for equal ones, in little memory.

    Args:
      content: uint8, the bytes of all strings.
      ends: (N + 1,) the ends of the strings in `content`, after a 0.
    """
    draws = np.random.Philox(key=0)
    factors = draws.random_raw(int(np.diff(ends).max(initial=0)) + 1)
    hashes = np.zeros(len(ends) - 1, np.uint64)
    for first in range(0, len(hashes), _AT_ONCE):
        part = ends[first : first + _AT_ONCE + 1]
        lengths = np.diff(part)
        place = np.arange(part[-1] - part[0]) - np.repeat(part[:-1] - part[0], lengths)
        terms = factors[place + 1] * content[part[0] : part[-1]]
        sums = np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)])
        at = part - part[0]
        hashes[first : first + len(lengths)] = sums[at[1:]] - sums[at[:-1]]
        hashes[first : first + len(lengths)] += factors[0] * lengths.astype(np.uint64)
    return hashes


def content(path: str) -> bytes:
    """Returns the content of a file. Raises OSError."""
    with open(path, 'rb', buffering=0) as opened:  # a buffer would add a copy
        return opened.read()


def _inner(name: str) -> str:
    return name[: name.rfind('/') + 1]


class Strings:
    """Strings of bytes in one array, with their ends."""

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self._content, self._ends = SharedArray(content), SharedArray(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        start, stop = self._ends.values[index : index + 2].tolist()
        return self._content.values[start:stop].tobytes()

    def gathered(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (lengths, the bytes of all) of the strings at some rows."""
        ends = self._ends.values
        starts, lengths = (
            ends[rows].astype(np.int64),
            (ends[rows + 1] - ends[rows]).astype(np.int64),
        )
        before = np.cumsum(lengths) - lengths
        at = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
        return lengths, self._content.values[at]

    def update(self, state: Any) -> None:
        """Adds all strings to a hash of hashlib."""
        state.update(self._ends.values)
        state.update(self._content.values)

    def between(self, start: int, stop: int) -> Iterator[bytes]:
        """Yields the strings from `start` to `stop`; faster than one by one."""
        ends = self._ends.values[start : stop + 1].tolist()
        content = self._content.values[ends[0] : ends[-1]].tobytes()
        for first, last in itertools.pairwise(ends):
            yield content[first - ends[0] : last - ends[0]]


class _Builder:
    """Strings that are still being added to."""

    def __init__(self) -> None:
        self._content, self._lengths = bytearray(), array.array('H')

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, strings: list[bytes]) -> None:
        """Adds some strings."""
        self._content += b''.join(strings)
        self._lengths.extend(map(len, strings))

    def built(self) -> Strings:
        """Returns the strings."""
        small = len(self._content) < 2**32
        ends = np.zeros(len(self) + 1, np.uint32 if small else np.uint64)
        np.cumsum(np.frombuffer(self._lengths, np.uint16), out=ends[1:])
        return Strings(np.frombuffer(bytes(self._content), np.uint8), ends)
