"""Data sources: random access to images and labels, wherever they are stored.

    source = load(config.data, 'train')
    source[3]  # {'image': (H, W, C) uint8, 'label': int}

`config.data.name` says which: 'digits', 'tfds:NAME', 'folder:DIR', 'synthetic' or, to evaluate on,
one of cls.data.imagenet_variants, 'imagenet_a:DIR' for example. A source decodes the images itself,
so that it can name the one that is broken. All can be pickled, for workers.

A run's classes have an order, that of its net's outputs. Where they have names, a data set that
the run is evaluated on is brought into that order (`load(..., classes=...)`).
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cls.data import decode, splits
from cls.data.decode import RULES, Decoded, Picture, Rules
from cls.errors import UserError, nearest
from cls.storage import paths

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


def load(data: ConfigDict, split: str, classes: Sequence[str] = ()) -> Source:
    """Opens the data set that `config.data` names.

    Args:
      data: `config.data`.
      split: 'train' or 'eval'.
      classes: The names of a run's classes, in the order of its net's outputs: labels are given in
        that order, and the data set may lack some. (): the order is the data set's own.

    Raises:
      UserError: if there is no such data set or split, it is not prepared, `num_classes` is less
        than it has, or it has a class that is not one of `classes`.
    """
    if split not in ('train', 'eval'):
        raise ValueError(split)
    source = _open(data, split, tuple(classes))
    source.rules = decode.rules(data, exif=source.rules.exif)
    if data.num_classes and data.num_classes < source.num_classes:
        raise UserError(
            f'config.data.num_classes is {data.num_classes}, but {data.name} has '
            f'{source.num_classes} classes: expected 0 (as the data set says) or at least that.'
        )
    return source


def _open(data: ConfigDict, split: str, classes: tuple[str, ...]) -> Source:
    # TFDS is slow to import, and folders do without.
    from cls.data import folders, imagenet_variants

    kind, _, rest = data.name.partition(':')
    if data.eval_fraction and kind != 'folder':
        raise UserError(
            f'config.data.eval_fraction is {data.eval_fraction}, but {data.name} is no folder:DIR: '
            'expected 0; parts of a TFDS data set are written train[:90%] and train[90%:].'
        )
    if data.name == 'digits':
        from cls.data import digits

        return _open_tfds(digits.opened(data.dir), 'digits', data, split, classes)
    if kind == 'tfds' and rest:
        from cls.data import tfds_sets

        return _open_tfds(tfds_sets.prepared(rest, data.dir), rest, data, split, classes)
    if kind == 'folder' and rest:
        root = paths.fetched(rest)
        return folders.open_folder(
            root,
            split,
            data.eval_fraction,
            classes,
            data.exif,
            eval_split=data.eval_split,
            class_order=data.class_order,
        )
    if kind in imagenet_variants.BENCHMARKS and rest:
        return imagenet_variants.open_benchmark(kind, rest, split, data.dir, classes)
    if data.name == 'synthetic':
        return _synthetic(data, split)
    from cls.data import tfds_sets

    known = ['digits', 'synthetic', *(f'tfds:{name}' for name in tfds_sets.known_datasets())]
    known += [f'{name}:' for name in imagenet_variants.BENCHMARKS]
    raise UserError(
        f"config.data.name is '{data.name}': expected digits, tfds:NAME, folder:DIR, synthetic or, "
        f'to evaluate on, {", ".join(f"{name}:DIR" for name in imagenet_variants.BENCHMARKS)}.'
        f'{nearest(data.name, known)}'
    )


def _open_tfds(
    builder, name: str, data: ConfigDict, split: str, classes: tuple[str, ...]
) -> Source:
    from cls.data import tfds_sets

    wanted = data[f'{split}_split']
    if split == 'eval' and not wanted:
        wanted = splits.to_evaluate(name, builder.info.splits)
    return tfds_sets.open_split(builder, name, wanted, classes, rules=decode.rules(data))


def has_training(data: ConfigDict) -> bool:
    """Whether the data set that `config.data` names has a part to train on. Raises UserError."""
    from cls.data import imagenet_variants, layout

    kind, _, rest = data.name.partition(':')
    if kind == 'folder' and rest:
        return layout.has_training(paths.fetched(rest), data.eval_fraction)
    if kind == 'tfds' and rest:
        from cls.data import tfds_sets

        return tfds_sets.has_split(tfds_sets.prepared(rest, data.dir), data.train_split)
    return kind not in imagenet_variants.BENCHMARKS


def class_indices(names: Sequence[str], classes: Sequence[str], where: str) -> np.ndarray:
    """Returns (n,) int32, the places of a data set's class names among those of a run.

    Raises UserError, which names them, if some are not among them.
    """
    places = {name: index for index, name in enumerate(classes)}
    if unknown := [name for name in names if name not in places]:
        listed = ', '.join(f"'{name}'" for name in unknown[:5])
        raise UserError(
            f'{where} has {len(unknown)} of {len(names)} classes that the run does not know: '
            f'{listed}{", ..." if len(unknown) > 5 else ""}. Expected some of its {len(classes)} '
            f'classes, as {", ".join(classes[:3])}.{nearest(unknown[0], classes)}'
        )
    return np.array([places[name] for name in names], np.int32)


def _synthetic(data: ConfigDict, split: str) -> InMemory:
    """Random images in ImageNet's numbers: 64 of them, so that one costs but a copy."""
    rng = np.random.default_rng(split == 'eval')
    images = rng.integers(256, size=(64, data.image_size, data.image_size, 3), dtype=np.uint8)
    num_classes = data.num_classes or 1000
    labels = rng.integers(num_classes, size=64, dtype=np.int32)
    source = InMemory(images, labels, num_classes, length=1_281_167 if split == 'train' else 50_000)
    source.split = 'train' if split == 'train' else 'validation'
    return source
