"""Data sources: random access to the images and labels of one split, wherever they are stored.

A source decodes its images itself, so that it can name a broken one. All sources can be pickled,
for workers. `cls.data.datasets` opens them by name.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cls.data import splits
from cls.data.decode import RULES, Decoded, Picture, Rules

MEMORY_LIMIT = 256 * 2**20  # bytes of decoded images; a set that is larger is read as needed

Crop = Callable[[Picture], np.ndarray]


class Source(abc.ABC):
    """Random access to one split of a data set."""

    num_classes: int
    class_names: tuple[str, ...]  # () if the classes have none
    channels: int  # of every image: 1 or 3
    files: Sequence[str] = ()  # the images' names; () if they have none
    split: str = ''  # what was read: 'test', 'val', 'train[90%:]', ...; '' if it has no name
    version: str = ''  # of a prepared data set: 'mnist/3.0.1'
    rules: Rules = RULES  # of decoding
    # Of some data sets to evaluate on, see cls.evaluation.robustness for how to score with them:
    subset: tuple[int, ...] = ()  # the classes that compete for the answer; (): all do
    label_sets: tuple[tuple[int, ...], ...] = ()  # each example's right classes; (): its label

    @property
    def split_kind(self) -> str:
        """'test' or 'validation', which figures are named after: see `splits.kind`."""
        return splits.kind(self.split)

    def identity(self) -> dict[str, Any]:
        """Returns what a run that continues compares, for JSON: no pixel of it is read.

        `digest`, where there is one, is that of the list of examples, in their order.
        """
        version = {'version': self.version} if self.version else {}
        return version | {'split': self.split, 'examples': len(self)}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples, never 0."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict:
        """Returns {'image': (H, W, channels) uint8, 'label': int}; UserError if it is broken."""

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        """Returns (crop of an image, its label); what the crop leaves out need not be decoded."""
        example = self[index]
        return crop(Decoded(example['image'])), example['label']

    def labels(self) -> np.ndarray:
        """Returns all labels, (N,) int32."""
        return np.array([self[index]['label'] for index in range(len(self))], np.int32)


class InMemory(Source):
    """Images of one size in one array, which is cheaper than records by far if they are small.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
      num_classes: The number of classes.
      class_names: Their names, or ().
      length: The number of examples if it differs from N: example i is image i % N.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        class_names: tuple[str, ...] = (),
        length: int = 0,
    ):
        self.num_classes, self.class_names = num_classes, class_names
        self.shape = images.shape[1:]
        self.channels = images.shape[3]
        self._images, self._labels = images, labels
        self._length = length or len(images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        row = index % len(self._images)
        return {'image': self._images[row], 'label': int(self._labels[row])}

    def labels(self) -> np.ndarray:
        return self._labels[np.arange(len(self)) % len(self._labels)]

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) indices -> copies of images (n, H, W, C) uint8 and labels (n,) int32."""
        rows = indices % len(self._images)
        return self._images[rows], self._labels[rows]

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> 'InMemory':
        """Applies `function` to every image; the results must have one shape."""
        images = np.stack([function(image) for image in self._images])
        return InMemory(images, self._labels, self.num_classes, self.class_names, self._length)
