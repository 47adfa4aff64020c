"""Makes a run folder from a foreign checkpoint.

  python -m cls.tools.import_weights --from resnet50.pth --workdir runs/r50
  python -m cls.tools.import_weights --from hf:timm/resnet50.tv_in1k --workdir runs/r50
  python -m cls.main --job evaluate --workdir runs/r50 --config.data.name=folder:/data/imagenet
  python -m cls.main --workdir runs/r50 --config.data.name=... --config.optim.lr=0.01

--from takes a PyTorch or safetensors file, an .npz with the tensors of a Keras model, a snapshot
folder of the Hugging Face Hub, or hf:OWNER/NAME. The network, the package with the names in the
file and the number of classes are recognized from the names and shapes of the tensors, and a line
names them with the evidence. If the tensors fit several networks, config.json, the name of the
repository or of the file decides, or else --model has to. Every tensor is used once and every
variable filled, or nothing is written. Nothing is written either if the weights are of another
network by a snapshot's config.json or a training script's arguments in the file. `--part backbone`
imports the body of a network without a classifier, as of a detector, to fine-tune it. The
config for evaluation and fine-tuning is printed and saved; --config.FIELD=VALUE changes it. A run
of another config, with another head if need be, starts from the folder or from the file itself by
--config.init (see cls.weights.pretrained).

The names of the classes, in the order of the outputs (classes.json in the folder), are those of
config.json. Without names, a network of 1,000 classes is assumed to have ImageNet's, in the order
of the sorted WordNet ids, and a line is printed that says so. With classes.json, folders of any
subset of the classes, in any order, can be evaluated.
"""

import argparse
import contextlib
import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from cls import models, weights
from cls.cli import Parser, run
from cls.config import defaults, runs
from cls.config import load as configs
from cls.data import tfds_sets
from cls.errors import UserError
from cls.models.registry import Variant
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run.checkpoint import Checkpoints
from cls.run.environment import start
from cls.run.workdir import open_run
from cls.steps import optim
from cls.steps.optim import OptimSpec
from cls.steps.state import first_state
from cls.storage import paths
from cls.tools import import_messages as messages
from cls.weights import card as cards
from cls.weights import origin as origins
from cls.weights import stem
from cls.weights.hub import CARD, Located, locate
from cls.weights.images import Preparation
from cls.weights.loading import fill, hints_of, naming, prepare
from cls.weights.origin import Origin
from cls.weights.recognition import BACKBONE, identify

PROG = 'python -m cls.tools.import_weights'

