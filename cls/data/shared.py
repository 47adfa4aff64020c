"""Arrays that worker processes share with the process that starts them."""

import mmap
import os
from typing import Any

import numpy as np

_SMALL = 2**16  # bytes; smaller arrays are copied


class SharedArray:
    """A one-dimensional, read-only array whose pickle names its memory instead of copying it.

    The memory becomes an anonymous file when the array is first pickled. A worker maps that file,
    so the process that pickles has to keep the array until its workers have started. The system
    frees the memory after the last process. The size of /dev/shm, 64 MiB in a Docker container, is
    no limit here. A system without such files, or without /proc, pickles copies.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.view()
        self.values.flags.writeable = False
        self._file: Any = None
        self._path = ''

    def __len__(self) -> int:
        return len(self.values)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._path and self.values.nbytes >= _SMALL and hasattr(os, 'memfd_create'):
            self._share()
        if self._path:
            return _mapped, (self._path, self.values.dtype.str)
        return SharedArray, (self.values,)

    def _share(self) -> None:
        """Moves the values to an anonymous file, if other processes can open it."""
        file = os.fdopen(os.memfd_create('cls'), 'r+b')
        path = f'/proc/{os.getpid()}/fd/{file.fileno()}'
        os.ftruncate(file.fileno(), self.values.nbytes)
        memory = np.frombuffer(mmap.mmap(file.fileno(), 0), self.values.dtype)
        memory[:] = self.values
        try:
            moved = _mapped(path, self.values.dtype.str)
        except (OSError, ValueError):
            return
        self.values, self._file, self._path = moved.values, file, path


def _mapped(path: str, dtype: str) -> SharedArray:
    with open(path, 'rb') as file:
        array = SharedArray(np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), dtype))
    array._path = path
    return array
