"""Some of the examples of a source, as a source."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from cls.data.shared import SharedArray
from cls.data.sources import Crop, InMemory, Source, aligned
from cls.errors import UserError


def subset(source: Source, rows: np.ndarray, split: str) -> Source:
    """Returns the examples of a source with these indices, in this order.

    Images in memory are copied, so that the result is in memory too.

    Args:
      source: The source.
      rows: (n,) integers in range(len(source)).
      split: The name of the result as a split.
    """
    result = _in_memory(source, rows) if isinstance(source, InMemory) else Subset(source, rows)
    for name in ('version', 'subset', 'rules'):
        setattr(result, name, getattr(source, name))
    if source.label_sets:
        result.label_sets = tuple(source.label_sets[row] for row in rows.tolist())
    result.split = split
    return result


def _in_memory(source: InMemory, rows: np.ndarray) -> InMemory:
    images, labels = source.take(rows)
    copies = aligned(images.shape)
    copies[:] = images
    return InMemory(copies, labels, source.num_classes, source.class_names)


class Subset(Source):
    """The examples of a source with some indices."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.num_classes, self.class_names = source.num_classes, source.class_names
        self.channels, self.multi_label = source.channels, source.multi_label
        self._source, self._rows = source, SharedArray(rows.astype(np.int64))
        self.files = _Names(source.files, self._rows) if len(source.files) else ()

    def identity(self) -> dict[str, Any]:
        """Returns `Source.identity` with a digest of the indices, and of the source's list."""
        digest = hashlib.sha256(self._rows.values.tobytes())
        digest.update(str(self._source.identity().get('digest', '')).encode())
        return super().identity() | {'digest': digest.hexdigest()[:16]}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        return self._source[self._row(index)]

    def _row(self, index: int) -> int:
        return int(self._rows.values[index])

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, Any]:
        return self._source.read(self._row(index), crop)

    def explained(self, error: UserError) -> UserError:
        return self._source.explained(error)

    def labels(self) -> np.ndarray:
        return self._source.labels()[self._rows.values]

    def class_counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        own = self._rows.values
        return self._source.class_counts(own if rows is None else own[rows])


class _Names(Sequence[str]):
    """The names of the images of a subset."""

    def __init__(self, names: Sequence[str], rows: SharedArray) -> None:
        self._names, self._rows = names, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        return self._names[int(self._rows.values[index])]

    def __iter__(self) -> Iterator[str]:
        for row in self._rows.values.tolist():
            yield self._names[int(row)]
