"""The contract of loggers."""

import dataclasses
import importlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Package:
    """A package, or a module of one, that is imported at the first use of its content."""

    def __init__(self, name: str) -> None:
        """Takes the name of the module."""
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):  # questions of inspect, of which no module has to be imported
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """The distribution of the values of an array, in bins of one width.

    Attributes:
      counts: (B,) numbers of values in the bins.
      low: the smallest value, the start of the first bin.
      high: the largest value, the end of the last bin.
      total: the sum of the values.
      squares: the sum of their squares.
    """

    counts: np.ndarray
    low: float
    high: float
    total: float
    squares: float

    @property
    def edges(self) -> np.ndarray:
        """The (B + 1,) limits of the bins, ascending; of equal values half a unit around them."""
        margin = 0.0 if self.low < self.high else 0.5
        return np.linspace(self.low - margin, self.high + margin, len(self.counts) + 1)


@dataclasses.dataclass(frozen=True)
class Place:
    """The run that a logger writes to.

    Attributes:
      workdir: the run folder.
      folder: the folder for the logger's files: the run folder, or for an object store a folder of
        this machine, which is copied there.
      step: the run continues after this step; later entries, of a process that was killed, are
        removed from files.
      project: the project of a service.
      config: dotted name -> value of each field.
      id: the id of a service's run that continues; '' for a new one.
    """

    workdir: Path
    folder: Path
    step: int = 0
    project: str = 'cls'
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    id: str = ''

    @property
    def name(self) -> str:
        """The name of the run in a service: that of its folder."""
        return self.workdir.name or str(self.workdir)


class Logger:
    """A logger of a run. Each method may raise any error; all but `write` may do nothing."""

    id = ''  # of the run in a service
    last_step: int | None = None  # that a continued run of a service has; None: unknown

    def how_to_view(self) -> str:
        """Returns one line on how to look at the logged values; '' if there is nothing to say."""
        return ''

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one event; values that are not finite are allowed."""
        raise NotImplementedError

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Logs images (N, H, W, C) uint8 with 1 or 3 channels."""

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Logs histograms by name."""

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        """Logs the numbers (K, K) of images, rows by class, columns by prediction.

        `classes` has the K names of the classes.
        """

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs the result of the run: numbers and text by name."""

    def close(self, failed: bool = False) -> None:
        """Completes the log; `failed`: the run ends in an error."""

    def shows(self, kind: str) -> bool:
        """Returns whether the logger shows 'images', 'histograms', 'confusion' or 'summary'."""
        return getattr(type(self), kind) is not getattr(Logger, kind)


class Points:
    """The points of each curve that a logger has: (step, value) by name, the last one of each.

    Training and an evaluation after the same step are two events, and both have the epoch.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def new(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the values without those that their curves end with at this step."""
        result = {name: x for name, x in values.items() if self._last.get(name) != (step, x)}
        self._last |= {name: (step, x) for name, x in result.items()}
        return result


def new_id() -> str:
    """Returns a random id of a run in a service."""
    return secrets.token_hex(4)
