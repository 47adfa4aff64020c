"""Records of ArrayRecord files: random access, with a bounded number of open files.

array_record's own source opens every file and never closes one, so a data set of 1,024 files
exceeds the usual limit of a process. It also reads a record in time that grows with the number of
records in its file: `read([i])` makes a list for each of them, and `read(i, i + 1)` does not.
"""

import bisect
import collections
import functools
import hashlib
import importlib
import itertools
import os
import resource
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cls.data import broken
from cls.storage import paths

_WANTED = 2**16  # open files, if the system allows that many
_AT_ONCE = 2048  # records
_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # for random access


class Part(NamedTuple):
    """Consecutive records of a file."""

    path: str
    first: int
    count: int


class Shards:
    """The records of several files as one sequence of bytes; a pickle has only their names."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._ends = list(itertools.accumulate(part.count for part in parts))
        self.readers: dict[int, Any] = {}  # by the number of the part

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.parts,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return next(self.between(index, index + 1))

    def between(self, start: int, stop: int) -> Iterator[bytes]:
        """Yields the records from `start` to `stop`. Raises UserError for an unreadable file."""
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            end = min(stop, self._ends[number], start + _AT_ONCE)
            yield from self._read(number, start, end)
            number, start = number + (end == self._ends[number]), end

    def _read(self, number: int, start: int, stop: int) -> list[bytes]:
        part = self.parts[number]
        first = part.first + start - (self._ends[number] - part.count)

        def read() -> list[bytes]:
            try:
                return _opened(self, number).read(first, first + stop - start)
            except (IndexError, RuntimeError, ValueError) as error:
                self.readers.pop(number, None)
                raise OSError(str(error)) from error

        return broken.insisting(read, part.path)

    def fingerprint(self) -> str:
        """Returns a digest of the records' files, changed when their content is; '' if unknown.

        No content is read: of a local file it has size and time, of an object its checksum.
        """
        digest, found = hashlib.sha256(), {}
        try:
            for path, first, count in self.parts:
                folder, _, name = path.rpartition('/')
                if not paths.is_remote(path):
                    status = os.stat(path)
                    state = f'{status.st_size} {status.st_mtime_ns}'
                else:
                    found[folder] = found.get(folder) or paths.find(paths.path(folder))
                    state = paths.fingerprint(found[folder][name])
                digest.update(os.fsencode(f'{path}\0{first}\0{count}\0{state}\n'))
        except (OSError, KeyError):
            return ''
        return digest.hexdigest()[:32]


# The readers of this process, the last used ones at the end: (number of an object, of its part).
_recent: collections.OrderedDict[tuple[int, int], weakref.ref[Shards]] = collections.OrderedDict()
_lock = threading.Lock()


def _opened(shards: Shards, number: int) -> Any:
    """Returns the reader of a part, and closes others if there are too many. Raises OSError."""
    reader = shards.readers.get(number)
    if reader is None:
        reader = shards.readers[number] = _open(shards.parts[number].path)
    key = id(shards), number
    with _lock:
        _recent[key] = weakref.ref(shards)
        _recent.move_to_end(key)
        while len(_recent) > _most_readers():
            (_, other), owner = _recent.popitem(last=False)
            if owner := owner():
                owner.readers.pop(other, None)  # closed when no other thread reads from it
    return reader


def _open(path: str) -> Any:
    module: Any = importlib.import_module('array_record.python.array_record_module')
    reader = module.ArrayRecordReader(path, options=_OPTIONS, file_reader_buffer_size=2**15)
    if reader.ok():
        return reader
    if not paths.is_remote(path):
        os.close(os.open(path, os.O_RDONLY))  # raises the system's error: too many open files, ...
    raise OSError('not a file of ArrayRecord')


@functools.cache
def _most_readers() -> int:
    """Returns half of the number of files that this process may open.

    That limit is raised first, as far as the process may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = [_WANTED if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)]
    wanted = min(_WANTED, allowed[1])
    if allowed[0] >= wanted:
        return allowed[0] // 2
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return allowed[0] // 2
    return wanted // 2
