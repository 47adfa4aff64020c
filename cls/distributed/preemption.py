"""SIGTERM, Ctrl-C and a closed terminal as requests to save and stop, of all processes of a run at
the same step.

The exit code says which it was: 0 after SIGTERM, 130 after Ctrl-C (SIGINT), 129 after SIGHUP, on
all processes. A second Ctrl-C ends a run at once. See cls.signals for how signals are noted.

JAX has such a service too (multihost_utils.reached_preemption_sync_point), with a handler of its
own that leaves a process no way to end while there is nothing to save; `distributed.start` switches
it off, and this is the only one.

With several processes any of them may get the signal. It tells process 0, which asks all how many
times they have called `due`; they wait at their next call until process 0, having heard all, tells
them the number after the highest. There all stop. Threads do the asking, so that a process which
compiles answers too: its answer is that it has nothing to save, and then nobody has anything new,
as no step is taken without it.
"""

import contextlib
import logging
import signal
import threading
import time
from types import TracebackType
from typing import Any

from cls import signals
from cls.distributed import agreement

log = logging.getLogger(__name__)

_NOTHING_NEW = 'nothing new to save.'
_TOGETHER = 4.0  # seconds that all processes have to end in, after a second Ctrl-C


class Preempted(Exception):
    """Raised by `Preemption.check`; nobody's mistake."""


class Preemption:
    """While entered, notes a signal instead of dying of it.

    While there is nothing to save, the thread that notes it ends the process at once.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._something_to_save = False
        self._nothing = signals.NOTHING_YET
        self._links = agreement.peers
        # With several processes: calls of `due` until now; whether process 0 has asked for them;
        # the call at which to stop.
        self._calls, self._asked, self._last = 0, False, None
        self._changed = threading.Condition()
        self._answers: dict[int, int | None] = {}  # on process 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> 'Preemption':
        if self._links:
            self._links.listen(self._hear)
        self._stack.enter_context(signals.heard_by(self._note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def guard(self, something_to_save: bool) -> None:
        """Says whether a signal from now on waits for the loop to ask whether it is `due`."""
        if not something_to_save:
            agreement.gather('saved', None)  # all of them have
        with self._changed:
            self._something_to_save = something_to_save
            if not something_to_save:
                self._nothing = _NOTHING_NEW

    def due(self) -> bool:
        """Returns whether to stop here; all processes ask at the same points and get one answer."""
        if not self._links:
            return self._signal is not None
        with self._changed:
            self._calls += 1
            if self._asked:
                self._changed.wait_for(lambda: self._last is not None)
            return self._last is not None and self._calls >= self._last

    def check(self) -> None:
        """Raises Preempted where a stop is `due`."""
        if self.due():
            raise Preempted

    def _note(self, number: int, again: bool) -> None:
        """Called in a thread for each signal; `again`: it is a second Ctrl-C."""
        if again:
            self._end_at_once(signals.CODES[number])
        elif self._links and self._links.index:
            self._links.signal({'what': 'asked', 'signal': number})
        elif self._links:
            self._hear(0, {'what': 'asked', 'signal': number})
        elif self._signal is None:
            self._decide(number)
            if not self._something_to_save:
                signals.leave(self._nothing_line(), signals.exit_code())

    def _decide(self, number: int) -> None:
        """Notes which signal the run stops for: of several, the first."""
        if number not in signals.CODES:
            raise ValueError(f'{number!r} is no signal to stop for')
        self._signal = signals.stopped_by = number
        if number == signal.SIGINT and self._something_to_save:
            agreement.print_once('interrupted: saving; Ctrl-C again ends at once, without.')

    def _nothing_line(self) -> str:
        return f'stopped by {signal.Signals(self._signal).name}; {self._nothing}'

    def _end_at_once(self, code: int) -> None:
        if self._links:
            fail = threading.Thread(target=self._links.fail, args=('interrupted', code))
            fail.daemon = True
            fail.start()
            time.sleep(_TOGETHER)
        signals.die(code)

    def _hear(self, sender: int, message: dict[str, Any]) -> None:
        """What the threads of the processes tell each other."""
        _check(message, by_first=self._links.index > 0)
        what = message['what']
        with self._changed:
            if what == 'asked':  # to process 0, which asks once
                if self._asked:
                    return
                self._asked = True
                self._decide(message['signal'])
                self._links.signal({'what': 'calls?', 'signal': self._signal})
                self._answers[0] = self._calls if self._something_to_save else None
            elif what == 'calls?':
                self._asked = True
                self._decide(message['signal'])
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
            if self._links.index == 0:
                log.info(self._nothing_line())
            self._links.leave(signals.exit_code())
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
