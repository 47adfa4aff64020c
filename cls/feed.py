"""Batches on the devices: from the host, or from a data set that the devices hold.

May import: data, distributed, setup, steps.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from cls.data.iteration import TrainIterator, ZippedIterator
from cls.data.resident import ResidentIterator, ZippedResident
from cls.distributed import agreement
from cls.setup import Setup
from cls.steps import resident
from cls.steps import sharding as meshes

HostBatches = TrainIterator | ZippedIterator
ResidentBatches = ResidentIterator | ZippedResident
TrainBatches = HostBatches | ResidentBatches

# Devices with one step in a call. On CPUs a step of ResNet-20 in a loop of XLA takes seven times as
# long as outside of it, and a call costs next to nothing.
ONE_BY_ONE = ('cpu',)
SECONDS = 0.25  # of the steps in one call; two calls may be under way when a signal comes


@dataclasses.dataclass(frozen=True)
class Fed:
    """The input of one call of a compiled step.

    Attributes:
      batch: on the devices.
      count: the number of steps that it is for.
      data: the data position after these steps.
    """

    batch: Any
    count: int
    data: dict


class Streamed:
    """Batches of the host: a thread fetches and transfers the next one meanwhile."""

    most = 1  # steps in one call

    def __init__(self, iterator: HostBatches, setup: Setup):
        self._iterator, self._sharding = iterator, meshes.batch_sharding(setup.mesh)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='prefetch')
        self._ahead: Future[Fed] | None = None  # nothing is read before the first `take`

    def _following(self) -> Fed:
        batch = meshes.put_batch(next(self._iterator), self._sharding)
        return Fed(batch, 1, self._iterator.get_state())

    def take(self, limit: int) -> Fed:
        """Returns the next batch. Raises UserError for data that cannot be read."""
        del limit
        fed = (self._ahead or self._thread.submit(self._following)).result()
        self._ahead = self._thread.submit(self._following)
        return fed

    def close(self) -> None:
        """Waits for the thread."""
        self._thread.shutdown()


class Resident:
    """Batches of a data set that the devices hold: plans for several steps in one call."""

    def __init__(self, iterator: ResidentBatches, setup: Setup):
        self._iterator, self._mesh, self._phases = iterator, setup.mesh, setup.phases
        self._size, self._table = 0, {}  # pixels, arrays on the devices
        self.most = most_steps(setup)

    def take(self, limit: int) -> Fed:
        """Returns the batches of at most `limit` steps."""
        count = min(limit, self.most)
        size = self._phases.at(self._iterator.get_state()['step']).size
        everywhere = meshes.replicated(self._mesh)
        if self._size != size:
            self._table = {}  # frees the memory of the previous size
            arrays = self._iterator.arrays(size)
            self._table = meshes.put(arrays, jax.tree.map(lambda _: everywhere, arrays))
            self._size = size
        plan = jax.tree.map(self._padded, self._iterator.take(count))
        batch = {
            'table': self._table,
            'plan': meshes.put_batch(plan, resident.plan_sharding(self._mesh)),
            'count': meshes.put(np.int32(count), everywhere),
        }
        return Fed(batch, count, self._iterator.get_state())

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        """Returns (most, ...) of the rows for `count` steps; the others are not used."""
        padded = np.zeros((self.most, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return padded

    def close(self) -> None:
        """Frees the arrays."""
        self._size, self._table = 0, {}


def feed(iterator: TrainBatches, setup: Setup) -> Streamed | Resident:
    """Returns the batches of an iterator on the devices. Close it before the iterator."""
    if isinstance(iterator, TrainIterator | ZippedIterator):
        return Streamed(iterator, setup)
    return Resident(iterator, setup)


def most_steps(setup: Setup) -> int:
    """Returns the most steps in one call of a compiled step of a resident data set."""
    run = setup.run
    if setup.mesh.devices.flat[0].platform in ONE_BY_ONE:
        return 1
    return min(resident.MOST, run.log_every, run.save_every, setup.total_steps)


def abstract_resident_batch(setup: Setup, iterator: ResidentBatches, size: int) -> dict[str, Any]:
    """Returns the shapes and shardings of the batches of a `Resident`, for images of a size."""
    everywhere, plan = meshes.replicated(setup.mesh), resident.plan_sharding(setup.mesh)
    shape, table = (most_steps(setup), setup.batch), iterator.table(size)

    def shapes(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere)

    rows = {'index': jax.ShapeDtypeStruct(shape, np.int32, sharding=plan)}
    if table.offsets:
        rows['offset'] = jax.ShapeDtypeStruct((*shape, 2), np.int32, sharding=plan)
    return {
        'table': jax.tree.map(shapes, iterator.arrays(size)),
        'plan': rows | ({'valid': rows} if setup.supernet else {}),
        'count': shapes(np.zeros((), np.int32)),
    }


class Pace:
    """The number of steps in a call that takes about `SECONDS`, the same on all processes.

    Process 0 measures, at the 2nd, 4th, 8th, ... call of `completed`: a hiccup is soon forgotten,
    and the agreement of many processes costs little.
    """

    def __init__(self, most: int, clock: Callable[[], float]):
        """Takes the most steps, and a clock in seconds that stands still outside of training."""
        self._most, self._clock = most, clock
        self._calls, self._since = 0, (0, 0.0)
        self.steps = 1

    def completed(self, step: int) -> None:
        """Notes that the steps up to `step` are complete. All processes call it in step."""
        if self._most == 1:
            return
        self._calls += 1
        if self._calls & (self._calls - 1):
            return
        now, (earlier, then) = self._clock(), self._since
        self._since = step, now
        if self._calls > 1:
            each = max(now - then, 1e-9) / max(step - earlier, 1)
            fitting = max(1, min(self._most, int(SECONDS / each)))
            self.steps = agreement.on_first('steps of a call', lambda: fitting)
