"""Sources of images that a table or an index lists, with their labels."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cls.data.file_list import ImageList
from cls.data.folders import Folder
from cls.data.labels import Classes, MultiHot
from cls.data.sources import Source


class Listed(Folder):
    """Encoded images in a given order, in files or in records, decoded one by one.

    Args:
      place: the folder of the images, or their file, for messages.
      files: the images.
      labels: (N,) int32, or a MultiHot: the labels are then (K,) uint8.
      classes: the classes.
      split: the name of the split.
      exif: whether the images are turned as their EXIF data say.
    """

    def __init__(
        self,
        place: Path,
        files: ImageList,
        labels: np.ndarray | MultiHot,
        classes: Classes,
        split: str,
        exif: bool,
    ) -> None:
        several = isinstance(labels, MultiHot)
        super().__init__(
            place, files, np.zeros(0, np.int32) if several else labels, classes.names, exif
        )
        self.num_classes, self.split, self.multi_label = classes.count, split, several
        self._several = labels if several else None

    def labels(self) -> np.ndarray:
        return self._labels.values if self._several is None else self._several.dense()

    def class_counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        return super().class_counts(rows) if self._several is None else self._several.counts(rows)

    def _label(self, index: int) -> Any:
        return super()._label(index) if self._several is None else self._several[index]

    def identity(self) -> dict[str, Any]:
        """Returns `Source.identity` and a digest of the names and labels; no file is looked at."""
        state = hashlib.sha256(self.files.digest())
        if self._several is None:
            state.update(self._labels.values.data)
        else:
            self._several.update(state)
        return Source.identity(self) | {'digest': state.hexdigest()[:16]}
