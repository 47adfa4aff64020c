"""Data sources: random access to the images and labels of one split, from any storage.

A source decodes its own images, so that errors name the image. All sources can be pickled, for
workers. `cls.data.datasets` opens them by name.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cls.data import splits
from cls.data.decode import RULES, Decoded, Picture, Rules
from cls.errors import UserError

MEMORY_LIMIT = 256 * 2**20  # bytes of decoded images; a larger set is decoded on each access

Crop = Callable[[Picture], np.ndarray]


class Source(abc.ABC):
    """Random access to one split of a data set."""

    num_classes: int
    class_names: tuple[str, ...]  # () if the classes have no names
    channels: int  # of every image
    multi_label: bool = False  # whether labels are (K,) uint8, 1 for each class of an example
    files: Sequence[str] = ()  # the names of the images; () if they have no names
    split: str = ''  # 'test', 'val', 'train[90%:]', ...; '' if it has no name
    version: str = ''  # of a prepared data set: 'mnist/3.0.1'
    rules: Rules = RULES  # of decoding
    # For some test sets; cls.evaluation.robustness scores with them:
    subset: tuple[int, ...] = ()  # the classes that a prediction may be; (): all classes
    label_sets: tuple[tuple[int, ...], ...] = ()  # each example's correct classes; (): its label

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of a label: (), or (num_classes,) of a source with several labels."""
        return (self.num_classes,) if self.multi_label else ()

    @property
    def label_dtype(self) -> type[np.generic]:
        """The type of a label: int32, or uint8 of a source with several labels."""
        return np.uint8 if self.multi_label else np.int32

    @property
    def split_kind(self) -> str:
        """The kind of split, 'test' or 'validation', for names of metrics: see `splits.kind`."""
        return splits.kind(self.split)

    def identity(self) -> dict[str, Any]:
        """Returns the identity of the data, for JSON: a resumed run compares it, without any pixel.

        `digest`, if present, is a digest of the list of examples, in their order.
        """
        version = {'version': self.version} if self.version else {}
        return version | {'split': self.split, 'examples': len(self)}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples, never 0."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict:
        """Returns {'image': (H, W, channels) uint8, 'label': int or (K,) uint8}.

        Raises UserError for a broken image.
        """

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, Any]:
        """Returns (crop of an image, its label); pixels outside the crop need not be decoded."""
        example = self[index]
        return crop(Decoded(example['image'])), example['label']

    def explained(self, error: UserError) -> UserError:
        """Returns an error that a worker process raised in `read`, with all that is to be said."""
        return error

    def labels(self) -> np.ndarray:
        """Returns all labels, (N,) int32; (N, K) uint8 with several labels for an example."""
        return np.array([self[index]['label'] for index in range(len(self))], np.int32)

    def class_counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Returns (K,) integers, the examples of each class.

        Args:
          rows: (n,) the examples to count; None: all.
        """
        labels = self.labels()
        labels = labels if rows is None else labels[rows]
        return np.bincount(labels, minlength=self.num_classes)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a uint8 array, not initialized, that CPU devices can use without a copy."""
    memory = np.empty(math.prod(shape) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + math.prod(shape)].reshape(shape)


class InMemory(Source):
    """Images of one size in one array: much faster than records for small images.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
      num_classes: The number of classes.
      class_names: The names of the classes, or ().
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
        """Returns copies of images (n, H, W, C) uint8 and labels (n,) int32 for (n,) indices."""
        rows = indices % len(self._images)
        return self._images[rows], self._labels[rows]

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        return self._images.nbytes

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images (N, H, W, C) uint8 and labels (N,) int32 themselves."""
        return self._images, self._labels

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> 'InMemory':
        """Returns a source of function(image) for every image; all results have one shape."""
        first = function(self._images[0])
        images = aligned((len(self._images), *first.shape))
        np.stack([first, *(function(image) for image in self._images[1:])], out=images)
        return InMemory(images, self._labels, self.num_classes, self.class_names, self._length)
