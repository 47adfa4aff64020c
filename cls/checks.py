"""The checks of a config that involve more than one group of its fields, the data or the model.

Each raises a UserError for one kind of mistake; `cls.setup.set_up` collects them.

May import: config, data, errors, evaluation, models, nn, run, steps.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls import models
from cls.config import defaults, durations, network
from cls.config import load as configs
from cls.config.field import DURATION
from cls.data import pipeline, splits
from cls.data.sources import Source
from cls.errors import Mistakes, UserError, refuse
from cls.nn import norm
from cls.run import best, metric_names
from cls.run.loggers.spec import LogSpec
from cls.run.spec import RunSpec
from cls.steps import freeze
from cls.steps.schedule import PLATEAU, ScheduleSpec, check_warmup

# Schedules that do not know the run's length.
_WITHOUT_END = ('constant', 'step', 'exponential', PLATEAU)


def check_supernet(config: ConfigDict) -> None:
    """Raises UserError for fields that the steps of supernets do not have."""
    if config.data.multi_label:
        raise UserError(
            'config.data.multi_label is True, but the training of a supernet has steps of its own: '
            'expected False.'
        )
    if config.optim.sam:
        raise UserError(
            f'config.optim.sam is {config.optim.sam}, but the training of a supernet has steps of '
            'its own: expected 0.'
        )
    if config.schedule.name == PLATEAU:
        raise UserError(
            f'config.schedule.name is {PLATEAU!r}, but the training of a supernet takes no '
            'evaluations: expected another schedule.'
        )


def check_time(config: ConfigDict, model: nn.Module) -> None:
    """Raises UserError for parts of a config that need the number of steps of the run.

    A run whose length is a time has none, and it is not estimated.
    """
    time = f'config.duration is {config.duration!r}, so that the number of steps is not known'
    moments = {name: value for name, value in configs.flatten(config) if name in defaults.FIELDS}
    moments = {n: v for n, v in moments.items() if defaults.FIELDS[n].values == DURATION}
    moments['progressive'] = tuple(str(pair[0]) for pair in config.progressive if pair)
    sentences = [
        f'{time}, and config.{name} is {value!r}: expected epochs, steps or examples.'
        for name, value in moments.items()
        if any('percent' in text for text in (value if isinstance(value, tuple) else (value,)))
    ]
    if config.schedule.name not in _WITHOUT_END:
        sentences.append(
            f'{time}, and config.schedule.name is {config.schedule.name!r}, which ends with the '
            f'run: expected one of {", ".join(_WITHOUT_END)}.'
        )
    if config.schedule.per == 'epoch':
        sentences.append(
            f"{time}, and config.schedule.per is 'epoch', which lists them: expected 'step'."
        )
    if config.schedule.per == 'epoch':
        sentences.append(
            f"{time}, and config.schedule.per is 'epoch', which lists them: expected 'step'."
        )
    if models.takes_progress(model) or 'supernet' in config.get('search', {}):
        sentences.append(
            f'{time}, and {config.model.name} changes over the run: expected epochs, steps or '
            'examples.'
        )
    refuse(sentences)


def check_batch(config: ConfigDict, devices: int) -> None:
    """Raises UserError for a batch that devices or microbatches cannot share."""
    batch, parts = config.batch, config.accumulate
    if batch % (parts * devices):
        raise UserError(
            f'config.batch is {batch}: expected a multiple of {parts * devices} '
            f'({devices} devices x config.accumulate={parts}).'
        )
    group = config.model.get('bn_group', 0)
    if group and (batch // parts) % group:
        raise UserError(
            f'config.model.bn_group is {group}: expected a divisor of the {batch // parts} '
            'examples that are computed together (config.batch / config.accumulate).'
        )


def check_training_images(config: ConfigDict, train: Source) -> None:
    """Raises UserError for training images of one class, or fewer of them than a batch has.

    With one class every network is always right. A folder has one class if its class folders are
    deeper than expected, because images are read at any depth.
    """
    if train.num_classes < 2:
        name = f', {train.class_names[0]!r}' if train.class_names else ''
        raise UserError(
            f'{config.data.name} has one class{name}: expected two or more to train on. If its '
            'folder has further ones, and these are the classes, give that folder.'
        )
    kind, _, folder = config.data.name.partition(':')
    if config.batch > len(train):
        how = (
            f'; the arm finetune (configs/SYSTEM.py:finetune,folder={folder}) chooses it, the '
            'duration and the rates by the number of images'
            if kind == 'folder'
            else ''
        )
        raise UserError(
            f'config.batch is {config.batch}, but {config.data.name} has {len(train)} training '
            f'images: expected at most as many{how}.'
        )


def check_classes(config: ConfigDict, test: Source, model: nn.Module) -> None:
    """Raises UserError if the outputs of a network for a data set's classes are unknown."""
    if test.num_classes != model.num_classes:
        raise UserError(
            f'{config.data.name} has {test.num_classes} classes and the network '
            f'{model.num_classes}, and nothing names the classes of its outputs: expected '
            'classes.json in the run folder, the list of the names of the classes in the order of '
            'the outputs.'
        )


def check_num_classes(config: ConfigDict, info: pipeline.Info, model: nn.Module) -> None:
    """Raises UserError for a network with fewer outputs than the data have classes."""
    if model.num_classes < info.num_classes:
        raise UserError(
            f'config.model.num_classes is {model.num_classes}, but {config.data.name} has labels '
            f'of {info.num_classes} classes: expected at least that.'
        )


