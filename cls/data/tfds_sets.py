"""Prepared TFDS data sets, read from ArrayRecord files without TensorFlow."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cls.data import broken, feature_cache, sources
from cls.data.classes import class_indices, subset
from cls.data.decode import RULES, BrokenImage, Rules, decode, picture
from cls.data.shards import Part, Shards
from cls.data.sources import Crop, InMemory, Source
from cls.errors import UserError, nearest
from cls.storage import download, paths

T = TypeVar('T')
_VERSION = re.compile(r'\d+\.\d+\.\d+')


class Records(Source):
    """A split of a prepared TFDS data set, decoded example by example.

    Args:
      examples: The examples of the split.
      name: The name of the data set, for messages.
      channels: The number of channels of the images.
      num_classes: The number of classes.
      class_names: The names of the classes.
    """

    def __init__(
        self, examples: 'Examples', name: str, channels: int, num_classes: int, class_names: tuple
    ):
        self.num_classes, self.class_names, self.channels = num_classes, class_names, channels
        self._examples, self._name = examples, name
        self._verified = broken.Verified(len(examples))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        return self._decoded(index, self._examples[int(index)])

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        record = self._examples[int(index)]
        image = self._made(index, record, lambda *file: crop(picture(*file)))
        return image, int(record['label'])

    def labels(self) -> np.ndarray:
        return self._examples.labels()

    def _decoded(self, index: int, record: dict) -> dict:
        return {'image': self._made(index, record, decode), 'label': int(record['label'])}

    def _made(self, index: int, record: dict, make: Callable[[bytes, int, Rules], T]) -> T:
        """Returns make(content, channels, rules). Raises UserError with the name of the image."""
        name = f'example {index} of {self._name}'
        try:
            return broken.made(
                name,
                self.rules,
                lambda rules: make(record['image'], self.channels, rules),
                self._verified,
                int(index),
            )
        except BrokenImage as error:
            raise UserError(
                f'The image of {name} cannot be decoded ({broken.described(error)}): prepare the '
                'data set again from intact files.'
            ) from error

    def in_memory(self, shape: tuple[int, int, int]) -> InMemory:
        """Returns a source of all images, decoded; `shape` is the shape of every image."""
        images = sources.aligned((len(self), *shape))
        labels = np.empty(len(self), np.int32)
        for row, record in enumerate(self._examples):
            example = self._decoded(row, record)
            images[row], labels[row] = example['image'], example['label']
        return InMemory(images, labels, self.num_classes, self.class_names)


def tfds_dir(directory: str = '') -> Path:
    """Returns the folder of prepared sets: `directory`, else TFDS_DATA_DIR, else TFDS's default."""
    return paths.path(directory or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets')


def known_datasets() -> list[str]:
    """Returns the names of the data sets that TFDS can prepare."""
    import tensorflow_datasets as tfds

    # Listing community data sets needs TensorFlow, and they are stored elsewhere anyway.
    return tfds.list_builders(with_community_datasets=False)


def prepare_command(name: str, directory: str = '') -> str:
    """Returns the command that prepares tfds:NAME."""
    return f'python -m cls.tools.prepare {name}' + (f' --data_dir {directory}' if directory else '')


def find_prepared(name: str, directory: str = '') -> Path | None:
    """Returns the folder of the newest version of a prepared data set, or None.

    Args:
      name: NAME or NAME/CONFIG. CONFIG is optional if only one configuration is prepared.
      directory: See `tfds_dir`.

    Raises UserError if several configurations are prepared and none is named.
    """
    folder = paths.checked(tfds_dir(directory)) / name
    if not folder.is_dir():
        return None
    if versions := _versions(folder):
        return versions[-1]
    configs = [child for child in sorted(folder.iterdir()) if child.is_dir() and _versions(child)]
    if len(configs) > 1:
        names = ', '.join(f'{name}/{config.name}' for config in configs)
        raise UserError(f'{folder} has several configurations: say which one, of {names}.')
    return _versions(configs[0])[-1] if configs else None


def _versions(folder: Path) -> list[Path]:
    """Returns the folders of complete versions, in ascending order."""
    folders = [
        child
        for child in folder.iterdir()
        if _VERSION.fullmatch(child.name) and (child / 'dataset_info.json').exists()
    ]
    return sorted(folders, key=lambda child: [int(part) for part in child.name.split('.')])


def prepared(name: str, directory: str):
    """Returns TFDS's builder for NAME or NAME/CONFIG, made from the prepared files only.

    The records are read in place, on this machine or at gs://; from other stores the whole data set
    is copied to the cache once.

    Raises UserError if the data set is not prepared, or not as array_record.
    """
    folder = find_prepared(name, directory)
    command = prepare_command(name, directory)
    if folder is None:
        names = known_datasets()
        if name.partition('/')[0] in names:
            raise UserError(f'{name} is not prepared in {tfds_dir(directory)}: run `{command}`.')
        raise UserError(
            f"'{name}' is neither prepared in {tfds_dir(directory)} nor known to TFDS: expected "
            f'the name of a TFDS data set.{nearest(name, names)}'
        )
    if not os.fspath(folder).startswith('gs://'):  # array_record reads these itself
        folder = download.fetched(folder)
    builder = open_builder(folder)
    file_format = builder.info.file_format
    if file_format is None or (file_format := file_format.value) != 'array_record':
        raise UserError(
            f'{folder} is prepared as {file_format}, which needs TensorFlow to read: expected '
            f'array_record. Move that folder away and run `{command}`.'
        )
    return builder


def open_builder(folder: Path):
    """Returns TFDS's builder for the folder of a prepared version.

    TFDS imports the module of any class that features.json names, and the folder may be untrusted.
    So nothing is opened before all names in it are known to be TFDS's own features.

    Raises UserError for another class, and for a folder that TFDS cannot read.
    """
    import tensorflow_datasets as tfds

    file = folder / 'features.json'
    try:
        named = sorted(_named_classes(paths.parse_json(file.read_text())))
    except (OSError, ValueError) as error:
        raise UserError(f'{file} cannot be read ({error}): prepare the data set again.') from error
    own = _tfds_features()
    if foreign := [name for name in named if name not in own]:
        raise UserError(
            f'{file} names the class {foreign[0]!r}, which is not one of the features of TFDS: '
            'nothing was opened, as TFDS would import and run its module. Expected a data set of '
            "TFDS's own features: prepare it again with those."
        )
    try:
        return tfds.builder_from_directory(folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(
            f'{folder} is not a prepared data set that TFDS can open ({type(error).__name__}: '
            f'{reason}): prepare it again.'
        ) from error


# The keys of a feature's class: as TFDS writes it now, the field's other name, the old format.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type')


def _named_classes(value: Any) -> Iterator[str]:
    """Yields all names of classes in JSON, also those in strings that are JSON themselves."""
    if isinstance(value, str):
        if value.lstrip()[:1] in ('{', '[', '"'):
            with contextlib.suppress(ValueError):
                yield from _named_classes(paths.parse_json(value))
        return
    if isinstance(value, dict):
        yield from (value[key] for key in _CLASS_KEYS if isinstance(value.get(key), str))
        value = value.values()
    if not isinstance(value, int | float | None):
        for item in value:
            yield from _named_classes(item)


def _tfds_features() -> set[str]:
    """Returns the full names of TFDS's own features."""
    import tensorflow_datasets as tfds

    registered = tfds.features.FeatureConnector._registered_features
    own = 'tensorflow_datasets.core.features.'
    return {
        name
        for name, feature in registered.items()
        if name.startswith(own) and feature.__module__.startswith(own)
    }


def open_split(
    builder,
    name: str,
    split: str,
    classes: tuple[str, ...] = (),
    rows: Sequence[int] | None = None,
    rules: Rules = RULES,
) -> Source:
    """Opens a split of a prepared data set, in memory if it is small.

    Args:
      builder: `prepared(...)`.
      name: The name of the data set, for messages.
      split: 'train', 'train[:90%]' and so on.
      classes: See `datasets.load`.
      rows: The examples to take; None: all.
      rules: The options of decoding.

    Raises UserError if the data set has no images with labels, or no such split.
    """
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image, label = (features.get(key) for key in ('image', 'label'))
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f'{name} is not a set for classification, its features are '
            f"{', '.join(sorted(features))}: expected an 'image' and a 'label' that is a class."
        )
    names = tuple(label.names)
    examples = Examples(
        _shards(builder, name, split),
        builder.info.features,
        rows if rows is None else np.array(rows, np.int64),
        class_indices(names, classes, name) if classes and classes != names else None,
    )
    shape: Any = image.shape
    height, width, channels = shape
    channels = 1 if channels == 1 else 3
    count = len(classes) or label.num_classes or 0
    source = Records(examples, name, channels, count, classes or names)
    source.rules = rules
    if height and width and len(source) * height * width * channels <= sources.MEMORY_LIMIT:
        source = source.in_memory((height, width, channels))
    source.subset = subset(name.partition('/')[0], source.class_names)
    source.split, source.version = split, builder.info.full_name
    return source


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split, or some of them, without decoding of their images.

    Attributes:
      shards: The records of the split.
      features: TFDS's features of a record.
      rows: (N,) the records to take, in ascending order; None: all.
      labels_of: (K,) int32, the new labels by the labels in the records; None: the same.
    """

    shards: Shards
    features: Any
    rows: np.ndarray | None = None
    labels_of: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.shards) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index if self.rows is None else int(self.rows[index])
        return self._parsed(self.shards[row])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.rows is not None:
            return map(self.__getitem__, range(len(self)))
        return map(self._parsed, self.shards)

    def labels(self) -> np.ndarray:
        """Returns all labels, (N,) int32; they are kept in the cache."""
        labels = feature_cache.labels(self.shards)
        labels = labels if self.rows is None else labels[self.rows]
        if self.labels_of is None:
            return labels
        return np.where(labels < 0, labels, self.labels_of[labels])

    def _parsed(self, record: bytes) -> dict[str, Any]:
        example = self.features.deserialize_example_np(record, decoders=_undecoded())
        label = int(example['label'])
        # A negative label, of a set without labels, is kept here and refused later.
        if self.labels_of is not None and label >= 0:
            label = int(self.labels_of[label])
        return example | {'label': label}


@functools.cache
def _undecoded() -> dict[str, Any]:
    """Returns TFDS's option that leaves images encoded."""
    import tensorflow_datasets as tfds

    return {'image': tfds.decode.SkipDecoding()}


def texts(builder, split: str, feature: str) -> list[str]:
    """Returns a text feature of all examples of a split, in their order; kept in the cache."""
    return feature_cache.texts(_shards(builder, builder.name, split), feature)


def has_split(builder, split: str) -> bool:
    """Returns whether a prepared data set has a split or part of a split."""
    try:
        _shards(builder, builder.name, split)
    except UserError:
        return False
    return True


def overlap(builder, name: str, one: str, other: str) -> int:
    """Returns the number of examples that two splits, or parts of splits, have in common."""
    first, second = (_shards(builder, name, split).parts for split in (one, other))
    ranges: dict[str, list[tuple[int, int]]] = {}
    for part in second:
        ranges.setdefault(part.path, []).append((part.first, part.first + part.count))
    return sum(
        max(min(part.first + part.count, stop) - max(part.first, start), 0)
        for part in first
        for start, stop in ranges.get(part.path, ())
    )


def _shards(builder, name: str, split: str) -> Shards:
    """Returns the records of a split such as 'train' or 'train[:90%]'."""
    try:
        # Raises ValueError for a part that ends before it begins, KeyError for an unknown split.
        files = builder.info.splits[split].file_instructions
        shards = Shards([Part(os.fspath(file.filename), file.skip, file.take) for file in files])
        if not len(shards):
            raise ValueError('the split has no examples')
        return shards
    except (KeyError, ValueError) as error:  # of a split that is unknown, malformed or empty
        raise UserError(
            f"'{split}' is not a split of {name}: expected one of "
            f'{", ".join(builder.info.splits)}, or a part of one that has examples, such as '
            'train[:90%].'
        ) from error
