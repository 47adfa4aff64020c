"""Commands of trials on other machines, in a job of Slurm or a task of Ray.

The machines share the sweep folder: a file there asks a training to save and stop.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.5  # seconds between looks for the file
SAVING = 60.0  # seconds for a training to save when its job is about to end


def run(command: Sequence[str], log: str, stop_file: str) -> int:
    """Runs a command to its end; returns its exit code, negative for a signal."""
    with _begun(command, log) as process:
        return _ended(process, Path(stop_file))


def _begun(command: Sequence[str], log: str) -> subprocess.Popen:
    # The interpreter of this machine: the path of another one may not exist here.
    with Path(log).open('ab') as output:
        return subprocess.Popen(
            [sys.executable, *command[1:]],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
        )


def _ended(process: subprocess.Popen, stop_file: Path) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(PAUSE)
        if stop_file.exists():
            _stop(process)


def _stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        if process.stdin:
            process.stdin.close()


@dataclasses.dataclass
class Command:
    """A command that submitit runs, and queues again when its time is over."""

    command: Sequence[str]
    log: str
    stop_file: str
    process: Any = None

    def __call__(self) -> int:
        """Runs the command; returns its exit code."""
        self.process = _begun(self.command, self.log)
        with self.process:
            return _ended(self.process, Path(self.stop_file))

    def checkpoint(self) -> Any:
        """Returns the job that continues this one; submitit calls it before a job is ended."""
        import submitit  # pyright: ignore[reportMissingImports]

        if self.process is not None:
            _stop(self.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SAVING)
        return submitit.helpers.DelayedSubmission(Command(self.command, self.log, self.stop_file))