def hosts(mesh: Mesh) -> int:
    """Returns the number of processes of a mesh."""
    return len({device.process_index for device in mesh.devices.flat})


def check_length(config: ConfigDict, schedule: ScheduleSpec, run: RunSpec) -> None:
    """Raises UserError for parts of a run that are longer than the run."""
    mistakes = Mistakes()
    mistakes.attempt(check_warmup, config, schedule)
    mistakes.attempt(run.check_profile, config.profile, schedule.total)
    mistakes.refuse()


def check_choices(config: ConfigDict, parts: dict[str, Any]) -> None:
    """Raises UserError for choices by a metric that no evaluation has, or by the test split."""
    run, validation = parts['run'], parts['validation']
    chosen_on = parts['test'].split_kind if validation is None else splits.VALIDATION
    flags = itertools.product(
        (False, True) if config.ema else (False,),
        (False, True) if config.eval.precise_bn else (False,),
    )
    kinds = [metric_names.weights_name(chosen_on, ema=ema, precise=p) for ema, p in flags]
    metrics = [name for name in metric_names.HIGHER if name != 'map' or parts['test'].multi_label]
    names = tuple(f'{kind}/{name}' for kind in kinds for name in metrics)
    mistakes = best.mistakes(run.best, run.patience, run.eval_every, names, chosen_on)
    if config.schedule.name == PLATEAU and chosen_on == splits.TEST:
        mistakes.append(
            f'config.schedule.name is {PLATEAU!r}, and the evaluations are of the test split, '
            'which must not choose the rate: expected config.eval.validation too, as 0.1.'
        )
    refuse(mistakes)


def check_log(log: LogSpec, supernet: Any) -> None:
    """Raises UserError for loggers without their packages, or histograms of a supernet."""
    log.check_packages()
    if log.histograms_every and supernet:
        raise UserError(
            "config.log.histograms_every is set: expected '' for a supernet, whose steps have two "
            'batches and two kinds of gradients.'
        )


def check_sizes(config: ConfigDict, parts: dict[str, Any]) -> None:
    """Raises UserError for sizes of images that the network or the memory cannot take."""
    mistakes, info, model = Mistakes(), parts['info'], parts['model']
    shape, evaluated = info.image_shape, config.data.eval_size
    if evaluated not in (0, shape[0]):
        where = f'config.data.eval_size is {evaluated}'
        mistakes.attempt(network.check_size, config, model, shape, evaluated, where)
    for _, other in parts['phases'].sizes if config.progressive else ():
        count = hosts(parts['mesh'])
        mistakes.attempt(network.check_memory, config, count, other, shape[2])
        where = f'config.progressive has images of {other} pixels'
        mistakes.attempt(network.check_size, config, model, shape, other, where)
    mistakes.refuse()


def check_frozen(config: ConfigDict, parts: dict[str, Any], shapes: Any) -> None:
    """Raises UserError for impossible frozen parameters or norms, or precise statistics.

    Args:
      config: the config of the run.
      parts: the parts of its setup.
      shapes: the shapes of the variables.
    """
    mistakes, pattern = Mistakes(), parts['optim'].freeze
    frozen = mistakes.attempt(freeze.frozen_params, pattern, shapes['params'])
    if config.eval.precise_bn:
        together = config.batch // config.accumulate
        where = 'config.batch / config.accumulate, which config.eval.precise_bn computes together'
        mistakes.attempt(parts['data'].check_repeats, together, where)
    fields = {'freeze_bn': config.freeze_bn, 'eval.precise_bn': config.eval.precise_bn}
    used = [field for field, value in fields.items() if value]
    if frozen is not None:
        mistakes.attempt(_check_flax_norms, config, parts, used, frozen)
    if not norm.kept(shapes.get('batch_stats', {}), lambda _: True):
        for field in used:
            mistakes.attempt(_no_norms, config, field, fields[field])
    mistakes.refuse()


def _no_norms(config: ConfigDict, field: str, value: Any) -> None:
    raise UserError(
        f'config.{field} is {value!r}, but {config.model.name} has no batch norms: unset it.'
    )


def _check_flax_norms(
    config: ConfigDict, parts: dict[str, Any], used: Sequence[str], frozen: Any
) -> None:
    """Raises UserError if the statistics of Flax's own norms would have to be frozen."""
    if not used and not parts['optim'].freeze:
        return
    size, _, channels = parts['info'].image_shape
    norms = models.flax_norms(parts['model'], size, channels)
    if not used:
        norms = [name for name in norms if freeze.is_frozen(frozen, name.split('/'))]
        used = ['optim.freeze']
    if norms:
        raise UserError(
            f'{config.model.name} has norms of Flax ({norms[0]}), whose statistics '
            f'{" and ".join(f"config.{field}" for field in used)} cannot hold: unset these, or use '
            'cls.nn.norm.BatchNorm.'
        )


def total_steps(config: ConfigDict, info: pipeline.Info) -> int:
    """Returns config.duration in steps, durations.UNKNOWN for a time. Raises UserError."""
    if durations.minutes(config.duration) is not None:
        return durations.UNKNOWN
    total = durations.steps(config.duration, batch=config.batch, examples=info.num_train)
    if total < 1:
        raise UserError(f'config.duration is {config.duration!r}: expected at least one step.')
    if total >= durations.UNKNOWN:
        raise UserError(
            f'config.duration is {config.duration!r}, {total:.3g} steps: expected fewer than '
            '2**31 - 1.'
        )
    return total
