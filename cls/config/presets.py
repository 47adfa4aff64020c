"""The preset `finetune`: a recipe that depends on the images of a folder and on the weights.

  python -m cls.main --config configs/resnet.py:finetune,folder=/data/birds --config.init=FILE

The arm `finetune` of a config names the model and the folder. `fill` sets the other fields only
once, when the config is made: it counts the images of the folder, and prepares images as the
weights of config.init expect. The run folder's config.json has the resulting values, so a run that
continues does not count again.

The values for n training images of k classes (the constants are below):

  batch      a third of n, a power of two from 8 to 64, never more than n
  duration   10 epochs, but at least 100 steps and 5 for each class, and at most 20,000
  optimizer  AdamW, 0.003 for the classifiers; n / 20,000 times that for the body, from 0.01 to 0.1
  schedule   a tenth of the run to warm up, then a cosine
  ema        over a tenth of the run
  norms      over the whole batch; below 1,000 images they keep the statistics of the weights

AdamW's steps do not depend on the scale of the gradients, so one rate fits models with and without
batch norm; 100 steps bring a classifier from near zero to about a linear probe. The choice by n
follows Kolesnikov et al. 2020 (1912.11370, section 3.3). Without config.init all parameters have a
rate of 0.001, and norms use the statistics of their batches.
"""

import dataclasses
import math
from collections.abc import Mapping, Set
from typing import Any

from ml_collections import ConfigDict

from cls import models
from cls.config import durations
from cls.data import datasets
from cls.data.kinds import KINDS
from cls.data.sources import Source
from cls.data.spec import DataSpec
from cls.data.splits import Validation
from cls.errors import UserError
from cls.nn import norm
from cls.run.checkpoint_files import is_run
from cls.storage import paths
from cls.weights import stem
from cls.weights.hub import HUB, locate
from cls.weights.images import preparation, prepared_for

NAME = 'finetune'
LEAST_BATCH, MOST_BATCH = 8, 64
EPOCHS, LEAST_STEPS, STEPS_PER_CLASS, MOST_STEPS = 10, 100, 5, 20_000
RATE, LEAST_BODY, MOST_BODY, BODY_PER_IMAGE = 3e-3, 0.01, 0.1, 5e-5
SCRATCH_RATE = 1e-3
HELD_OUT = '0.2'  # config.eval.validation, if the folder has no images to evaluate on
ENOUGH_FOR_NORMS = 1000  # training images

# The fields of config.data that determine the preparation of images.
_IMAGES = (
    *('image_size', 'eval_size', 'eval_resize', 'eval_crop', 'interpolation'),
    *('mean', 'std', 'contrast'),
)
FILLED = (
    *(f'data.{field}' for field in _IMAGES),
    'eval.validation',
    'batch',
    'duration',
    'optim.lr',
    'optim.body_lr_mult',
    'ema',
    'freeze_bn',
)
_SAME = ('preset', 'init', 'data.name', 'model.name')  # equal in a run that continues


