"""The one exception for mistakes of the user, shown as a line and exit code 2 (see cls.main)."""

import argparse
import contextlib
import difflib
import errno
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from cls import signals

_FULL = 'no space left'
# What is wrong with a file or its disk, not with the program.
_ON_FILES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE),
    *(errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ENOTCONN),
)


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what was wrong, expected, and to do."""


class Parser(argparse.ArgumentParser):
    """Reads the flags of a program; a mistake is a UserError, one line as all others."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f'{message}; {self.prog} --help lists the flags.')


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns ' Did you mean a, b?' with the known names nearest to `name`, or ''."""
    known = list(known)
    begun = [other for other in known if name and other.startswith(name)]
    close = (begun or difflib.get_close_matches(name, known, n=count, cutoff=0.5))[:count]
    return f' Did you mean {", ".join(close)}?' if close else ''


def reason(error: BaseException) -> str:
    """Returns why the system refused an operation on a file, '' if that is not what went wrong.

    It is looked for in what an error was raised from too, whichever library did.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror and seen.errno in _ON_FILES:
            names = [str(name) for name in (seen.filename, seen.filename2) if name is not None]
            return ': '.join([*names[-1:], seen.strerror.lower()])
        if _FULL in str(seen).lower():
            return f'{_FULL} on the disk ({str(seen).splitlines()[0][:200]})'
        seen = seen.__cause__ or seen.__context__
    return ''


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
    from cls.distributed import agreement

    if sys.stdout and sys.stderr:
        sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)
    signals.tidies_up()
    try:
        signals.finish(main())
    except KeyboardInterrupt:
        if agreement.links:
            agreement.fail('interrupted', 130)
        print('interrupted', file=sys.stderr)
        signals.finish(130)
    except UserError as error:
        message = str(error)
    except Exception as error:
        if why := reason(error):
            message = f'{why}; mend that and run the same command again.'
        elif agreement.links:
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
