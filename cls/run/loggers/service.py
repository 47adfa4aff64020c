"""A logger of a service, in a thread of its own: training neither waits for it nor ends with it."""

import collections
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cls.run.loggers.base import Histogram, Logger, Points

AGAIN = 30.0  # seconds until an entry that could not be sent is tried again
PATIENCE = 20.0  # seconds that `close` waits for entries; hosts that are preempted have about 30
MOST = 10_000  # entries that wait
log = logging.getLogger(__name__)


class Service(Logger):
    """Hands the entries of a run to a logger, in order.

    An entry that fails is tried again later, with one warning for each outage. Entries that cannot
    be sent until the end are counted in a warning; metrics.jsonl has all numbers.
    """

    def __init__(
        self,
        name: str,
        logger: Logger,
        logged: Mapping[str, int],
        keep: Callable[[Mapping[str, int]], None] = lambda logged: None,
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Starts the thread.

        Args:
          name: the name of the service.
          logger: the logger; after this it is used only in the thread.
          logged: the last step at which each name of an entry is in the service, from processes
            that were killed. Such entries are not sent again.
          earlier: the lines of metrics.jsonl that the run continues after; those that are not in
            the service are sent first.
          keep: called with `logged` after each entry that is not in metrics.jsonl.
        """
        self._name, self._logger, self._keep = name, logger, keep
        self._logged, self._points = dict(logged), Points()
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = self._failed_run = False
        for row in earlier:
            values = {k: v for k, v in row.items() if k != 'step' and v is not None}
            self._waiting.extend(self._write(row['step'], values))
        self._thread = threading.Thread(target=self._work, name=f'log to {name}', daemon=True)
        self._thread.start()

    def how_to_view(self) -> str:
        return self._logger.how_to_view()

    def shows(self, kind: str) -> bool:
        return self._logger.shows(kind)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for entry in self._write(step, values):
            self._put(entry)

    def _write(self, step: int, values: Mapping[str, float]) -> list[Callable[[], None]]:
        """Returns the entry of the values that are not in the service yet, [] if all are."""
        new = {name: x for name, x in values.items() if self._logged.get(name, -1) < step}
        new = self._points.new(step, new)
        return [functools.partial(self._logger.write, step, new)] if new else []

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        self._once(step, f'images {name}', self._logger.images, name, images)

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        self._once(step, 'histograms', self._logger.histograms, histograms)

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        self._once(step, f'confusion {name}', self._logger.confusion, name, counts, classes)

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        self._once(step, 'summary', self._logger.summary, values)

    def _once(self, step: int, name: str, method: Callable[..., None], *arguments: Any) -> None:
        """Sends an entry, unless it has been sent for this step or a later one."""
        if self._logged.get(name, -1) < step:
            self._put(functools.partial(method, step, *arguments))
            self._logged[name] = step
            try:
                self._keep(self._logged)
            except Exception as error:  # of any storage
                self._warn(f'{_line(error)}; after a kill it may get the {name} twice')

    def _put(self, entry: Callable[[], None]) -> None:
        with self._changed:
            if len(self._waiting) >= MOST:
                self._dropped += 1
                return
            self._waiting.append(entry)
            self._changed.notify()

    def _work(self) -> None:
        """Sends the entries until `close`."""
        warned = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                entry = self._waiting[0]
            try:
                entry()
            except Exception as error:  # of any library
                if not warned:
                    self._warn(f'{_line(error)}; trying again, and the training goes on')
                warned = True
                with self._changed:
                    if self._closing:
                        break
                    self._changed.wait_for(lambda: self._closing, AGAIN)
                continue
            warned = False
            with self._changed:
                if self._waiting:  # `close` may have given up
                    self._waiting.popleft()
        with contextlib.suppress(Exception):
            self._logger.close(self._failed_run)

    def close(self, failed: bool = False) -> None:
        with self._changed:
            self._closing, self._failed_run = True, failed
            self._changed.notify()
        self._thread.join(PATIENCE)
        with self._changed:
            lost = len(self._waiting) + self._dropped
            self._waiting.clear()
        if lost:
            self._warn(f'{lost} entries could not be sent; metrics.jsonl has their numbers')
        elif self._thread.is_alive():
            self._warn('it has not confirmed the end of the run')

    def _warn(self, text: str) -> None:
        log.warning('config.log.to %s: %s.', self._name, text)


def _line(error: Exception) -> str:
    """Returns an error as a part of one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:300].rstrip('.: ')
