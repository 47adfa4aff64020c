"""Data sets that config files of users register, as `config.data.name` 'NAME' or 'NAME:PLACE'.

@datasets.register('slides')
def slides(place, split):  # 'train' or 'eval'
    return Slides(place, split)  # a Source
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cls import registration
from cls.data.classes import BENCHMARKS, class_indices
from cls.data.sources import Crop, Source
from cls.errors import UserError

Opener = Callable[[str, str], Source]
_OWN = ('digits', 'tfds', 'folder', 'synthetic', 'csv', 'parquet', 'datasets', 'wds', *BENCHMARKS)
_OPENERS: dict[str, Opener] = {}


def register(name: str) -> Callable[[Opener], Opener]:
    """Returns a decorator that adds a data set. Raises UserError if the name is taken.

    The function takes the text after the colon of config.data.name, and 'train' or 'eval'. Its
    sources are sent to workers as they are, by pickle.
    """

    def add(function: Opener) -> Opener:
        registration.claim('data set', name, name in _OWN or name in _OPENERS)
        _OPENERS[name] = function
        return function

    return add


def is_registered(name: str) -> bool:
    """Returns whether a config.data.name is one of a data set that was registered."""
    return name.partition(':')[0] in _OPENERS


def is_known(name: str) -> bool:
    """Returns whether there can be a data set of a config.data.name."""
    return is_registered(name) or name.partition(':')[0] in _OWN


def opened(name: str, split: str, classes: Sequence[str] = ()) -> Source:
    """Opens a registered data set.

    Args:
      name: config.data.name.
      split: 'train' or 'eval'.
      classes: the names of a run's classes, see `cls.data.datasets.load`; (): those of the
        training split.

    Raises UserError if the function returns no source with examples, or a class is not of the run.
    """
    kind, _, place = name.partition(':')
    source = _OPENERS[kind](place, split)
    if not isinstance(source, Source) or not len(source):
        raise UserError(
            f'{name}: the data set of {registration.origin("data set", kind) or "the program"} '
            f'returned {type(source).__name__} for {split!r}: expected a cls.data.sources.Source '
            'with examples.'
        )
    source.split = source.split or {'train': 'train', 'eval': 'test'}[split]
    if not classes and split != 'train':
        classes = opened(name, 'train').class_names
    if not classes or not source.class_names or tuple(classes) == source.class_names:
        return source
    return Relabeled(source, tuple(classes), class_indices(source.class_names, classes, name))


class Relabeled(Source):
    """A source with labels of other classes.

    Args:
      source: the source.
      classes: the names of the classes.
      indices: (source.num_classes,) int32, the class of each label.
    """

    def __init__(self, source: Source, classes: tuple[str, ...], indices: np.ndarray) -> None:
        self.class_names, self.num_classes = classes, len(classes)
        self.channels, self.files = source.channels, source.files
        self.split, self.version = source.split, source.version
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        example = self._source[index]
        return example | {'label': int(self._indices[example['label']])}

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        image, label = self._source.read(index, crop)
        return image, int(self._indices[label])

    def labels(self) -> np.ndarray:
        return self._indices[self._source.labels()]

    def identity(self) -> dict[str, Any]:
        return self._source.identity()