# Data sets that `config_of` may choose -> number of classes.
_DATA_SETS = {'imagenet2012': 1000, 'cifar10': 10, 'cifar100': 100}


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('--model', '--variant', default='', help='a variant; by default recognized')
    flags.add_argument('--from', dest='source', required=True, help='file, folder, hf:OWNER/NAME')
    flags.add_argument('--workdir', required=True, type=paths.checked, help='the folder to make')
    flags.add_argument('--entry', default='', help='key, in a file with several sets of weights')
    flags.add_argument(
        '--part', default='', choices=('', BACKBONE), help='backbone: without the classifier'
    )
    flags.add_argument('--ema', action='store_true', help='the average of the weights in the file')
    flags.add_argument('--bgr', action='store_true', help='weights trained on BGR (Caffe)')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the folder; returns the exit code. Raises UserError if the weights do not fit."""
    args, rest = parser(prog).parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    logging.getLogger('absl').setLevel(logging.WARNING)

    if args.model:
        models.variant(args.model)
    if args.workdir.exists() and (not args.workdir.is_dir() or any(args.workdir.iterdir())):
        raise UserError(f'{args.workdir} is not empty; choose another --workdir.')
    found = _read(args, configs.parse_overrides(rest))
    start()
    options = {'classes': found.classes, 'origin': found.origin}
    write(found.config, found.variables, args.workdir, **options)
    count = sum(x.size for x in jax.tree.leaves(found.variables['params']))
    used = 'the body of the network' if args.part else 'every tensor used'
    print(f'{args.workdir}: {found.config.model.name}, {count:,} parameters, {used}.')
    for line in found.lines:
        print(line)
    print(_fine_tuning(args.workdir) if args.part else _what_next(args.workdir, found.config))
    return 0


@dataclasses.dataclass(frozen=True)
class _Found:
    """The contents of the new folder, and lines on their sources."""

    config: ConfigDict
    variables: dict[str, Any]
    classes: tuple[str, ...]
    lines: list[str]
    origin: Origin


def _read(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> _Found:
    """Returns a checkpoint and its settings. Raises UserError if they do not fit the variant."""
    located = locate(args.source)
    limits = [pair for pair in overrides if pair[0].startswith('limits.')]
    inflation = _overridden(defaults.base(), limits).limits.inflation
    checkpoint = weights.open_checkpoint(located.file, args.entry, inflation, args.ema)
    hints = hints_of(args.source, located, checkpoint)
    match = None
    if not args.model:
        with naming(located.file):
            match = identify(checkpoint.tensors, hints, args.part)
    variant = models.variant(match.variant if match else args.model)
    with located.naming_card():
        cards.check(located.card, variant)
    with Located(located.file, {}).naming_card():
        cards.check(checkpoint.card, variant, strict=False)
    given = dict(overrides)

    size, own = _size(given), dict(match.fields) if match else {}
    draft = _overridden(_of_model(variant, own), overrides)
    fields = {k: v for k, v in draft.model.items() if k not in ('name', 'dtype')}
    for name in ('num_classes', 'aux_head'):
        if f'model.{name}' not in given:
            fields.pop(name, None)
    fitted = fill(checkpoint, variant.name, located.file, hints, fields, part=args.part)
    prepared, bgr = prepare(fitted, variant, located, args.source, size, args.bgr)
    fitted, adapted = _of_channels(fitted, variant, draft.data.channels, located.file)
    prepared = _sized(prepared, size).of_channels(fitted.channels)
    config = config_of(variant, prepared, fitted.fields)
    config.data.channels = 0 if fitted.channels == stem.COLORS else fitted.channels
    config = _overridden(config, overrides)
    with located.naming_card() if not overrides else contextlib.nullcontext():
        defaults.check(config)
    lines = [
        messages.of_network(variant, located, checkpoint.card, fitted, match),
        *messages.of_entry(located, checkpoint),
        *messages.of_fields(fitted, given),
        messages.of_images(config, prepared, given),
    ]
    origin = origins.of(args.source, located, prepared, fitted.family, bgr)
    lines += [*adapted, *messages.of_channels(fitted, prepared), *messages.of_colors(prepared, bgr)]
    if fitted.headless:
        return _Found(config, fitted.variables, (), [*lines, *origin.lines()], origin)
    with located.naming_card():
        _check_count(located.card, config.model.num_classes)
        named = (*cards.class_names(located.card, config.model.num_classes), CARD)
    if not named[0]:
        with Located(located.file, {}).naming_card():
            names, field = cards.class_names(checkpoint.card, config.model.num_classes)
        named = (names, field, located.file.name)
    classes, line = messages.classes(*named, config)
    return _Found(config, fitted.variables, classes, [*lines, line, *origin.lines()], origin)


def _of_channels(
    fitted: weights.Fitted, variant: Variant, channels: int, file: Path
) -> tuple[weights.Fitted, list[str]]:
    """Returns (weights for images with some channels, lines on it); 0: those of the file."""
    if channels in (0, fitted.channels):
        return fitted, []
    module = models.create(variant.name, **fitted.fields)
    shapes: Any = models.abstract_variables(module, variant.input_size, channels)
    given, wanted = (traverse_util.flatten_dict(tree) for tree in (fitted.variables, shapes))
    flat, line = stem.adapt(given, wanted, channels)
    if not line:
        raise UserError(
            f'{file}: no first convolution can be adapted to config.data.channels, {channels}: '
            f'expected {fitted.channels}.'
        )
    variables = traverse_util.unflatten_dict(flat)
    adapted = dataclasses.replace(fitted, variables=variables, channels=channels)
    return adapted, [f'First convolution: {line}.']


def _overridden(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> ConfigDict:
    return configs.from_json(configs.to_json(config), overrides)


def _size(given: dict[str, str]) -> int:
    """Returns --config.data.image_size, 0 if it is not set or no number."""
    asked = given.get('data.image_size', '')
    return int(asked) if asked.isdecimal() else 0


def _sized(prepared: Preparation, size: int) -> Preparation:
    """Returns a preparation for a size; 0: its own."""
    return dataclasses.replace(prepared, size=size) if size else prepared


def _check_count(card: dict[str, Any], count: int) -> None:
    """Raises UserError if a card has another number of classes than the file."""
    stated = card.get('num_classes')
    if type(stated) is int and stated > 0 and stated != count:
        raise UserError(f'num_classes is {stated}, but the weights have {count} outputs')


def _fine_tuning(workdir: Path) -> str:
    return (
        'The folder has no classifier, so it cannot be evaluated. Train one on images with\n'
        f'  python -m cls.main --config ... --config.init={shlex.quote(str(workdir))}'
    )


def _what_next(workdir: Path, config: ConfigDict) -> str:
    """Returns commands that work: the plain one only if the config's data set is prepared."""
    command = f'  python -m cls.main --job evaluate --workdir {shlex.quote(str(workdir))}'
    on_folder = f'{command} --config.data.name=folder:DIR'
    name = config.data.name.removeprefix('tfds:')
    images = f'Evaluate on images in DIR/val/CLASS/* with\n{on_folder}'
    if _DATA_SETS.get(name, config.model.num_classes) != config.model.num_classes:
        return images  # that data set has other classes
    if config.data.name.startswith('tfds:') and not _is_prepared(name, config.data.dir):
        return (
            f'{images}\n'
            f'or, after `{tfds_sets.prepare_command(name, config.data.dir)}`, on {name} with\n'
            f'{command}'
        )
    return f'Evaluate with\n{command}'


