"""TensorBoard event files of a run."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.run.loggers import drawing
from cls.run.loggers.base import Histogram, Logger, Place, Points


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

FOLDER = 'tensorboard'  # in the run folder
_proto: Any = event_pb2  # its classes are made when it is imported


def open_logger(place: Place) -> 'Board':
    """Returns a logger for a run."""
    return Board(place.folder / FOLDER, place.step)


def how_to_view(workdir: Path) -> str:
    """Returns the line on how to look at the files of a run folder."""
    return f'TensorBoard: tensorboard --logdir {workdir / FOLDER} (pip install tensorboard)'


class Board(Logger):
    """A TensorBoard event file.

    It is written synchronously: a full disk ends the thread of tensorboardX's writer, and the next
    write would wait for it forever.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Continues after `step`: later events, of a process that was killed, are hidden."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._points = folder, Points()
        # The names have seconds, and TensorBoard reads the files in the order of their names.
        self._file = EventsWriter(str(folder / 'events'), f'.{step:010}')
        start = _proto.SessionLog(status=_proto.SessionLog.START)
        self._add(step=step + 1, session_log=start)
        self._file.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        new = self._points.new(step, values)
        self._write(step, [summary.scalar(name, value) for name, value in new.items()])

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        self._write(step, [_image(name, drawing.grid(images))])

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        self._write(step, [_histogram(name, each) for name, each in histograms.items()])

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        self._write(step, [_image(name, drawing.heat_map(counts))])

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        rows = [f'| {name} | {value} |' for name, value in values.items()]
        text = '\n'.join(['| result | |', '| --- | --- |', *rows])
        self._write(step, [summary.text('result', text)])

    def _write(self, step: int, summaries: Sequence[Any]) -> None:
        try:
            for each in summaries:
                self._add(step=step, summary=each)
            self._file.flush()
        except OSError as error:  # it does not name the file
            raise OSError(error.errno, error.strerror, str(self._folder)) from error

    def _add(self, **fields: Any) -> None:
        self._file.write_event(_proto.Event(wall_time=time.time(), **fields))

    def close(self, failed: bool = False) -> None:
        self._file.close()


def _image(name: str, image: np.ndarray) -> Any:
    return summary.image(name, image, dataformats='HWC')


def _histogram(name: str, histogram: Histogram) -> Any:
    return summary.histogram_raw(
        name,
        min=histogram.low,
        max=histogram.high,
        num=int(histogram.counts.sum()),
        sum=histogram.total,
        sum_squares=histogram.squares,
        bucket_limits=histogram.edges[1:].tolist(),
        bucket_counts=histogram.counts.tolist(),
    )
