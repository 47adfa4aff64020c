"""Requests that arrive at once, computed together.

One thread computes. While it computes a batch, further requests wait, and they make up the next
batch. So an idle server answers at once, and a busy one in large batches, without a time to tune.
"""

import collections
import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

# Numbers of images in a batch: few, as each is a program that is compiled before the start.
SIZES = (1, 4, 16)
# Those of a CPU, where an image that fills up a batch takes as long as any: there it is never done.
CPU_SIZES = (1, 2, 4)


class Closed(Exception):
    """The batcher accepts no more work."""


class Batcher:
    """Computes images in batches, and other work between them, in one thread.

    Attributes:
      batches: the number of batches of each size so far.
    """

    def __init__(
        self,
        compute: Callable[[np.ndarray], np.ndarray],
        sizes: Sequence[int],
        whole: bool = False,
    ) -> None:
        """Starts the thread.

        Args:
          compute: maps images (N, H, W, C) uint8, N one of `sizes`, to results (N, ...).
          sizes: the numbers of images that `compute` takes, 1 among them if `whole`.
          whole: whether batches are never filled up, so that more of them are computed.
        """
        self._compute, self._sizes, self._whole = compute, sorted(sizes), whole
        self._waiting: collections.deque[tuple[Any, Future]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.batches = dict.fromkeys(self._sizes, 0)
        self._thread = threading.Thread(target=self._run, daemon=True, name='batches')
        self._thread.start()

    def submit(self, image: np.ndarray) -> Future:
        """Returns the future of an image's result. Raises Closed."""
        return self._add(image)

    def call(self, function: Callable[[], Any]) -> Future:
        """Returns the future of function(), called between two batches. Raises Closed."""
        return self._add(function)

    def close(self) -> None:
        """Ends the thread after all accepted work; more than once is allowed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _add(self, work: Any) -> Future:
        future: Future = Future()
        with self._changed:
            if self._closed:
                raise Closed
            self._waiting.append((work, future))
            self._changed.notify()
        return future

    def _take(self) -> list[tuple[Any, Future]]:
        """Returns the next images, or one function; [] at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return []
            images = itertools.takewhile(lambda each: not callable(each[0]), self._waiting)
            count = min(sum(1 for _ in images), self._sizes[-1]) or 1  # 1: a function
            if self._whole:
                count = max(size for size in self._sizes if size <= count)
            return [self._waiting.popleft() for _ in range(count)]

    def _run(self) -> None:
        while taken := self._take():
            # A client that left has cancelled its future.
            alive = [(work, f) for work, f in taken if f.set_running_or_notify_cancel()]
            if not alive:
                continue
            try:
                results = self._results([work for work, _ in alive])
            except Exception as error:  # the thread has to go on, and each client gets an answer
                for _, future in alive:
                    future.set_exception(error)
            else:
                for (_, future), result in zip(alive, results, strict=True):
                    future.set_result(result)

    def _results(self, work: list[Any]) -> Sequence[Any] | np.ndarray:
        if callable(work[0]):
            return [work[0]()]
        size = next(size for size in self._sizes if size >= len(work))
        images = np.zeros((size, *work[0].shape), work[0].dtype)
        for row, image in enumerate(work):
            images[row] = image
        self.batches[size] += 1
        return self._compute(images)[: len(work)]


@contextlib.contextmanager
def closing_batcher(compute: Callable[[np.ndarray], np.ndarray], sizes: Sequence[int], whole: bool):
    """A context with a Batcher, which answers all accepted work before it ends."""
    batcher = Batcher(compute, sizes, whole)
    try:
        yield batcher
    finally:
        batcher.close()
