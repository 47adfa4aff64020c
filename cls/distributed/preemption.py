"""Preemption: SIGTERM, Ctrl-C and a closed terminal make all processes save at the same step.

All processes exit with 0 after SIGTERM, with 130 after Ctrl-C (SIGINT) and with 129 after SIGHUP. A
second Ctrl-C ends a run immediately. cls.signals describes how signals are received.

The preemption service of JAX (multihost_utils.reached_preemption_sync_point) is disabled: its
signal handler does not let a process end while there is nothing to save.

With several processes any of them may get the signal, and reports it to process 0. Process 0 asks
all processes how many times they have called `due`. Each process waits at its next call until
process 0 has all answers and sends the highest number plus one: all stop at that call. Threads
answer, so a process that is compiling answers too. It has nothing to save, and neither has any
other process, because a step takes all of them.
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
_TOGETHER = 4.0  # seconds for all processes to end after a second Ctrl-C


class Preempted(Exception):
    """A signal stops the run; raised by `Preemption.check`."""


class Preemption:
    """A context that handles signals, so that they do not kill the process.

    As long as there is nothing to save, the thread that receives a signal ends the process
    immediately.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._something_to_save = False
        self._nothing = signals.NOTHING_YET
        self._peers: Any = agreement.peers  # None: a run of one process
        # With several processes: the calls of `due` so far, whether process 0 has asked for their
        # number, and the call to stop at.
        self._calls, self._asked, self._last = 0, False, None
        self._changed = threading.Condition()
        self._answers: dict[int, int | None] = {}  # on process 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> 'Preemption':
        if self._peers:
            self._peers.listen(self._hear)
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
        """Sets whether a signal waits from now on until the loop calls `due`."""
        if not something_to_save:
            agreement.gather('saved', None)  # waits until all have saved
        with self._changed:
            self._something_to_save = something_to_save
            if not something_to_save:
                self._nothing = _NOTHING_NEW

    def due(self) -> bool:
        """Returns whether to stop now. All processes call it in step and get the same result."""
        if not self._peers:
            return self._signal is not None
        with self._changed:
            self._calls += 1
            if self._asked:
                self._changed.wait_for(lambda: self._last is not None)
            return self._last is not None and self._calls >= self._last

    def check(self) -> None:
        """Raises Preempted if a stop is `due`."""
        if self.due():
            raise Preempted

    def _note(self, number: int, again: bool) -> None:
        """Handles a signal, in a thread; `again` is True for a second Ctrl-C."""
        if again:
            self._end_at_once(signals.CODES[number])
        elif self._peers and self._peers.index:
            self._peers.signal({'what': 'asked', 'signal': number})
        elif self._peers:
            self._hear(0, {'what': 'asked', 'signal': number})
        elif self._signal is None:
            self._decide(number)
            if not self._something_to_save:
                signals.leave(self._nothing_line(), signals.exit_code())

    def _decide(self, number: int) -> None:
        """Sets the signal that the run stops for, the first of several."""
        if number not in signals.CODES:
            raise ValueError(f'{number!r} is not a signal to stop for')
        self._signal = signals.stopped_by = number
        if number == signal.SIGINT and self._something_to_save:
            agreement.print_once('interrupted: saving; Ctrl-C again ends at once, without.')

    def _nothing_line(self) -> str:
        return f'stopped by {signal.Signals(self._signal).name}; {self._nothing}'

    def _end_at_once(self, code: int) -> None:
        if self._peers:
            fail = threading.Thread(target=self._peers.fail, args=('interrupted', code))
            fail.daemon = True
            fail.start()
            time.sleep(_TOGETHER)
        signals.die(code)

    def _hear(self, sender: int, message: dict[str, Any]) -> None:
        """Handles a message from the thread of another process."""
        _check(message, by_first=self._peers.index > 0)
        what = message['what']
        with self._changed:
            if what == 'asked':  # sent to process 0; it asks only once
                if self._asked:
                    return
                self._asked = True
                self._decide(message['signal'])
                self._peers.signal({'what': 'calls?', 'signal': self._signal})
                self._answers[0] = self._calls if self._something_to_save else None
            elif what == 'calls?':
                self._asked = True
                self._decide(message['signal'])
                calls = self._calls if self._something_to_save else None
                self._peers.signal({'what': 'calls', 'calls': calls})
            elif what == 'calls':
                self._answers[sender] = message['calls']
                if len(self._answers) == self._peers.count:
                    calls = [count for count in self._answers.values() if count is not None]
                    last = max(calls) + 1 if len(calls) == len(self._answers) else None
                    self._peers.signal({'what': 'stop', 'last': last})
                    self._stop(last)
            elif what == 'stop':
                self._stop(message['last'])

    def _stop(self, last: int | None) -> None:
        if last is None:
            if self._peers.index == 0:
                log.info(self._nothing_line())
            self._peers.leave(signals.exit_code())
        self._last = last
        self._changed.notify_all()


def _check(message: dict[str, Any], by_first: bool) -> None:
    """Raises ValueError for a message that process 0, or another process, does not send."""
    what = message['what']
    if what not in (('calls?', 'stop') if by_first else ('asked', 'calls')):
        raise ValueError(f'signal {what!r}')
    number = message[{'calls': 'calls', 'stop': 'last'}[what]] if what in ('calls', 'stop') else 0
    if number is not None and (type(number) is not int or number < 0):
        raise ValueError(f'signal {what!r} with {number!r}')
