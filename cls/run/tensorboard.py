"""TensorBoard event files of a run."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """A context that prevents the import of modules that are not imported yet."""
    absent = [name for name in modules if name not in sys.modules]
    sys.modules |= dict.fromkeys(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


# If these are installed, tensorboardX imports them to write to object stores, which takes half as
# long as importing JAX. Here the files are written on disk and copied.
with _hidden('boto3', 'google.cloud.storage'):
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

_proto: Any = event_pb2  # its classes are made when it is imported


class Board:
    """A TensorBoard event file.

    It is written synchronously: a full disk ends the thread of tensorboardX's writer, and the next
    write would wait for it forever.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Continues after `step`: later events, of a process that was killed, are hidden."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = EventsWriter(str(folder / 'events'))
        start = _proto.SessionLog(status=_proto.SessionLog.START)
        self._add(step=step + 1, session_log=start)
        self._file.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one event for each value."""
        try:
            for name, value in values.items():
                self._add(step=step, summary=summary.scalar(name, value))
            self._file.flush()
        except OSError as error:  # it does not name the file
            raise OSError(error.errno, error.strerror, str(self._folder)) from error

    def _add(self, **fields: Any) -> None:
        self._file.write_event(_proto.Event(wall_time=time.time(), **fields))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
