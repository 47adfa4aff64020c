"""SIGTERM as a request to save and stop."""

import os
import signal
import threading
from types import TracebackType


class Preempted(Exception):
    """Raised by `Preemption.check`; nobody's mistake."""


class Preemption:
    """While entered, notes a SIGTERM instead of dying of it.

    Python runs signal handlers between its own instructions, so one that arrives during a minute of
    compilation would wait that long. A thread that is woken by the signal itself looks after that:
    while there is nothing to save, it ends the process at once, with code 0.
    """

    def __init__(self) -> None:
        self.requested = False
        self._something_to_save = False

    def __enter__(self) -> 'Preemption':
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
        """Says whether a SIGTERM from now on waits for the loop to see `requested` and save."""
        self._something_to_save = something_to_save

    def check(self) -> None:
        """Raises Preempted once a SIGTERM has come."""
        if self.requested:
            raise Preempted

    def _watch(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] == signal.SIGTERM:
                self.requested = True
                if not self._something_to_save:
                    print('stopped by SIGTERM; nothing new to save.', flush=True)
                    os._exit(0)