def fill(config: ConfigDict, given: Set[str], begun: ConfigDict | None = None) -> None:
    """Sets, in place, the fields that depend on the folder and the weights.

    Args:
      config: the config of the arm `finetune`, with the user's fields set.
      given: names of the fields that the user has set. They are kept, and others depend on them.
      begun: the config of the run in the same run folder, if there is one. If it has the same
        images, model and weights, its values are used, and the images are not counted.

    Raises:
      UserError: the folder or the weights cannot be opened, or there is no such model.
    """
    kind = config.data.name.partition(':')[0]
    if config.preset != NAME or kind not in ('folder', *KINDS):
        raise UserError(
            f'config.preset is {config.preset!r} and config.data.name {config.data.name!r}: '
            'expected both as configs/SYSTEM.py:finetune,folder=DIR sets them, or data=KIND:PLACE '
            f'with {", ".join(KINDS)}.'
        )

    def use(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in given:
                group, _, field = name.rpartition('.')
                (config[group] if group else config)[field] = value

    before = {} if begun is None else _flat(begun)
    if before.keys() >= {*_SAME, *FILLED}:
        now = _flat(config)
        if all(before[name] == now[name] for name in _SAME):
            use({name: before[name] for name in FILLED})
            return
    use(_images(config, given))
    train, validation = _training(DataSpec.from_config(config), 'eval.validation' in given)
    use({'eval.validation': validation})
    count, classes = len(train), train.num_classes
    use({'batch': batch(count)})
    use({'duration': f'{steps(count, classes, config.batch)} steps'})
    total = durations.steps(config.duration, batch=config.batch, examples=count)
    use({'ema': round(max(1 - 10 / total, 0), 4)})
    use({'optim.lr': RATE if config.init else SCRATCH_RATE})
    if config.init:
        stay = count < ENOUGH_FOR_NORMS and _has_norms(config, classes)
        use({'optim.body_lr_mult': body_lr_mult(count), 'freeze_bn': '0 steps' if stay else ''})


def batch(count: int) -> int:
    """Returns the batch size for `count` training images."""
    wanted = min(max(count // 3, LEAST_BATCH), MOST_BATCH, count)
    return 2 ** math.floor(math.log2(wanted))


def steps(count: int, classes: int, batch: int) -> int:
    """Returns the number of steps of a run, rounded to two digits."""
    wanted = max(EPOCHS * count / batch, LEAST_STEPS, STEPS_PER_CLASS * classes)
    return int(float(f'{min(wanted, MOST_STEPS):.1e}'))


def body_lr_mult(count: int) -> float:
    """Returns the learning rate's factor for all but the classifiers, rounded to one digit."""
    return float(f'{min(max(count * BODY_PER_IMAGE, LEAST_BODY), MOST_BODY):.0e}')


def describe(config: ConfigDict, count: int, classes: int) -> list[str]:
    """Returns lines that describe the recipe of a run on a folder; none for other data.

    They list the choices of the preset and say whether training starts from scratch. For other
    recipes they warn if a batch has a tenth or more of the images of a folder.
    """
    kind, _, folder = config.data.name.partition(':')
    if config.get('preset') != NAME:
        few = kind in ('folder', *KINDS) and 10 * config.batch > count
        place = f'folder={folder}' if kind == 'folder' else f'data={config.data.name}'
        return few * [
            f'warning: config.batch is {config.batch} of {count} training images, and the recipe '
            'is made for many more: the arm finetune (configs/SYSTEM.py:finetune,'
            f'{place}) chooses by the number of images.'
        ]
    epochs = durations.steps(config.duration, batch=config.batch, examples=count)
    epochs *= config.batch / count
    data, held = config.data, Validation.read(config.eval.validation).fraction
    parts = [
        f'{count} training images of {classes} classes',
        f'{held:.0%} of each class held out for validation' if held else '',
        f'batch {config.batch}',
        f'{config.duration} ({epochs:.3g} epochs)',
        f'rate {config.optim.lr:g}, of the body {config.optim.lr * config.optim.body_lr_mult:g}',
        f'average over {config.ema:g}' if config.ema else '',
        'norms keep their statistics' if config.freeze_bn else '',
        f'images of {data.image_size} pixels from {data.eval_resize or data.image_size}, '
        f'{data.interpolation}, mean {data.mean}, std {data.std}',
    ]
    lines = [f'finetune: {"; ".join(filter(None, parts))}']
    if not config.init:
        lines.append(
            'finetune: config.init is not given, so that all is trained from scratch; '
            '--config.init=FILE starts from weights.'
        )
    return lines


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields by dotted name, two levels deep."""
    groups = {name: value for name, value in config.items() if isinstance(value, ConfigDict)}
    return {name: value for name, value in config.items() if name not in groups} | {
        f'{group}.{name}': value for group, below in groups.items() for name, value in below.items()
    }


def _training(data: DataSpec, fixed: bool) -> tuple[Source, str]:
    """Opens the training images; returns them and config.eval.validation.

    It is HELD_OUT for a folder without images to evaluate on, unless `fixed` or set.
    """
    try:
        datasets.load(data, 'eval')
        return datasets.load(data, 'train'), data.validation
    except UserError as error:
        if fixed or data.validation:
            raise
        problem = error
    divided = dataclasses.replace(data, validation=HELD_OUT)
    train, validation = datasets.training(divided)
    try:
        datasets.testing(divided, validation)
    except UserError:  # there are images to evaluate on, which cannot be opened
        raise problem from None
    return train, HELD_OUT


def _images(config: ConfigDict, given: Set[str]) -> dict[str, Any]:
    """Returns the fields of the preparation of images for the weights, or the model's reference."""
    variant = models.variant(config.model.name)
    source, located = config.init, None
    if source:
        folder = None if source.startswith(HUB) else paths.checked(source)
        if folder and is_run(folder):
            return _images_of_run(folder)
        located = locate(source)
    wanted = config.data.image_size if 'data.image_size' in given else 0
    reference = variant.reference or variant.name
    try:
        # A card may have a crop for the wanted size; the tables go by the model's own.
        if located is None:
            prepared = preparation(reference, {}, variant.input_size)
        else:
            prepared = prepared_for(variant, located, source, wanted if located.card else 0)
    except UserError as error:
        raise UserError(f'config.init: {source}: {error}') from None
    size = wanted or prepared.size
    prepared = prepared.of_channels(config.data.channels or stem.COLORS)
    return {
        'data.image_size': size,
        'data.eval_resize': dataclasses.replace(prepared, size=size).resize,
        'data.eval_crop': 'squash' if prepared.squash else 'center',
        'data.interpolation': prepared.interpolation,
        'data.mean': prepared.mean,
        'data.std': prepared.std,
    }


def _images_of_run(folder: Any) -> dict[str, Any]:
    """Returns the fields of the preparation of images in a run."""
    try:
        data = paths.parse_json((folder / 'config.json').read_text())['data']
        values = {f'data.{field}': data[field] for field in _IMAGES if field in data}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f'config.init: {folder} is not a run folder: expected a config.json with `data` in it.'
        ) from None
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _has_norms(config: ConfigDict, classes: int) -> bool:
    """Whether the model has batch norms whose statistics config.freeze_bn can freeze."""
    fields = {k: v for k, v in config.model.to_dict().items() if k not in ('name', 'dtype')}
    model = models.create(config.model.name, **{'num_classes': classes, **fields})
    variables = models.abstract_variables(model, config.data.image_size)
    norms = norm.kept(variables.get('batch_stats', {}), lambda _: True)
    return bool(norms) and not models.flax_norms(model, config.data.image_size)
