"""Trackio; TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL, ... are read by the package."""

import contextlib
import contextvars
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cls.run.loggers import drawing
from cls.run.loggers.base import Histogram, Logger, Package, Place, new_id

trackio: Any = Package('trackio')


def open_logger(place: Place) -> 'Run':
    """Returns a logger for a run. Raises the errors of Trackio."""
    return Run(place)


class Run(Logger):
    """A run of Trackio: in a database of this machine, on a server, or in a Space.

    Trackio continues a run by its name, so the name has a random part.
    """

    def __init__(self, place: Place) -> None:
        """Creates the run, or continues that of `place.id`."""
        self.id, self._project = place.id or f'{place.name}-{new_id()}', place.project
        # In a context of its own: the package ends the current run a second time, and prints that.
        context = contextvars.copy_context()
        with contextlib.redirect_stdout(io.StringIO()):  # `how_to_view` has its lines
            self._run = context.run(
                trackio.init,
                place.project,
                name=self.id,
                resume='allow',
                config=dict(place.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

        following = getattr(self._run, '_next_step', None)  # the package has no public name for it
        if place.id and following is not None:
            self.last_step = following - 1

    def how_to_view(self) -> str:
        return f'trackio: run {self.id}; trackio show --project {self._project!r} shows it'

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        self._run.log({name: trackio.Image(drawing.grid(images))}, step=step)

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        values = {
            name: trackio.Histogram(np_histogram=(each.counts, each.edges))
            for name, each in histograms.items()
        }
        self._run.log(values, step=step)

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        self._run.log({name: trackio.Image(drawing.heat_map(counts))}, step=step)

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self._run.log({f'result/{name}': float(value) for name, value in numbers.items()}, step)
        lines = [f'- {name}: {value}' for name, value in values.items()]
        self._run.log({'result': trackio.Markdown('\n'.join(lines))}, step=step)

    def close(self, failed: bool = False) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
