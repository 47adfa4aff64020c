"""Signals that ask a program to stop, handled in a separate thread.

Python runs signal handlers between bytecode instructions, and so not during a minute of
compilation. An exception that a handler raises in a callback of the garbage collector is printed
and dropped. So the handlers in this module do nothing. The system writes the number of each signal
to a pipe, and a thread reads it.

SIGTERM comes from Slurm, Kubernetes and `timeout`, SIGINT from Ctrl-C, SIGHUP from a terminal that
is closed. A program started by `python -m cls.NAME` listens from the import of `cls` on, before JAX
is loaded. In a notebook only a training run listens, to SIGTERM, and Ctrl-C raises
KeyboardInterrupt as usual in Python.

May import: nothing.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import NoReturn

JOBS = ('train', 'evaluate', 'print')  # of cls.main; `cls JOB` is the same program
TOGETHER = 'cls.experiments.together'  # trains too
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A run that saved is not at fault when a scheduler takes its machine away. A user who presses
# Ctrl-C in a loop over seeds wants the loop to stop.
CODES: dict[int, int] = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 129}
NOTHING_YET = 'nothing to save yet.'

_ECHO = 0.2  # seconds: `timeout` and others send a signal to a process and to its group
_CLEANING = 3.0  # seconds for a program to clean up after Ctrl-C
# bash ends a loop only if the process in it was killed by SIGINT; exit code 130 is not enough.
_SHELLS = {'bash', 'sh', 'dash', 'zsh', 'ksh', 'mksh', 'fish', 'tcsh', 'csh', 'busybox'}

Hear = Callable[[int, bool], None]  # (the signal, whether this is a second Ctrl-C)

stopped_by: int | None = None  # the signal that stops the program
_listener: '_Listener | None' = None  # the listener of the program
_is_job = False  # whether the program is cls.main
_raises = False  # whether Ctrl-C raises KeyboardInterrupt, for a program that cleans up
_fail_all: Callable[[str, int], None] | None = None  # ends all processes of a run
_pending: int | None = None  # a signal that arrived before `heard_by`
_last_code = 0


class _Listener:
    """A thread that calls `hear` for each signal, and the handlers that it needs."""

    def __init__(self, numbers: tuple[int, ...], hear: Hear) -> None:
        """Starts listening to the signals, except to ignored ones, as under nohup."""
        self.hear = hear
        self._interrupted: float | None = None
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._earlier = {
            number: signal.signal(number, _handle)
            for number in numbers
            if signal.getsignal(number) != signal.SIG_IGN
        }
        self._earlier_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True, name='signals')
        self._thread.start()

    def close(self) -> None:
        """Restores the earlier handlers."""
        signal.set_wakeup_fd(self._earlier_fd)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def _listen(self) -> None:
        while data := os.read(self._read, 1):
            number, now = data[0], time.monotonic()
            if number not in self._earlier:
                continue
            earlier = self._interrupted if number == signal.SIGINT else None
            again = earlier is not None
            if earlier is not None and now - earlier < _ECHO:
                continue
            if number == signal.SIGINT:
                self._interrupted = now
            self.hear(signal.Signals(number), again)


def _handle(number: int, _frame: object) -> None:
    if _raises and number == signal.SIGINT:
        raise KeyboardInterrupt


def begin(arguments: list[str]) -> None:
    """Listens until the end of the program; before `heard_by` there is nothing to save.

    Args:
      arguments: the command, starting with its module ('cls.main' or 'cls'), or all of
        sys.orig_argv.
    """
    global _listener, _is_job
    if _listener or threading.current_thread() is not threading.main_thread():
        return
    _is_job = bool(_job(arguments))
    # SIGTERM and SIGHUP kill a tool, as by default.
    _listener = _Listener(
        STOPS if _is_job else (signal.SIGINT,),
        _nothing_yet if _job(arguments) == 'train' else _failed,
    )
    atexit.register(_exit_at_last)  # registered first, called last


def _job(arguments: list[str]) -> str:
    """Returns the job of a command, '' for a tool. Only a training can be continued."""
    words = [word for argument in arguments for word in argument.split('=', 1)]
    modules = [word.removeprefix('-m') for word in words]
    if TOGETHER in modules:
        return 'train'
    if 'cls.main' in modules:
        jobs = [after for word, after in zip(words, words[1:], strict=False) if word == '--job']
        return next((job for job in jobs if job != 'train'), 'train')
    if 'cls' in modules:
        command = words[modules.index('cls') + 1 :]
        return command[0] if command and command[0] in JOBS else ''
    return ''


def _nothing_yet(number: int, again: bool) -> None:
    global _pending
    if stopped_by is not None:  # the program has saved and is about to end
        if again:
            leave('interrupted again', CODES[number])
        return
    if _fail_all and not again:
        _pending = number
    else:
        leave(f'stopped by {signal.Signals(number).name}; {NOTHING_YET}', CODES[number])


def _failed(number: int, again: bool) -> None:
    text = 'interrupted' if number == signal.SIGINT else f'stopped by {signal.Signals(number).name}'
    if _fail_all and not again:  # in another thread, so that a second signal is heard
        threading.Thread(target=_fail_all, args=(text, 128 + number), daemon=True).start()
    else:
        leave(text, 128 + number)


def tell_all(fail: Callable[[str, int], None]) -> None:
    """Sets the function that ends all processes of the run with a line and an exit code."""
    global _fail_all
    _fail_all = fail


def tidies_up() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt in a tool, so that it can clean up.

    A tool that is still running some seconds later is killed: the exception was swallowed, or is
    waiting for a call into C.
    """
    global _raises
    if _listener and not _is_job:
        _raises = True
        _listener.hear = _tidied