def _is_prepared(name: str, directory: str) -> bool:
    try:
        return tfds_sets.find_prepared(name, directory) is not None
    except UserError:
        return False


def config_of(variant: Variant, prepared: Preparation, fields: Mapping[str, Any]) -> ConfigDict:
    """Returns a config for evaluation and fine-tuning, on the data set that the variant is for.

    Args:
      variant: the registered variant.
      prepared: the preparation of its images.
      fields: fields of its module that follow from the weights. Without `num_classes` among them,
        the number of classes is the variant's.
    """
    c = _of_model(variant, fields)
    if variant.input_size == 32:
        common.use_cifar(c, 'cifar100' if c.model.num_classes == 100 else 'cifar10')
    else:
        common.use_imagenet(c)
        c.data.train_crop = 'random_resized'
    c.data.image_size, c.data.eval_resize = prepared.size, prepared.resize
    c.data.eval_crop = 'squash' if prepared.squash else 'center'
    c.data.interpolation = prepared.interpolation
    c.data.mean, c.data.std = prepared.mean, prepared.std
    c.optim.lr = 0.01
    return c


def _of_model(variant: Variant, fields: Mapping[str, Any]) -> ConfigDict:
    """Returns a config with a variant's module; the fields are those of `config_of`."""
    c = common.base()
    c.model.name = variant.name
    c.model.num_classes = models.create(variant.name).num_classes
    for name, value in fields.items():
        c.model[name] = value
    return c


def write(
    config: ConfigDict,
    variables: dict,
    workdir: Path,
    averages: dict | None = None,
    classes: Sequence[str] = (),
    origin: Origin | None = None,
) -> None:
    """Writes config.json, environment.json, classes.json and the checkpoint of step 0.

    The averages of weights start at `averages`, by default at the weights. `classes` are the names
    of the outputs, if known, and `origin` is written to weights.json.
    """
    opt_state = optim.initial_state(OptimSpec.from_config(config), variables['params'])
    averages = variables if config.ema and averages is None else averages
    state = first_state(variables, opt_state, config.seed, averages)
    state, run_config = jax.tree.map(np.asarray, state), runs.run_config(config)
    with open_run(workdir, run_config, classes):
        checkpoints = Checkpoints(
            workdir / 'checkpoints', config.checkpoint.keep, run_config.record(classes)
        )
        checkpoints.save(0, state, {'step': 0}, {})
        checkpoints.close()
        if origin is not None:
            origins.write(workdir, origin)


if __name__ == '__main__':
    run(main)
