"""A program that ends with its parent: runs a module of cls while its standard input is open.

  python -m cls.experiments.trial -m cls.main --config resnet --workdir DIR

When the parent closes the pipe, or is killed, the module receives SIGTERM: a training saves a
checkpoint and stops. If another process still uses the run folder, as a training that a killed
sweep has left and that is saving, the program waits for it.
"""

import fcntl
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cls import signals
from cls.cli import run

PATIENCE = 300.0  # seconds


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """Returns the command of this program for a module and its arguments."""
    return [sys.executable, '-m', 'cls.experiments.trial', '-m', module, *arguments]


def main() -> int:
    """Runs the module of the arguments; returns its exit code."""
    flag, name, *arguments = sys.argv[1:]
    assert flag == '-m'
    threading.Thread(target=_follow_parent, daemon=True, name='parent').start()
    for folder in _folders(arguments):
        wait_for(folder)
    sys.argv[1:] = arguments
    return importlib.import_module(name).main()


def _follow_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _folders(arguments: Sequence[str]) -> list[Path]:
    """Returns the values of --workdir."""
    pairs = zip(arguments, arguments[1:], strict=False)
    return [Path(value) for name, value in pairs if name == '--workdir']


def wait_for(folder: Path, patience: float = PATIENCE) -> None:
    """Waits until no process holds the lock of a run folder, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            with (folder / '.lock').open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
        except FileNotFoundError:
            return
        except BlockingIOError:
            time.sleep(0.1)


if __name__ == '__main__':
    signals.begin(sys.orig_argv)
    run(main)