def _tidied(number: int, again: bool) -> None:
    if again:
        die(CODES[number])
    end = threading.Timer(_CLEANING, leave, ('interrupted', CODES[number]))
    end.daemon = True
    end.start()


@contextlib.contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """A context that passes signals to `hear`, in a thread.

    A program of cls receives all of its signals, a notebook only SIGTERM. Outside the main thread,
    the owner of signal handlers, no signals are received.
    """
    global _pending
    if _listener:
        earlier, _listener.hear = _listener.hear, hear
        if _pending is not None:
            hear(_pending, False)
            _pending = None
        try:
            yield
        finally:
            _listener.hear = earlier
    elif threading.current_thread() is threading.main_thread():
        with contextlib.closing(_Listener((signal.SIGTERM,), hear)):
            yield
    else:
        yield


def exit_code() -> int:
    """Returns the exit code of a program that was stopped by a signal."""
    return 0 if stopped_by is None else CODES.get(stopped_by, 0)


def finish(code: int) -> NoReturn:
    """Ends the program from the main thread with the exit code that a shell expects."""
    global _last_code
    _last_code = code
    sys.exit(code)


def _exit_at_last() -> None:
    if _last_code == CODES[signal.SIGINT]:
        die(_last_code)


def leave(text: str, code: int) -> NoReturn:
    """Ends the process from any thread with a line and an exit code, without cleaning up."""
    with contextlib.suppress(Exception):  # the reader may have gone
        stream = sys.stdout if code == 0 else sys.stderr
        stream.write(f'{text}\n')
    die(code)


def die(code: int) -> NoReturn:
    """Ends the process immediately, from any thread."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if code == CODES[signal.SIGINT] and _started_by_a_shell():
        # Only the main thread may use signal.signal. The signal may take a moment to arrive.
        ctypes.CDLL(None).signal(int(signal.SIGINT), None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    os._exit(code)


def _started_by_a_shell() -> bool:
    try:
        return Path(f'/proc/{os.getppid()}/comm').read_text().strip() in _SHELLS
    except OSError:  # not on Linux; Python does the same for a KeyboardInterrupt
        return True


# ------------------------------------------------------------------------------------------------
# Worker processes
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """A context that blocks STOPS for processes started by this thread or its children.

    The process that starts them handles a signal to the process group. Since blocked signals stay
    blocked, no signal can reach them before they ignore it in `serve`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    resource_tracker.ensure_running()  # starting it unblocks two of the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Makes this process a worker of its parent: it ignores STOPS, and ends with the parent.

    A closed pipe announces the end of the parent on every system, whatever its cause.
    PR_SET_PDEATHSIG of Linux does not work: it is sent when the thread that started the process
    ends.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name='parent').start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
