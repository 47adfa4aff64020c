"""The entry point shared by all programs: flags, terminal output of the log, errors, exit codes.

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


class _Formatter(argparse.HelpFormatter):
    """Fills the paragraphs of a description, except indented ones: commands and tables."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        text = re.sub(r'\n+May import: .*', '', text.strip('\n'), flags=re.DOTALL)
        paragraphs = re.split(r'\n\s*\n', text)
        return '\n\n'.join(
            paragraph
            if re.search(r'^\s|\S {2,}\S', paragraph, re.MULTILINE)
            else super(_Formatter, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


class _Lines(logging.StreamHandler):
    """Prints INFO unchanged on stdout, warnings and errors as `WARNING: ...` on stderr."""

    least = logging.WARNING  # the lowest level that goes to stderr

    def emit(self, record: logging.LogRecord) -> None:
        if logging.WARNING <= record.levelno < self.least:
            return
        self.stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno < logging.WARNING else f'{record.levelname}: {text}'


def show_log(level: int = logging.WARNING) -> None:
    """Prints the log: INFO of cls, and warnings of cls and of libraries from `level` on.

    Only programs call it: programs that import cls as a library set up logging themselves.
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
    """A parser of flags that raises UserError for mistakes."""

    def __init__(self, **options: Any) -> None:
        """Creates a parser whose help keeps the paragraphs of its description."""
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}; {self.prog} --help lists the flags.')


class _Lasting:
    """A standard stream that outlives its reader, for example a `tee` that ends before the run."""

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
            os.dup2(nothing, self._stream.fileno())  # also for the rest of the buffer
            os.close(nothing)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a program and exits with its code; a UserError becomes a line on stderr and code 2.

    A full disk, and a file that cannot be read or written, are treated in the same way, in any
    library. If the process is one of several, all of them end. Ctrl-C gives one line and code 130.
    If a pipe or terminal is closed, the output is lost, and the program continues.
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
            message = f'{why}; fix that and run the same command again.'
        elif agreement.peers:
            time.sleep(2)  # if another process failed first, this one is ended meanwhile
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
    """Removes the middle of words that would fill the screen."""
    return re.sub(r'(\S{60})\S{140,}(\S{20})', r'\1...\2', line)


def _exit(code: int) -> NoReturn:
    """Ends the process even if threads of libraries are blocked."""
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
