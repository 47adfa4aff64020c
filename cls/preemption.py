"""SIGTERM as a request to save and stop, of all processes of a run at the same step.

JAX has such a service too (multihost_utils.reached_preemption_sync_point), with a handler of its
own that leaves a process no way to end while there is nothing to save; `distributed.start` switches
it off, and this is the only one.

With several processes any of them may get the signal. It tells process 0, which asks all how many
times they have called `due`; they wait at their next call until process 0, having heard all, tells
them the number after the highest. There all stop. Threads do the asking, so that a process which
compiles answers too: its answer is that it has nothing to save, and then nobody has anything new,
as no step is taken without it.
"""

import os
import signal
import threading
from types import TracebackType
from typing import Any

from cls import distributed

_NOTHING = 'stopped by SIGTERM; nothing new to save.'


class Preempted(Exception):
    """Raised by `Preemption.check`; nobody's mistake."""


class Preemption:
    """While entered, notes a SIGTERM instead of dying of it.

    Python runs signal handlers between its own instructions, so one that arrives during a minute of
    compilation would wait that long. A thread that is woken by the signal itself looks after that:
    while there is nothing to save, it ends the process at once, with code 0.
    """

    def __init__(self) -> None:
        self._requested = False
        self._something_to_save = False
        self._links = distributed.links
        # With several processes: calls of `due` until now; whether process 0 has asked for them;
        # the call at which to stop.
        self._calls, self._asked, self._last = 0, False, None
        self._changed = threading.Condition()
        self._answers: dict[int, int | None] = {}  # on process 0

    def __enter__(self) -> 'Preemption':
        if self._links:
            self._links.listen(self._hear)
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's; a test or notebook may run us in another
        self._earlier = signal.signal(signal.SIGTERM, lambda *_: None)
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._earlier_fd = signal.set_wakeup_fd(self._write)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not hasattr(self, '_thread'):
            return
        signal.set_wakeup_fd(self._earlier_fd)
        signal.signal(signal.SIGTERM, self._earlier)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def guard(self, something_to_save: bool) -> None:
        """Says whether a SIGTERM from now on waits for the loop to ask whether it is `due`."""
        if not something_to_save:
            distributed.gather('saved', None)  # all of them have
        with self._changed:
            self._something_to_save = something_to_save

    def due(self) -> bool:
        """Returns whether to stop here; all processes ask at the same points and get one answer."""
        if not self._links:
            return self._requested
        with self._changed:
            self._calls += 1
            if self._asked:
                self._changed.wait_for(lambda: self._last is not None)
            return self._last is not None and self._calls >= self._last

    def check(self) -> None:
        """Raises Preempted where a stop is `due`."""
        if self.due():
            raise Preempted

    def _watch(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] != signal.SIGTERM:
                continue
            if self._links and self._links.index:
                self._links.signal({'what': 'asked'})
            elif self._links:
                self._hear(0, {'what': 'asked'})
            else:
                self._requested = True
                if not self._something_to_save:
                    print(_NOTHING, flush=True)
                    os._exit(0)

    def _hear(self, sender: int, message: dict[str, Any]) -> None:
        """What the threads of the processes tell each other."""
        _check(message, by_first=self._links.index > 0)
        what = message['what']
        with self._changed:
            if what == 'asked':  # to process 0, which asks once
                if self._asked:
                    return
                self._asked = True
                self._links.signal({'what': 'calls?'})
                self._answers[0] = self._calls if self._something_to_save else None
            elif what == 'calls?':
                self._asked = True
                calls = self._calls if self._something_to_save else None
                self._links.signal({'what': 'calls', 'calls': calls})
            elif what == 'calls':
                self._answers[sender] = message['calls']
                if len(self._answers) == self._links.count:
                    calls = self._answers.values()
                    last = None if None in calls else max(calls) + 1
                    self._links.signal({'what': 'stop', 'last': last})
                    self._stop(last)
            elif what == 'stop':
                self._stop(message['last'])

    def _stop(self, last: int | None) -> None:
        if last is None:
            self._links.leave(_NOTHING)
        self._last = last
        self._changed.notify_all()


def _check(message: dict[str, Any], by_first: bool) -> None:
    """Raises ValueError for a signal that process 0, or another, does not send."""
    what = message['what']
    if what not in (('calls?', 'stop') if by_first else ('asked', 'calls')):
        raise ValueError(f'signal {what!r}')
    number = message[{'calls': 'calls', 'stop': 'last'}[what]] if what in ('calls', 'stop') else 0
    if number is not None and (type(number) is not int or number < 0):
        raise ValueError(f'signal {what!r} with {number!r}')
