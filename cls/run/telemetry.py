"""The output of a run: metrics.jsonl and other loggers, a progress line, a profile."""

import contextlib
import errno
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from cls.errors import UserError
from cls.run import metric_names
from cls.run.loggers import opening
from cls.run.loggers.base import Logger
from cls.run.loggers.spec import LogSpec
from cls.storage import paths

SEND = 60.0  # seconds between copies to a store
NEVER = (-1, -1)  # the steps of no profile
log = logging.getLogger(__name__)


class Metrics:
    """metrics.jsonl and the other loggers of a run; every line is flushed.

    For object stores the files are written on this machine, and what they have grown by is copied
    by `flush` and every SEND seconds.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        spec: LogSpec | None = None,
        services: Sequence[Logger] = (),
    ) -> None:
        """Continues after `step`: later lines, of a process that was killed, are removed.

        An evaluation at `step` is removed as well: it comes after the save and is repeated.

        Args:
          workdir: the run folder.
          step: the last step that is kept.
          spec: the loggers; None: the default ones.
          services: the loggers of services, closed with this object.
        """
        self._mirror = paths.Mirror(workdir) if paths.is_remote(workdir) else None
        folder = self._mirror.folder if self._mirror else workdir
        path = workdir / 'metrics.jsonl'
        if path.exists():
            content, damaged = _lines_until(path, step)
            if damaged:
                kept = paths.unused(workdir / f'{path.name}.damaged')
                paths.write_whole(kept, path.read_bytes())
                log.warning('%s: %s lines are damaged; see %s.', path, damaged, kept.name)
            paths.write_whole(folder / path.name, content)
        # Not buffered: a line that did not fit on the disk must not be retried.
        self._file = (folder / path.name).open('ab', buffering=0)
        self._loggers = [*opening.files(spec or LogSpec(), workdir, folder, step), *services]
        self._sent = time.monotonic()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one event. Values that are not finite become null in JSON."""
        line = {'step': step} | {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._append(json.dumps(line).encode() + b'\n')
        self.show(lambda logger: logger.write(step, values))
        if self._mirror and time.monotonic() - self._sent > SEND:
            try:
                self.flush()
            except Exception as error:  # of any library; the next flush sends it
                log.warning('metrics are not in the store yet (%s): trying again later.', error)
                self._sent = time.monotonic()

    def shows(self, kind: str) -> bool:
        """Returns whether any logger shows 'images', 'histograms', 'confusion' or 'summary'."""
        return any(logger.shows(kind) for logger in self._loggers)

    def show(self, entry: Callable[[Logger], None]) -> None:
        """Calls `entry` with each logger, for values that metrics.jsonl does not have."""
        for logger in self._loggers:
            entry(logger)

    def _append(self, line: bytes) -> None:
        """Appends a whole line or nothing. Raises UserError if the folder has been removed."""
        before = os.fstat(self._file.fileno())
        # If a disk is unmounted, its open files are lost, and the rest of the run would be written
        # to the mount point. Inodes are not compared: some network disks change them.
        there = Path(self._file.name)
        if not (before.st_nlink and there.exists() and there.stat().st_dev == before.st_dev):
            raise UserError(
                f'{there} is gone: it was removed, or its disk unmounted, while the run went on. '
                'Bring it back and run the same command again; it continues from the newest '
                'checkpoint, if that is still there.'
            )
        number = errno.ENOSPC
        try:
            if self._file.write(line) == len(line):
                return
        except OSError as error:
            number = error.errno or number
        with contextlib.suppress(OSError):
            self._file.truncate(before.st_size)
        raise OSError(number, os.strerror(number), self._file.name)

    def flush(self) -> None:
        """Waits until all lines are in the run folder."""
        if self._mirror:
            self._mirror.send()
            self._sent = time.monotonic()

    def close(self, failed: bool = False) -> None:
        """Closes the files and the other loggers; `failed`: the run ends in an error."""
        self._file.close()
        opening.close(self._loggers, failed)
        if self._mirror:
            self._mirror.close()


def _lines_until(path: Path, step: int) -> tuple[bytes, int]:
    """Returns the lines of metrics.jsonl up to a step, and the number of unreadable lines.

    A last line without an end is not counted.
    """
    kept, damaged = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            values = paths.parse_json(line)
            if type(values['step']) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            damaged += line.endswith(b'\n')
            continue
        repeated = values['step'] == step and metric_names.figure(values, 'top1') is not None
        if values['step'] <= step and not repeated and line.endswith(b'\n'):
            kept.append(line)
    return b''.join(kept), damaged


def logged_rows(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; damaged lines are passed over."""
    path, rows = workdir / 'metrics.jsonl', []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = paths.parse_json(line)
            if type(row['step']) is int:
                rows.append(row)
    return rows


class Progress:
    """A live line on a terminal, otherwise a plain line for each event; nothing unless `show`."""

    def __init__(self, step: int, total: int, show: bool = True) -> None:
        """Begins at a step of `total`; 0: the number of steps is not known."""
        self._total, self._show = f'/{total}' if total else '', show
        live = show and sys.stdout.isatty()
        # Without tqdm's steps per second: images per second are shown, and 80 columns are few.
        form = '{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
        self._bar = (
            tqdm(
                total=total or None,
                initial=step,
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format=form,
            )
            if live
            else None
        )

    def update(self, step: int, text: str, images_per_second: float, left: float):
        """Shows the progress at a step; `left` is the time to the end, in seconds."""
        if self._bar is not None:
            self._bar.set_postfix_str(f'{text}, {images_per_second:,.0f} images/s', refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._show:
            eta = f'{left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}'
            rate = f'{images_per_second:,.0f} images/s'
            print(f'step {step}{self._total}: {text}, {rate}, {eta} left', flush=True)

    def note(self, text: str) -> None:
        """Prints a separate line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif self._show:
            print(text, flush=True)

    def close(self) -> None:
        """Ends the live line."""
        if self._bar is not None:
            self._bar.close()


class Profile:
    """Writes a jax.profiler trace of some steps into workdir/profile."""

    def __init__(self, steps: tuple[int, int], workdir: Path) -> None:
        """Takes (first step, step after the last), see `profile_steps`."""
        self._start, self._stop = steps
        self._workdir, self._running = workdir, False
        self._mirror: paths.Mirror | None = None

    def at(self, step: int) -> None:
        """Starts or stops before the step."""
        if step == self._start:
            self._mirror = paths.Mirror(self._workdir) if paths.is_remote(self._workdir) else None
            folder = self._mirror.folder if self._mirror else self._workdir
            jax.profiler.start_trace(str(folder / 'profile'))
            self._running = True
        if step == self._stop:
            self.stop()

    def stop(self) -> None:
        """Stops a running trace."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            if self._mirror:
                self._mirror.close()


def profile_steps(text: str) -> tuple[int, int]:
    """Returns the steps (START, STOP) of config.profile, NEVER for ''. Raises UserError."""
    if not text:
        return NEVER
    match = re.fullmatch(r'(\d{1,12}):(\d{1,12})', text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(
            f'config.profile is {text!r}: expected START:STOP, two steps that grow, as 10:20.'
        )
    return int(match[1]), int(match[2])


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: a reader sees either the old or the new content."""
    paths.write_whole(path, (json.dumps(value, indent=2) + '\n').encode())
