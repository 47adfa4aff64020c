"""The names of the files of a data set, in little memory that worker processes share."""

import array
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from cls.data.shared import SharedArray


class FileList(Sequence[str]):
    """The names of files in a folder, relative to it.

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

    def __len__(self) -> int:
        return len(self._names)

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
        run = int(np.searchsorted(self._starts.values, np.uint64(index), 'right')) - 1
        return os.fsdecode(self._folders[run] + self._names[index])

    def __iter__(self) -> Iterator[str]:
        starts = [*self._starts.values.tolist(), len(self)]
        for run, (start, stop) in enumerate(itertools.pairwise(starts)):
            folder = self._folders[run]
            for name in self._names.between(start, stop):
                yield os.fsdecode(folder + name)

    def path(self, index: int) -> str:
        """Returns the path of a file."""
        return self._folder + self[index]


def _inner(name: str) -> str:
    return name[: name.rfind('/') + 1]


class _Strings:
    """Strings of bytes in one array, with their ends."""

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self._content, self._ends = SharedArray(content), SharedArray(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        start, stop = self._ends.values[index : index + 2].tolist()
        return self._content.values[start:stop].tobytes()

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

    def built(self) -> _Strings:
        """Returns the strings."""
        small = len(self._content) < 2**32
        ends = np.zeros(len(self) + 1, np.uint32 if small else np.uint64)
        np.cumsum(np.frombuffer(self._lengths, np.uint16), out=ends[1:])
        return _Strings(np.frombuffer(bytes(self._content), np.uint8), ends)
