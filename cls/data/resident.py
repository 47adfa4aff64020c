"""Small training sets as arrays that devices can hold: a batch is then only a few integers.

The batches are those of `pipeline.train_batches`, to the bit: devices take the rows of a plan from
a table, and crop them at the offsets of the plan, see cls.steps.resident. A plan is
{'index': (steps, n) int32, 'offset': (steps, n, 2) int32}, without 'offset' if images are not
cropped. n is the share of this process in the global batch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cls.data import order
from cls.data.transforms import Border

LIMIT = 256 * 2**20  # bytes of images that every device may hold

Offsets = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Table:
    """All images of a training set at one size, and the crop that a step makes of them.

    Attributes:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
      pad: the pixels around an image before the crop; 0: no crop.
      border: the padding, see `transforms.pad_crop`.
      offsets: consecutive positions (n,) -> top and left of the crops, (n, 2) integers.
    """

    images: np.ndarray
    labels: np.ndarray
    pad: int = 0
    border: Border = (0,)
    offsets: Offsets | None = None


class ResidentIterator:
    """The plans of endless training batches, with the global step as state.

    Args:
      sizes: (first step, pixels) pairs, as for `pipeline.train_batches`.
      tables: by pixels.
      example_at: positions -> examples.
      batch: the size of the global batch.
      repeats: see `order.repeated`.
      process: (index, count).
    """

    def __init__(
        self,
        sizes: tuple[tuple[int, int], ...],
        tables: Mapping[int, Table],
        example_at: Callable[[np.ndarray], np.ndarray],
        batch: int,
        repeats: int,
        process: tuple[int, int],
    ):
        self._sizes, self._tables, self._example_at = sizes, tables, example_at
        self._batch, self._repeats, self._process = batch, repeats, process
        self._step = 0

    def table(self, size: int) -> Table:
        """Returns the images of a size."""
        return self._tables[size]

    def arrays(self, size: int) -> dict[str, Any]:
        """Returns {'image': (N, H, W, C) uint8, 'label': (N,) int32}, for the devices."""
        table = self._tables[size]
        return {'image': table.images, 'label': table.labels}

    def take(self, count: int) -> dict[str, Any]:
        """Returns the plan of the next `count` steps, whose images have one size."""
        steps = range(self._step, self._step + count)
        table = self._tables[[size for start, size in self._sizes if start <= self._step][-1]]
        at = [order.positions(step, self._batch, self._process) for step in steps]
        flat = np.concatenate(at)
        rows = self._example_at(order.repeated(flat, self._batch, self._repeats))
        index = (rows % len(table.images)).astype(np.int32)
        plan = {'index': index.reshape(count, -1)}
        if table.offsets:
            plan['offset'] = np.stack([table.offsets(part) for part in at]).astype(np.int32)
        self._step += count
        return plan

    def get_state(self) -> dict:
        """Returns {'step': int}, the global step of the next batch, as `TrainIterator`."""
        return {'step': self._step}

    def set_state(self, state: dict) -> None:
        """Continues at a state of any iterator over training batches."""
        self._step = int(state['step'])

    def close(self) -> None:
        """Does nothing: no thread or process makes the plans."""


class ZippedResident:
    """Plans of two sources at the same steps; the key 'valid' has the second one."""

    def __init__(self, first: ResidentIterator, second: ResidentIterator):
        self._first, self._second = first, second

    def table(self, size: int) -> Table:
        """Returns the table of the first source; the crops of the second are the same."""
        return self._first.table(size)

    def arrays(self, size: int) -> dict[str, Any]:
        """Returns the arrays of the first source, and under 'valid' those of the second."""
        return self._first.arrays(size) | {'valid': self._second.arrays(size)}

    def take(self, count: int) -> dict[str, Any]:
        """Returns the plan of the next `count` steps."""
        return self._first.take(count) | {'valid': self._second.take(count)}

    def get_state(self) -> dict:
        """Returns {'step': int}, as ResidentIterator."""
        return self._first.get_state()

    def set_state(self, state: dict) -> None:
        """Continues at a state."""
        self._first.set_state(state)
        self._second.set_state(state)

    def close(self) -> None:
        """Does nothing."""
