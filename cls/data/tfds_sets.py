"""Prepared TFDS data sets, read from ArrayRecord files without TensorFlow."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cls.data import broken, sources
from cls.data.classes import class_indices, subset
from cls.data.decode import RULES, BrokenImage, Rules, decode, picture
from cls.data.sources import Crop, InMemory, Source
from cls.errors import UserError, nearest
from cls.storage import download, paths

T = TypeVar('T')
_VERSION = re.compile(r'\d+\.\d+\.\d+')


class Records(Source):
    """A split of a prepared TFDS data set, decoded example by example.

    Args:
      records: TFDS's data source of {'image': bytes, 'label': int}.
      name: The name of the data set, for messages.
      channels: The number of channels of the images.
      num_classes: The number of classes.
      class_names: The names of the classes.
    """

    def __init__(self, records, name: str, channels: int, num_classes: int, class_names: tuple):
        self.num_classes, self.class_names, self.channels = num_classes, class_names, channels
        self._records, self._name = records, name
        self._verified = bytearray(len(records))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        return self._decoded(index, self._records[int(index)])

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        record = self._records[int(index)]
        image = self._made(index, record, lambda *file: crop(picture(*file)))
        return image, int(record['label'])

    def labels(self) -> np.ndarray:
        labels = np.empty(len(self), np.int32)
        for rows, records in self._all():
            labels[rows] = [record['label'] for record in records]
        return labels

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
                f'The image of {name} cannot be decoded ({error}): prepare the data set again from '
                'intact files.'
            ) from error

    def _all(self) -> Iterator[tuple[range, list[dict]]]:
        """Yields (rows, records) for all records; reading many at once is several times faster."""
        for start in range(0, len(self), 2048):
            rows = range(start, min(start + 2048, len(self)))
            yield rows, self._records.__getitems__(list(rows))

    def in_memory(self, shape: tuple[int, int, int]) -> InMemory:
        """Returns a source of all images, decoded; `shape` is the shape of every image."""
        images = np.empty((len(self), *shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        for rows, records in self._all():
            for row, record in zip(rows, records, strict=True):
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
    records = _split_records(builder, name, split)
    names = tuple(label.names)
    if rows is not None or (classes and classes != names):
        labels_of = class_indices(names, classes or names, name)
        records = _Chosen(records, range(len(records)) if rows is None else rows, labels_of)
    shape: Any = image.shape
    height, width, channels = shape
    channels = 1 if channels == 1 else 3
    count = len(classes) or label.num_classes or 0
    source = Records(records, name, channels, count, classes or names)
    source.rules = rules
    if height and width and len(source) * height * width * channels <= sources.MEMORY_LIMIT:
        source = source.in_memory((height, width, channels))
    source.subset = subset(name.partition('/')[0], source.class_names)
    source.split, source.version = split, builder.info.full_name
    return source


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Some of the records of a TFDS data source, with other labels."""

    records: Any  # a TFDS data source
    rows: Sequence[int]  # the records to take
    labels_of: np.ndarray  # (K,) int32, the new labels by the labels in the records

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self._labeled(self.records[self.rows[index]])

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        rows = [self.rows[index] for index in indices]
        return [self._labeled(record) for record in self.records.__getitems__(rows)]

    def _labeled(self, record: dict) -> dict:
        label = int(record['label'])
        # A negative label, of a set without labels, is kept here and refused later.
        return record | {'label': int(self.labels_of[label]) if label >= 0 else label}


def texts(builder, split: str, feature: str) -> list[str]:
    """Returns a text feature of all examples of a split, in their order; reads all records."""
    records = _split_records(builder, builder.name, split)
    values = []
    for start in range(0, len(records), 2048):
        rows = range(start, min(start + 2048, len(records)))
        values += [record[feature].decode() for record in records.__getitems__(list(rows))]
    return values


def has_split(builder, split: str) -> bool:
    """Returns whether a prepared data set has a split or part of a split."""
    try:
        builder.as_data_source(split)
    except ValueError:
        return False
    return True


def _split_records(builder, name: str, split: str):
    """Returns TFDS's data source of a split such as 'train' or 'train[:90%]'."""
    import tensorflow_datasets as tfds

    try:
        records = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
        if not len(records):  # raises ValueError itself for a split that ends before it begins
            raise ValueError('the split has no examples')
        return records
    except ValueError as error:  # of a split that is unknown, malformed or empty
        raise UserError(
            f"'{split}' is not a split of {name}: expected one of "
            f'{", ".join(builder.info.splits)}, or a part of one that has examples, such as '
            'train[:90%].'
        ) from error
