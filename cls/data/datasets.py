"""Data sets by name: the source that `config.data` asks for.

    source = load(config.data, 'train')
    source[3]  # {'image': (H, W, C) uint8, 'label': int}

`config.data.name` is 'digits', 'tfds:NAME', 'folder:DIR', 'csv:FILE', 'parquet:FILE',
'datasets:DIR', 'wds:PATTERN', 'synthetic' or, for evaluation, one of cls.data.imagenet_variants,
'imagenet_a:DIR' for example.

The classes of a run are ordered as the outputs of its network. For evaluation, the labels of a data
set with named classes are mapped to this order (`load(..., classes=...)`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cls.data import (
    decode,
    folders,
    hf_datasets,
    imagenet_variants,
    layout,
    planes,
    splits,
    tables,
    tfds_sets,
    wds,
)
from cls.data.classes import BENCHMARKS
from cls.data.labels import class_file
from cls.data.sources import InMemory, Source
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.storage import download

KINDS = (
    'digits',
    'tfds:NAME',
    'folder:DIR',
    'csv:FILE',
    'parquet:FILE',
    'datasets:DIR',
    *('wds:PATTERN', 'synthetic'),
)


def load(data: DataSpec, split: str, classes: Sequence[str] = ()) -> Source:
    """Opens the data set that `config.data` names.

    Args:
      data: The specification.
      split: 'train' or 'eval'.
      classes: The names of a run's classes, in the order of its network's outputs: labels are
        indices into them, and the data set may lack some. (): the data set's own order.

    Raises:
      UserError: if there is no such data set or split, the data set is not prepared, has more than
        `num_classes` classes, or has a class that is not in `classes`.
    """
    if split not in ('train', 'eval'):
        raise ValueError(split)
    if data.classes and not classes:
        classes = class_file(data.classes)
    source = _with_channels(_open(data, split, tuple(classes)), data.channels)
    source.rules = decode.rules(data, exif=source.rules.exif)
    if data.num_classes and data.num_classes < source.num_classes:
        raise UserError(
            f'config.data.num_classes is {data.num_classes}, but {data.name} has '
            f'{source.num_classes} classes: expected 0 (as the data set says) or at least that.'
        )
    if source.multi_label and data.num_classes not in (0, source.num_classes):
        raise UserError(
            f'config.data.num_classes is {data.num_classes}: expected 0, or the '
            f'{source.num_classes} of {data.name}, with config.data.multi_label.'
        )
    return source


def _open(data: DataSpec, split: str, classes: tuple[str, ...]) -> Source:
    kind, _, rest = data.name.partition(':')
    if data.eval_fraction and kind != 'folder':
        raise UserError(
            f'config.data.eval_fraction is {data.eval_fraction}, but {data.name} is not a '
            'folder:DIR: expected 0; parts of a TFDS data set are written train[:90%] and '
            'train[90%:].'
        )
    if data.name == 'digits':
        from cls.data import digits  # machines without TFDS can import this file, to measure steps

        return _open_tfds(digits.opened(data.dir), 'digits', data, split, classes)
    if kind == 'tfds' and rest:
        return _open_tfds(tfds_sets.prepared(rest, data.dir), rest, data, split, classes)
    if kind == 'folder' and rest:
        root = download.fetched(rest)
        return folders.open_folder(
            root,
            split,
            data.eval_fraction,
            classes,
            data.exif,
            eval_split=data.eval_split,
            class_order=data.class_order,
            arrays=data.channels not in (0, 1, 3),
        )
    if kind in tables.KINDS and rest:
        return tables.open_table(kind, rest, split, data, classes)
    if kind == 'datasets' and rest:
        return hf_datasets.open_dataset(rest, split, data, classes)
    if kind == 'wds' and rest:
        return wds.open_tars(rest, split, data, classes)
    if kind in BENCHMARKS and rest:
        return imagenet_variants.open_benchmark(kind, rest, split, data.dir, classes)
    if data.name == 'synthetic':
        return _synthetic(data, split)
    names = [*KINDS, *(f'tfds:{name}' for name in tfds_sets.known_datasets())]
    names += [f'{name}:' for name in BENCHMARKS]
    raise UserError(
        f"config.data.name is '{data.name}': expected {', '.join(KINDS)} or, to evaluate on, "
        f'{", ".join(f"{name}:DIR" for name in BENCHMARKS)}.'
        f'{nearest(data.name, names)}'
    )


def _with_channels(source: Source, channels: int) -> Source:
    """Returns a source of images with a number of channels; 0: unchanged.

    Raises UserError for images in memory that have another number and cannot be converted.
    """
    if channels in (0, source.channels):
        return source
    if not isinstance(source, InMemory):
        source.channels = channels
        return source
    if {channels, source.channels} != {1, 3}:
        raise UserError(
            f'config.data.channels is {channels}, but the images have {source.channels}: expected '
            '0 (as the data set says), 1 or 3.'
        )
    result = source.mapped(functools.partial(planes.converted, channels=channels))
    result.split, result.version, result.rules = source.split, source.version, source.rules
    result.subset, result.label_sets = source.subset, source.label_sets
    return result


def _open_tfds(builder, name: str, data: DataSpec, split: str, classes: tuple[str, ...]) -> Source:
    wanted = data.train_split if split == 'train' else data.eval_split
    if split == 'eval' and not wanted:
        wanted = splits.to_evaluate(name, builder.info.splits)
    return tfds_sets.open_split(builder, name, wanted, classes, rules=decode.rules(data))


def identity(train: Source, test: Source) -> dict[str, dict[str, Any]]:
    """Returns {'train': ..., 'eval': ...}, the identities of both splits, see `Source.identity`.

    A run that resumes compares them with those of the data that it began with.
    """
    return {'train': train.identity(), 'eval': test.identity()}


def has_training(data: DataSpec) -> bool:
    """Returns whether the data set of `config.data` has training images. Raises UserError."""
    kind, _, rest = data.name.partition(':')
    if kind == 'folder' and rest:
        return layout.has_training(download.fetched(rest), data.eval_fraction)
    if kind in tables.KINDS and rest:
        return tables.has_training(kind, rest, data)
    if kind == 'datasets' and rest:
        return hf_datasets.has_training(rest, data)
    if kind == 'wds' and rest:
        return wds.has_training(rest, data)
    if kind == 'tfds' and rest:
        return tfds_sets.has_split(tfds_sets.prepared(rest, data.dir), data.train_split)
    return kind not in BENCHMARKS


def _synthetic(data: DataSpec, split: str) -> InMemory:
    """Returns 64 random images, repeated to the size of ImageNet, so that one costs only a copy."""
    rng = np.random.default_rng(split == 'eval')
    shape = 64, data.image_size, data.image_size, data.channels or 3
    images = rng.integers(256, size=shape, dtype=np.uint8)
    num_classes = data.num_classes or 1000
    labels = rng.integers(num_classes, size=64, dtype=np.int32)
    source = InMemory(images, labels, num_classes, length=1_281_167 if split == 'train' else 50_000)
    source.split = 'train' if split == 'train' else 'validation'
    return source
