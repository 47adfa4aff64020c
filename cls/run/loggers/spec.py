"""The specification of a run's loggers."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from cls.errors import Mistakes, UserError, nearest, require

FILES = ('tensorboard', 'csv')  # in the run folder
SERVICES = ('wandb', 'mlflow', 'trackio')  # each needs its package, an extra of the same name
KNOWN = (*FILES, *SERVICES)


@dataclasses.dataclass(frozen=True)
class LogSpec:
    """The loggers of a run.

    Attributes:
      to: names among KNOWN, in order.
      project: the project of the run in a service; mlflow calls it an experiment.
      images: number of augmented training images to log at the start; 0: none.
      histograms_every: steps between histograms of parameters and gradients; 0: none.
    """

    to: tuple[str, ...] = ('tensorboard',)
    project: str = 'cls'
    images: int = 16
    histograms_every: int = 0

    @classmethod
    def from_config(cls, config: Any, *, to_steps: Callable[[str], int]) -> 'LogSpec':
        """Reads config.log; `check_packages` is separate. Raises UserError with all mistakes."""
        log, mistakes = config.log, Mistakes()
        mistakes.attempt(check, log.to)
        mistakes.attempt(_check_project, log.project)
        every = mistakes.attempt(_interval, log.histograms_every, to_steps)
        mistakes.refuse()
        return cls(tuple(log.to), log.project, log.images, every)

    def check_packages(self) -> None:
        """Raises UserError for the packages of services that are not installed."""
        mistakes = Mistakes()
        for name in self.services:
            mistakes.attempt(require, name, name)
        mistakes.refuse()

    @property
    def files(self) -> tuple[str, ...]:
        """The loggers with files in the run folder."""
        return tuple(name for name in self.to if name in FILES)

    @property
    def services(self) -> tuple[str, ...]:
        """The loggers with a run in a service."""
        return tuple(name for name in self.to if name in SERVICES)


def check(names: tuple[str, ...]) -> None:
    """Raises UserError for a logger that is unknown or listed twice."""
    for name in names:
        if name not in KNOWN:
            raise UserError(
                f'config.log.to has {name!r}: expected any of {", ".join(KNOWN)}.'
                + nearest(name, KNOWN)
            )
        if names.count(name) > 1:
            raise UserError(f'config.log.to is {names!r}: expected each logger once.')


def _check_project(project: str) -> None:
    if not project.strip():
        raise UserError(f'config.log.project is {project!r}: expected a name.')


def module(name: str) -> Any:
    """Returns the module of a logger: `open_logger` takes a `Place`."""
    return importlib.import_module(f'cls.run.loggers.{name}')


def _interval(duration: str, to_steps: Callable[[str], int]) -> int:
    if not duration:
        return 0
    steps = to_steps(duration)
    if steps < 1:
        raise UserError(
            f"config.log.histograms_every is {duration!r}: expected at least one step, or '' for "
            'none.'
        )
    return steps
