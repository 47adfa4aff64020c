"""Iteration over batches that are functions of the step, prefetched by Grain.

Grain handles whole batches, not examples: its shuffle and random_map take longer for each example
than a training step on the embedded digits.
"""

import contextlib
import dataclasses
import os
import re
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from cls import signals
from cls.errors import UserError

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

SHARED = '/dev/shm'
_MORE_SHARED = (
    'Give it more (docker run --shm-size=8g or --ipc=host; in Kubernetes an emptyDir with medium: '
    f'Memory at {SHARED}), or lower config.data.workers or config.batch'
)
_BUFFERED = 2  # batches that each worker makes ahead
# Batches of a worker that exist at a time: the buffer twice, in its own process and in the
# trainer's, one in progress, and one more that Grain holds.
HELD = 2 * _BUFFERED + 2


@dataclasses.dataclass(frozen=True)
class StepSequence:
    """A function of the step as a sequence, the form in which Grain takes it."""

    batch_at: Callable[[int], Batch]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> Batch:
        return self.batch_at(int(step))


def _ahead(steps: StepSequence, start: int, workers: int) -> 'grain.DatasetIterator':
    """Iterates from step `start` on, in order, with two batches (of each worker) made ahead."""
    import grain  # machines without it can import this file, and measure steps

    source: Any = steps
    batches = grain.MapDataset.source(source)[start:]
    if not workers:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        return iter(batches.to_iter_dataset(options))
    if not flags.FLAGS.is_parsed():
        # Grain passes its flags on to the workers, even if absl.app has not parsed any.
        flags.FLAGS.mark_as_parsed()
    in_worker = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_BUFFERED)
    return iter(batches.to_iter_dataset(in_worker).mp_prefetch(options, _begin_worker))


def _begin_worker(index: int, count: int) -> None:
    signals.serve()


def _of_worker(error: RuntimeError) -> UserError | None:
    """Returns the error of a worker that died; None for any other error."""
    died = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
    if not died:
        return None
    code = int(died[1])
    how = f'was killed by {signal.Signals(-code).name}' if code < 0 else f'ended with code {code}'
    advice = {
        -signal.SIGBUS: f'{SHARED} is full, through which it passes its batches. {_MORE_SHARED}',
        -signal.SIGKILL: 'the memory may have run out. Lower config.data.workers',
    }.get(code, 'its output is above. config.data.workers=0 reads in the trainer itself')
    return UserError(f'a process that reads images (config.data.workers) {how}: {advice}.')


# ------------------------------------------------------------------------------------------------
# Shared memory: workers pass their batches through it
# ------------------------------------------------------------------------------------------------


def shared_memory(train: 'TrainIterator | ZippedIterator') -> int:
    """Returns the most bytes of shared memory that the workers of an iterator may need.

    Each worker has HELD batches, and the training step has two.
    """
    if isinstance(train, ZippedIterator):
        return sum(shared_memory(iterator) for iterator in train.parts)
    return (train.workers * HELD + 2) * train.batch_bytes if train.workers else 0


def missing_shared_memory(needs: Sequence[int], free: int | None) -> str:
    """Returns a warning about the shared memory of a machine, '' if there is enough.

    Args:
      needs: The bytes that each process of a run on this machine needs.
      free: The free bytes in SHARED; None if the system has no limit.
    """
    if free is None or sum(needs) <= free:
        return ''
    needed, left = (f'{number / 2**20:,.0f} MiB' for number in (sum(needs), free))
    return (
        f'{SHARED} has {left} left, and the workers of {len(needs)} process(es) here need up to '
        f'{needed}: one that finds it full dies of SIGBUS. {_MORE_SHARED}.'
    )


def free_shared_memory() -> int | None:
    """Returns the free bytes in SHARED; None on systems without it."""
    try:
        stats = os.statvfs(SHARED)
    except OSError:
        return None
    return stats.f_bavail * stats.f_frsize


class TrainIterator:
    """Endless training batches, with the global step as state. See `train_batches`."""

    def __init__(
        self,
        steps: StepSequence,
        workers: int,
        batch_bytes: int = 0,
        explained: Callable[[UserError], UserError] = lambda error: error,
    ):
        self._steps, self.workers, self.batch_bytes = steps, workers, batch_bytes
        self._explained = explained  # see Source.explained
        self._step = 0
        self._running = []  # Grain's iterator, between the first batch and `close`
        # Also at the end of the program: Grain's own __del__ may come too late, after Python has
        # removed the modules that Grain needs to stop its workers.
        weakref.finalize(self, _close_all, self._running)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            if self._running:
                batch = next(self._running[0])
            else:  # not in __init__: a restored step may come before the first batch
                with signals.withheld() if self.workers else contextlib.nullcontext():
                    self._running.append(_ahead(self._steps, self._step, self.workers))
                    batch = next(self._running[0])
        except UserError as error:
            self.close()  # its workers would compete with a search for further broken files
            raise self._explained(error) from error
        except RuntimeError as error:
            if problem := _of_worker(error):
                raise problem from error
            raise
        self._step += 1
        return batch

    def get_state(self) -> dict:
        """Returns {'step': int}, the global step of the next batch, for JSON."""
        return {'step': self._step}

    def set_state(self, state: dict) -> None:
        """Continues at a state of any iterator, whatever its processes, threads and workers."""
        self.close()
        self._step = int(state['step'])

    def close(self) -> None:
        """Stops threads and workers; `next` starts them again."""
        _close_all(self._running)


class ZippedIterator:
    """Training batches of two sources at the same steps; the key 'valid' has the second batch."""

    def __init__(self, first: TrainIterator, second: TrainIterator):
        self.parts = self._first, self._second = first, second

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> dict:
        return next(self._first) | {'valid': next(self._second)}

    def get_state(self) -> dict:
        """Returns {'step': int}, as TrainIterator."""
        return self._first.get_state()

    def set_state(self, state: dict) -> None:
        """Continues at a state."""
        for iterator in self.parts:
            iterator.set_state(state)

    def close(self) -> None:
        """Stops threads and workers."""
        for iterator in self.parts:
            iterator.close()


def _close_all(running: 'list[grain.DatasetIterator]') -> None:
    while running:
        running.pop().close()


class EvalBatches:
    """Evaluation batches that can be iterated any number of times. See `eval_batches`."""

    def __init__(self, steps: StepSequence):
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Batch]:
        iterator = _ahead(self._steps, start=0, workers=0)
        try:
            yield from iterator
        finally:
            iterator.close()
