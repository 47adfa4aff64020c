"""Data sets by name: the source that `config.data` asks for.

    source = load(config.data, 'train')
    source[3]  # {'image': (H, W, C) uint8, 'label': int}

`config.data.name` is 'digits', 'tfds:NAME', 'folder:DIR', 'csv:FILE', 'parquet:FILE',
'datasets:DIR', 'wds:PATTERN', 'synthetic' or, for evaluation, one of cls.data.imagenet_variants,
'imagenet_a:DIR' for example. Config files register their own ones, see cls.data.registered.

The classes of a run are ordered as the outputs of its network. For evaluation, the labels of a data
set with named classes are mapped to this order (`load(..., classes=...)`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cls.data import (
    decode,
    folders,
    imagenet_variants,
    layout,
    planes,
    registered,
    split_files,
    splits,
    tfds_sets,
)
from cls.data.classes import BENCHMARKS
from cls.data.kinds import KINDS
from cls.data.labels import class_file
from cls.data.registered import register as register
from cls.data.sources import InMemory, Source
from cls.data.spec import DataSpec
from cls.data.subset import subset
from cls.errors import UserError, nearest
from cls.storage import download

_NAMES = (
    *('digits', 'tfds:NAME', 'folder:DIR', 'csv:FILE', 'parquet:FILE', 'datasets:DIR'),
    *('wds:PATTERN', 'synthetic'),
)


def load(data: DataSpec, split: str, classes: Sequence[str] = ()) -> Source:
    """Opens the data set that `config.data` names.

    Args:
      data: The specification.
      split: 'train'; 'validation', the images of config.eval.validation; or 'eval', those to test
        on, which are the validation images if there are no other ones.
      classes: The names of a run's classes, in the order of its network's outputs: labels are
        indices into them, and the data set may lack some. (): the data set's own order.

    Raises:
      UserError: if there is no such data set or split, the data set is not prepared, has more than
        `num_classes` classes, or has a class that is not in `classes`.
    """
    if split not in ('train', 'validation', 'eval') or (split == 'validation' and not data.held):
        raise ValueError(split)
    if split == 'eval' and data.held and not has_test(data):
        split = 'validation'
    if split != 'eval' and _divides(data):
        train, validation = _divided(data, tuple(classes))
        return train if split == 'train' else validation
    return _checked(data, _open(data, split, tuple(classes)))


def training(data: DataSpec, classes: Sequence[str] = ()) -> tuple[Source, Source | None]:
    """Returns the images to train on, and those of config.eval.validation, None without it.

    Arguments and errors are those of `load`.
    """
    if _divides(data):
        return _divided(data, tuple(classes))
    validation = load(data, 'validation', classes) if data.held else None
    return load(data, 'train', classes), validation


def testing(data: DataSpec, validation: Source | None, classes: Sequence[str] = ()) -> Source:
    """Returns the images to test on: `validation` itself if there are no other ones.

    Arguments and errors are those of `load`.
    """
    if validation is not None and not has_test(data):
        return validation
    return load(data, 'eval', classes)


def _checked(data: DataSpec, source: Source) -> Source:
    source = _with_channels(source, data.channels)
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


def _divides(data: DataSpec) -> bool:
    """Whether a training set is opened as a whole, to hold a part of it out."""
    kind = data.name.partition(':')[0]
    return bool(data.held.fraction) and kind not in ('folder', 'synthetic')


def _divided(data: DataSpec, classes: tuple[str, ...]) -> tuple[Source, Source]:
    """Returns the training images without those held out, and those."""
    held = data.held
    whole = _checked(data, _open(data, 'train', classes))
    # The classes of an image with several do not divide the images.
    labels = np.zeros(len(whole), np.int32) if whole.multi_label else whole.labels()
    chosen = held.held_out(labels, data.seed, whole.files)
    return (
        subset(whole, np.flatnonzero(~chosen), f'{held.part(False)} of {whole.split}'),
        subset(whole, np.flatnonzero(chosen), f'{held.part(True)} of {whole.split}'),
    )


def has_test(data: DataSpec) -> bool:
    """Returns whether a data set has images to test on next to those of config.eval.validation."""
    kind, _, rest = data.name.partition(':')
    held, asked = data.held, data.eval_split
    if asked and asked == held.split:
        return False
    if kind == 'folder' and rest:
        return layout.has_test(download.fetched(rest), held, asked)
    names = _splits(data)
    if names is None:
        return True
    if held.fraction and asked.lower() in splits.VALIDATION_NAMES and asked not in names:
        return False
    others = {split.lower() for split in names if split != held.split}
    return bool(asked) or not others.isdisjoint((*splits.VALIDATION_NAMES, *splits.TEST_NAMES))


def _splits(data: DataSpec) -> list[str] | None:
    """Returns the names of the splits of a data set, None if it has none."""
    kind, _, rest = data.name.partition(':')
    if kind in KINDS and rest:
        return KINDS[kind].names(rest, data)
    builder = _builder(data)
    return None if builder is None else list(builder.info.splits)


def _builder(data: DataSpec) -> Any:
    kind, _, rest = data.name.partition(':')
    if data.name == 'digits':
        from cls.data import digits  # machines without TFDS can import this file, to measure steps

        return digits.opened(data.dir)
    return tfds_sets.prepared(rest, data.dir) if kind == 'tfds' and rest else None


def check_disjoint(data: DataSpec) -> None:
    """Raises UserError if images are in two of the splits to train, validate and test on.

    The splits are those that a config names; without config.eval.validation nothing is checked.
    """
    held = data.held
    if not held:
        return
    if held.split and held.split == data.eval_split:
        raise UserError(
            f'config.eval.validation and config.data.eval_split are both {held.split!r}: expected '
            "different images, or data.eval_split='' for the default ones to test on."
        )
    if (builder := _builder(data)) is None:
        _check_names(data)
        if data.name == 'synthetic' and held.split:
            raise UserError(
                f'config.eval.validation is {held.split!r}, and synthetic has no such split: '
                'expected a fraction, as 0.1.'
            )
        return
    fields = {'data.train_split': data.train_split, 'eval.validation': held.split}
    if has_test(data):
        names = builder.info.splits
        default = splits.to_evaluate(data.name, names, data.validation)
        fields['data.eval_split'] = data.eval_split or default
    named = [(field, split) for field, split in fields.items() if split]
    for (one, first), (other, second) in itertools.combinations(named, 2):
        if common := tfds_sets.overlap(builder, data.name, first, second):
            raise UserError(
                f'config.{one} ({first!r}) and config.{other} ({second!r}) have {common:,} images '
                'of the data set in common: expected different ones, as train[:90%] and '
                'train[90%:], or config.eval.validation=0.1 for a part of the training images.'
            )


def _check_names(data: DataSpec) -> None:
    """Raises UserError if a split of a data set that lists its examples has two uses."""
    names = _splits(data)
    if names is None or not data.held.split or data.held.split not in names:
        return
    tested = split_files.chosen(data.name, names, 'eval', data) if has_test(data) else ''
    trained = split_files.chosen(data.name, names, 'train', data)
    if data.held.split in (trained, tested):
        raise UserError(
            f'config.eval.validation is {data.held.split!r}, which is '
            f'{"trained" if data.held.split == trained else "tested"} on: expected another split.'
        )


def _open(data: DataSpec, split: str, classes: tuple[str, ...]) -> Source:
    kind, _, rest = data.name.partition(':')
    if data.classes and not classes:
        classes = class_file(data.classes)
    held = data.held
    if registered.is_registered(data.name):
        if split == 'validation':
            raise UserError(
                f'config.eval.validation is {held.split!r}, and {data.name} is opened to train and '
                'to evaluate only: expected a fraction, as 0.1.'
            )
        return registered.opened(data.name, split, classes)
    if split == 'validation' and held.split and kind not in ('folder', 'synthetic'):
        named = dataclasses.replace(data, eval_split=held.split, validation='')
        return _open(named, 'eval', classes)
    if (builder := _builder(data)) is not None:
        name = rest or data.name
        wanted = data.train_split if split == 'train' else data.eval_split
        if split == 'eval' and not wanted:
            wanted = splits.to_evaluate(name, builder.info.splits, data.validation)
        rules = decode.rules(data)
        return tfds_sets.open_split(builder, name, wanted, classes, rules=rules)
    if kind == 'folder' and rest:
        root = download.fetched(rest)
        return folders.open_folder(
            root,
            split,
            held,
            classes,
            data.exif,
            eval_split=data.eval_split,
            class_order=data.class_order,
            seed=data.seed,
            arrays=data.channels not in (0, 1, 3),
        )
    if kind in KINDS and rest:
        return KINDS[kind].open(rest, split, data, classes)
    if kind in BENCHMARKS and rest:
        return imagenet_variants.open_benchmark(kind, rest, split, data.dir, classes)
    if data.name == 'synthetic':
        return _synthetic(data, split)
    names = [*_NAMES, *(f'tfds:{name}' for name in tfds_sets.known_datasets())]
    names += [f'{name}:' for name in BENCHMARKS]
    raise UserError(
        f"config.data.name is '{data.name}': expected {', '.join(_NAMES)} or, to evaluate on, "
        f'{", ".join(f"{name}:DIR" for name in BENCHMARKS)}.'
        f'{nearest(data.name, names)}'
    )


def identity(train: Source, test: Source, validation: Source | None = None) -> dict[str, Any]:
    """Returns {'train': ..., 'eval': ...}, the identities of the splits, see `Source.identity`.

    With a validation set it has 'validation' too. A run that resumes compares them with those of
    the data that it began with.
    """
    own = {} if validation is None else {'validation': validation.identity()}
    return {'train': train.identity(), 'eval': test.identity()} | own


def has_training(data: DataSpec) -> bool:
    """Returns whether the data set of `config.data` has training images. Raises UserError."""
    kind, _, rest = data.name.partition(':')
    if kind == 'folder' and rest:
        return layout.has_training(download.fetched(rest), data.held.fraction)
    if kind in KINDS and rest:
        return KINDS[kind].has_training(rest, data)
    if kind == 'tfds' and rest:
        return tfds_sets.has_split(tfds_sets.prepared(rest, data.dir), data.train_split)
    return kind not in BENCHMARKS


def _synthetic(data: DataSpec, split: str) -> InMemory:
    """Returns 64 random images, repeated to the size of ImageNet, so that one costs only a copy.

    Those for validation are other ones, as many as config.eval.validation takes from training.
    """
    rng = np.random.default_rng(('train', 'eval', 'validation').index(split))
    shape = 64, data.image_size, data.image_size, data.channels or 3
    images = rng.integers(256, size=shape, dtype=np.uint8)
    num_classes = data.num_classes or 1000
    labels = rng.integers(num_classes, size=64, dtype=np.int32)
    held = round(data.held.fraction * 1_281_167)
    length = {'train': 1_281_167 - held, 'validation': held, 'eval': 50_000}[split]
    source = InMemory(images, labels, num_classes, length=max(length, 1))
    source.split = 'train' if split == 'train' else 'validation'
    return source
