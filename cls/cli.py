"""The frame of every program of the project: flags, one line for a mistake, exit codes.

May import: distributed, errors, signals.
"""

import argparse
import contextlib
import errno
import logging
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from cls import signals
from cls.distributed import agreement
from cls.errors import UserError, reason


class _Lines(logging.StreamHandler):
    """Prints information on stdout as it is, warnings and errors as `WARNING: ...` on stderr."""

    least = logging.WARNING  # of what goes to stderr

    def emit(self, record: logging.LogRecord) -> None:
        if logging.WARNING <= record.levelno < self.least:
            return
        self.stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno < logging.WARNING else f'{record.levelname}: {text}'


def show_log(level: int = logging.WARNING) -> None:
    """Prints the log: information of cls, and warnings of cls and of libraries from a level on.

    Only programs call it: whoever imports cls as a library sets up logging himself.
    """
    ours = logging.getLogger('cls')
    ours.setLevel(logging.INFO)
    if not any(isinstance(handler, _Lines) for handler in ours.handlers):
        ours.addHandler(_Lines())
    for handler in ours.handlers:
        if isinstance(handler, _Lines):
            handler.least = level
    logging.basicConfig()
    logging.getLogger().setLevel(level)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # ours, or one that a library made on import
            handler.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
            handler.addFilter(_is_foreign)


def _is_foreign(record: logging.LogRecord) -> bool:
    return record.name.partition('.')[0] != 'cls'


class Parser(argparse.ArgumentParser):
    """Reads the flags of a program; a mistake is a UserError, one line as all others."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}; {self.prog} --help lists the flags.')


class _Lasting:
    """A standard stream whose reader may go: `tee` and a terminal do, before the run has saved."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._for_nobody():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._for_nobody():
            self._stream.flush()

    @contextlib.contextmanager
    def _for_nobody(self) -> Any:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())  # also for what is still in the buffer
            os.close(nothing)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a program and exits with its code; a UserError becomes a line on stderr and code 2.

    So does a full disk, or a file that cannot be read or written, whichever library came upon it.
    Where a process is one of several, all end.
    Ctrl-C is one line and code 130. What is printed to a pipe or terminal that is closed is lost,
    and the program goes on.
    """
    if sys.stdout and sys.stderr:
        sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
    show_log()
    signals.tidies_up()
    try:
        signals.finish(main())
    except KeyboardInterrupt:
        if agreement.peers:
            agreement.fail('interrupted', 130)
        print('interrupted', file=sys.stderr)
        signals.finish(130)
    except UserError as error:
        message = str(error)
    except Exception as error:
        if why := reason(error):
            message = f'{why}; mend that and run the same command again.'
        elif agreement.peers:
            time.sleep(2)  # what failed may be that another process has gone: then this one ends
            traceback.print_exc()
            agreement.fail(f'{type(error).__name__}: {error}'[:300], 1)
        else:
            traceback.print_exc()
            _exit(1)
    try:
        agreement.fail(_shortened(' '.join(message.split())), 2)
    except SystemExit:
        _exit(2)


def _shortened(line: str) -> str:
    """Cuts the middle out of words that fill a screen, as a value of thousands of letters."""
    return re.sub(r'(\S{60})\S{140,}(\S{20})', r'\1...\2', line)


def _exit(code: int) -> NoReturn:
    """Ends the process, even where libraries have threads that wait for what does not come."""
    deadline = time.monotonic() + 0.5
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join(max(deadline - time.monotonic(), 0))
            if thread.is_alive():
                break
    else:
        sys.exit(code)
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
