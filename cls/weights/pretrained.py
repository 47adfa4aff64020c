"""The initial weights of a new run: config.init.

  python -m cls.main --config configs/resnet.py:folder=/data/birds --config.init=resnet50.pth
  python -m cls.main --config ... --config.init=hf:timm/resnet50.tv_in1k
  python -m cls.main --config ... --config.init=runs/pretrained

A PyTorch or safetensors file, an .npz with the tensors of a Keras model, a snapshot folder of the
Hugging Face Hub or hf:OWNER/NAME have the weights of the model's reference (see cls.weights). From
a run folder the newest checkpoint is used, and its average of weights if it keeps one. For weights
that need more options (an entry of the file, another order of colors), make a run folder with
cls.tools.import_weights.

All weights are used, including BN statistics. The first convolution is adapted to images of
another number of channels (see stem.py). Only the head may have other classes: the variables
whose shapes depend on the number of classes (see cls.models.registry.introspection). Then it is
new, except for the rows of classes with the same name on both sides (config.json of a snapshot,
classes.json of a run). A new head has a hundredth of the usual initialization, close to the zero of
Kolesnikov et al. 2020 (1912.11370). The usual scale would outweigh the few steps of
fine-tuning. At exactly zero, a classifier followed by a ReLU, as SqueezeNet's, would not learn.
Heads that the weights lack, and auxiliary ones, are new as well; auxiliary heads that the model
lacks are left out. Everything else has to fit, or the run does not start. Weights are also
refused if their snapshot names another network. A run that continues from its own checkpoint
ignores config.init.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from cls import models, weights
from cls.errors import UserError
from cls.models.registry import fields as fields_of
from cls.models.registry import introspection
from cls.models.registry.init import draw
from cls.run import workdir as folders
from cls.run.checkpoint_files import best_or_newest, describe, is_run, newest_step, newest_whole
from cls.storage import paths as storage
from cls.weights import card as cards
from cls.weights import stem
from cls.weights.convert import torch_name
from cls.weights.hub import HUB, Located, locate
from cls.weights.index import hidden_layers
from cls.weights.loading import fill, hints_of, prepare

log = logging.getLogger(__name__)

_SHOWN = 4  # number of tensors that an error names
_NEW_HEAD = 0.01  # scale of a new classifier, as a part of the usual initialization


@dataclasses.dataclass(frozen=True)
class InitSpec:
    """The source of a run's initial weights, and the fields that they have to fit.

    Attributes:
      source: config.init, '' for none.
      model: the name of the variant.
      fields: the fields of its module in the config.
      image_size: height and width of the images.
      mean, std: for the normalization of images, of pixels in 0..255.
      inflation: config.limits.inflation.
    """

    source: str
    model: str
    fields: Mapping[str, Any]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    inflation: float

    @classmethod
    def from_config(cls, config: Any) -> 'InitSpec':
        """Returns the specification in config.init, config.model and config.data."""
        data, model = config.data, config.model.to_dict()
        fields = {name: value for name, value in model.items() if name != 'name'}
        numbers = data.image_size, tuple(data.mean), tuple(data.std), config.limits.inflation
        return cls(config.init, model['name'], fields, *numbers)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """Loaded variables, with their properties.

    Attributes:
      variables: {'params', 'batch_stats'}.
      classes: names of the outputs, () if unknown.
      prepared: mean and deviation of pixels in 0..255 in the training of the weights, and the
        source of these numbers.
      left_out: tensors of a file that are not part of the network.
      entry: a text that names the chosen set of weights, for a file with several.
    """

    variables: dict[str, Any]
    classes: tuple[str, ...]
    prepared: tuple[tuple[float, ...], tuple[float, ...], str]
    left_out: tuple[str, ...] = ()
    entry: str = ''


def load(
    spec: InitSpec,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    seed: int,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the initial variables of a run, in host memory; logs a line on them.

    Logs another line if the weights were trained with another normalization than the mean and std
    of `spec`.

    Args:
      spec: the specification, with a source.
      model: the network to train.
      image_shape: height, width and channels of the images.
      seed: the seed for a new head.
      class_names: names of the classes of the data, () if unknown.

    Raises:
      UserError: the source cannot be read, or does not fit.
    """
    source, (size, _, channels) = spec.source, image_shape
    folder = None if source.startswith(HUB) else storage.checked(source)
    loaded = _of_run(spec, folder) if folder and is_run(folder) else _of_file(spec)
    auxiliary, head = _auxiliary(model, image_shape), introspection.head(model, size, channels)
    fresh = _fresh(model, image_shape, seed, head | auxiliary)
    given, dropped = _trimmed(loaded.variables, fresh, auxiliary)
    given, adapted = _of_channels(given, fresh, source, channels)
    if hidden := _hidden(spec.model, given, fresh, head - auxiliary):
        fresh = _fresh(model, image_shape, seed, head | auxiliary | hidden)
    names = (loaded.classes, class_names)
    variables, new, kept = graft(given, fresh, head, source, names, auxiliary, hidden)
    if jax.process_index() == 0:
        line = _taken(given, fresh, new)
        if kept:
            line += f'; but the rows of {len(kept)} classes of the same names: {_list(kept)}'
        elif not head & set(new):
            line += ', the rows of the classifier in their order'
            line += '' if loaded.classes else ' (the weights do not name their classes)'
        if left_out := sorted({*loaded.left_out, *dropped}):
            line += f'; left out, as no part of the network: {_list(left_out)}'
        line += ''.join(f'; {more}' for more in (adapted, loaded.entry) if more)
        log.info('init: %s', line)
        *numbers, known_from = loaded.prepared
        mean, std = (stem.normalization(values, channels) for values in numbers)
        if warning := _warning(spec, mean, std, known_from):
            log.info('warning: %s: %s', source, warning)
    return variables


def _fresh(
    model: nn.Module, image_shape: tuple[int, int, int], seed: int, drawn: Set[str]
) -> dict[str, Any]:
    """Returns the variables of a network: new ones at the paths `drawn`, shapes elsewhere."""
    size, _, channels = image_shape
    flat = _flat(models.abstract_variables(model, size, channels))
    only = {path for path in flat if '/'.join(path[1:]) in drawn}
    return traverse_util.unflatten_dict(flat | draw(model, seed, size, channels, only))


def _auxiliary(model: nn.Module, image_shape: tuple[int, int, int]) -> frozenset[str]:
    """Returns the paths, 'module/leaf', of the variables of a network's auxiliary heads."""
    if 'aux_head' not in fields_of(type(model)):
        return frozenset()
    size, _, channels = image_shape
    without, with_heads = (
        _paths(models.abstract_variables(model.clone(aux_head=on), size, channels))
        for on in (False, True)
    )
    return frozenset(with_heads - without)


def _hidden(
    name: str, given: dict[str, Any], fresh: dict[str, Any], head: Set[str]
) -> frozenset[str]:
    """Returns the paths of a classifier's layers before its last, if `given` lacks all of it."""
    flat, lacking = _flat(fresh), _flat(fresh).keys() - _flat(given).keys()
    last = {path for path in flat if '/'.join(path[1:]) in head}
    if not last <= lacking:
        return frozenset()
    renames = models.variant(name).renames
    names = {path: torch_name(path, renames) for path in flat}
    hidden = hidden_layers((names[p] for p in flat.keys() - last), [names[p] for p in last])
    paths = {path for path in flat.keys() - last if names[path] in hidden}
    return frozenset('/'.join(path[1:]) for path in paths) if paths <= lacking else frozenset()


def _paths(variables: Any) -> set[str]:
    weights_only = {name: variables.get(name, {}) for name in ('params', 'batch_stats')}
    return {'/'.join(path[1:]) for path in _flat(weights_only)}


def _flat(variables: Any) -> dict[tuple[str, ...], Any]:
    """Returns variables by their paths."""
    flat: Any = traverse_util.flatten_dict(variables)
    return flat


def _trimmed(
    given: dict[str, Any], fresh: dict[str, Any], auxiliary: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    """Returns (`given` without the auxiliary heads that the network lacks, their paths)."""
    flat_given, flat_fresh = _flat(given), _flat(fresh)
    extra = {
        path for path in flat_given.keys() - flat_fresh.keys() if '/'.join(path[1:]) in auxiliary
    }
    kept = {path: value for path, value in flat_given.items() if path not in extra}
    return traverse_util.unflatten_dict(kept), sorted('/'.join(path[1:]) for path in extra)


def _of_channels(
    given: dict[str, Any], fresh: dict[str, Any], source: str, channels: int
) -> tuple[dict[str, Any], str]:
    """Returns (`given` with a first convolution for images of `channels`, a line on it)."""
    try:
        flat, line = stem.adapt(_flat(given), _flat(fresh), channels)
    except UserError as error:
        raise UserError(f'config.init: {source}: {error}.') from None
    return traverse_util.unflatten_dict(flat), line


def graft(
    given: dict[str, Any],
    fresh: dict[str, Any],
    head: frozenset[str],
    source: str,
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    auxiliary: frozenset[str] = frozenset(),
    hidden: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns the variables of `given`, with a small new head if the classes differ.

    Args:
      given: {'params', 'batch_stats'}, loaded; may lack the head, or all auxiliary heads.
      fresh: {'params', 'batch_stats'} of the network to train, newly drawn for the heads; elsewhere
        shapes are enough.
      head: paths of the head's variables, 'module/leaf'.
      source: the name of `given` in messages.
      names: class names by output, of `given` and of `fresh`; () if unknown.
      auxiliary: paths of the auxiliary heads' variables.
      hidden: paths of the variables of the classifier's other layers, if `given` lacks them.

    Returns:
      (variables, names of new variables, names of classes with their rows of `given`).

    Raises:
      UserError: names on one side only, or other shapes or types outside the head.
    """
    flat_given, flat_fresh = _flat(given), _flat(fresh)
    classifiers = {path for path in flat_fresh if '/'.join(path[1:]) in head}
    side, before = (
        {path for path in flat_fresh if '/'.join(path[1:]) in group}
        for group in (auxiliary, hidden)
    )

    def differs(path):
        return np.shape(flat_given[path]) != flat_fresh[path].shape

    common = flat_given.keys() & flat_fresh.keys()
    lacking = flat_fresh.keys() - common
    # A head may be missing, but only as a whole.
    groups = (classifiers - side, side, before)
    lacked = {path for group in groups if group <= lacking for path in group}
    problems = {
        'not there': lacking - lacked,
        'without a place': flat_given.keys() - common,
        'of another shape': {path for path in common - classifiers if differs(path)},
        'of another type': {
            path for path in common if flat_given[path].dtype != flat_fresh[path].dtype
        },
    }
    if any(problems.values()):
        listed = '; '.join(
            f'{len(paths)} {kind} ({_some(paths)})' for kind, paths in problems.items() if paths
        )
        raise UserError(f'config.init: {source} does not fit the network: tensors {listed}.')
    shared = classifiers & common
    rows = min((np.shape(flat_given[path])[-1] for path in shared), default=0)
    if shared and len(names[0]) > rows:
        raise UserError(
            f'config.init: {source} names {len(names[0])} classes, and its classifier has '
            f'{rows}: expected a name for each.'
        )
    others = all(names) and tuple(names[0]) != tuple(names[1])
    renewed = lacked | (classifiers if others or any(map(differs, shared)) else set())
    kept = [name for name in names[1] if name in set(names[0])] if renewed & shared else []
    chosen = {path: (flat_fresh if path in renewed else flat_given)[path] for path in flat_fresh}
    for path in renewed & classifiers:
        if path[-1] in ('kernel', 'bias'):
            chosen[path] = chosen[path] * np.asarray(_NEW_HEAD, chosen[path].dtype)
        if kept and path in shared:
            chosen[path] = _with_rows(chosen[path], flat_given[path], kept, names)
    new = sorted('/'.join(path[1:]) for path in renewed)
    return traverse_util.unflatten_dict(chosen), new, kept


def _with_rows(
    fresh: np.ndarray,
    given: np.ndarray,
    kept: list[str],
    names: tuple[Sequence[str], Sequence[str]],
) -> np.ndarray:
    """Returns `fresh` with the values of the kept classes, on the last axis, from `given`."""
    result = np.array(fresh)
    before, now = ([list(side).index(name) for name in kept] for side in names)
    result[..., now] = given[..., before]
    return result


def _some(paths: set[tuple[str, ...]]) -> str:
    return _list(sorted('/'.join(path[1:]) for path in paths))


def _list(names: list[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _taken(given: Any, fresh: Any, new: list[str]) -> str:
    """Returns a text on the numbers of tensors taken and of new ones."""
    count = len(jax.tree.leaves(fresh))
    if not new:
        return f'{count} tensors taken, all of them'
    counts = [
        {value.shape[-1] for path, value in _flat(tree).items() if '/'.join(path[1:]) == new[0]}
        for tree in (fresh, given)
    ]
    classes, others = (min(sizes, default=0) for sizes in counts)
    number = f'{classes} classes, not {others}' if classes != others else 'other classes'
    number = number if others else 'which the weights lack'
    return f'{count - len(new)} tensors taken; new: {", ".join(new)} ({number})'


def _of_run(spec: InitSpec, folder: Path) -> _Loaded:
    theirs = _config_of(folder)
    if 'members' in theirs:
        raise UserError(
            f'config.init: {folder} is the run of an ensemble; choose the folder of one member.'
        )
    own, name = models.variant(spec.model).name, theirs['model']['name']
    if (models.variant(name).name if models.is_known(name) else name) != own:
        raise UserError(
            f'config.init: {folder} holds {name}, this run is of {own}: expected the same network.'
        )
    try:
        variables, step = of_run(folder)
    except UserError as error:
        raise UserError(f'config.init: {error}') from error
    prepared = (theirs['data']['mean'], theirs['data']['std'], f'{folder}/config.json')
    return _Loaded(
        variables,
        folders.load_classes(folder),
        prepared,
        entry=f'of {step}' if 'best' in step else '',
    )


def of_run(
    folder: Path, average: bool | None = None, newest: bool = False
) -> tuple[dict[str, Any], str]:
    """Returns (variables of a run's checkpoint as NumPy arrays, a text on its step).

    It is the best checkpoint if the run keeps that, else the newest undamaged one. The optimizer's
    state is not read, and nothing in the folder is changed.

    Args:
      folder: the run folder.
      average: whether to return the average of the weights; None: if the run keeps one.
      newest: whether to take the newest checkpoint in any case.

    Raises UserError if there is no checkpoint that can be read, or no average.
    """
    choose = newest_step if newest else best_or_newest
    with newest_whole(folder / 'checkpoints', choose) as checkpoint:
        if checkpoint is None:
            raise UserError(f'{folder} has no checkpoint that can be read.')
        try:
            text = describe(folder / 'checkpoints', int(checkpoint.name))
            return _arrays(checkpoint / 'state', average), text
        except UserError as error:
            raise UserError(f'{folder} {error}') from error
        except Exception as error:  # Orbax and TensorStore raise many kinds
            why = (str(error).splitlines() or [''])[0][:200]
            raise UserError(
                f'{checkpoint} cannot be read ({type(error).__name__}: {why}). If its run goes on, '
                'it has removed that meanwhile: run the same command again.'
            ) from error


def _config_of(folder: Path) -> dict[str, Any]:
    """Returns the fields of a run's config, from config.json or the newest checkpoint."""
    folders.check_entries(folder)
    for text in filter(None, (folders.config_text(folder), folders.kept_config(folder))):
        fields = storage.parse_json(text)
        if 'members' in fields:
            return fields
        model, data = (fields.get(group, {}) for group in ('model', 'data'))
        if 'name' in model and {'mean', 'std'} <= {*data}:
            return fields
    raise UserError(
        f'config.init: {folder} has no config that can be read: expected a run folder, with a '
        'config.json.'
    )


def _arrays(checkpoint: Path, average: bool | None) -> dict[str, Any]:
    """Returns the variables of a saved state as NumPy arrays, regardless of its sharding.

    They are its averages if `average` says so; None: if it has any. Nothing else is read.
    """
    reader = ocp.PyTreeCheckpointer()
    checkpoint = checkpoint if storage.is_remote(checkpoint) else checkpoint.absolute()
    metadata: Any = reader.metadata(checkpoint)
    saved = metadata.item_metadata.tree
    if average and not saved.get('ema'):
        raise UserError('keeps no average of the weights (config.ema is 0): expected another set.')
    averaged = bool(saved.get('ema')) if average is None else average
    used = {'ema'} if averaged else {'params', 'batch_stats'}
    wanted = {
        name: tree if name in used else jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
        for name, tree in saved.items()
    }
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    args = ocp.args.PyTreeRestore(wanted, restore_args=arguments)
    state = reader.restore(checkpoint, args=args)
    variables = state['ema'] if 'ema' in used else state
    return {name: variables[name] for name in ('params', 'batch_stats') if variables.get(name)}


def _of_file(spec: InitSpec) -> _Loaded:
    """Returns weights with any number of classes; all tensors of the file have to be used."""
    variant = models.variant(spec.model)
    located = locate(spec.source)
    checkpoint = weights.open_checkpoint(located.file, inflation=spec.inflation)
    with located.naming_card():
        cards.check(located.card, variant)
    with Located(located.file, {}).naming_card():
        cards.check(checkpoint.card, variant, strict=False)
    others = ('dtype', 'num_classes', 'aux_head')
    fields = {name: value for name, value in spec.fields.items() if name not in others}
    hints = hints_of(spec.source, located, checkpoint)
    fitted = fill(checkpoint, variant.name, located.file, hints, fields, without_head=True)
    _check_fields(variant, fitted, fields, located.file)
    prepared, _ = prepare(fitted, variant, located, spec.source, spec.image_size)
    with located.naming_card():
        count = fitted.fields.get('num_classes', 0)
        classes, _ = cards.class_names(located.card, count) if count else ((), '')
    if count and not classes:
        with Located(located.file, {}).naming_card():
            classes, _ = cards.class_names(checkpoint.card, count)
    return _Loaded(
        fitted.variables,
        classes,
        (prepared.mean, prepared.std, prepared.known_from['mean']),
        tuple(fitted.left_out),
        _on_entry(checkpoint),
    )


def _check_fields(
    variant: models.Variant, fitted: weights.Fitted, fields: Mapping[str, Any], file: Path
) -> None:
    """Raises UserError if the package of a file has other fields than the network to train."""
    model = models.create(variant.name, **fields)
    for name, value in fitted.fields.items():
        if name not in ('num_classes', 'aux_head') and getattr(model, name) != value:
            raise UserError(
                f'config.init: {file} has the names of {fitted.family}, whose {variant.name} has '
                f'{name}={value!r}: expected --config.model.{name}={value!r}.'
            )


def _on_entry(checkpoint: weights.Checkpoint) -> str:
    if not checkpoint.unused:
        return ''
    return f'of its entry {checkpoint.entry!r}, not of {_list(list(checkpoint.unused))}'


def _warning(spec: InitSpec, mean: Any, std: Any, known_from: str) -> str:
    """Returns a warning if the weights were trained with another normalization of images.

    Differences of half a level of 255 and of a hundredth of the deviation are ignored, as rounded
    constants for the same images differ by this much.
    """
    count = max(map(len, (mean, std, spec.mean, spec.std)))
    pairs = mean, spec.mean, std, spec.std
    values = [np.resize(np.asarray(x, np.float64), count) for x in pairs]
    near_mean = np.all(np.abs(values[0] - values[1]) <= 0.5)
    if near_mean and np.all(np.abs(values[2] - values[3]) <= 0.01 * values[2]):
        return ''
    options = ' '.join(
        f"'--config.data.{field}=({', '.join(f'{x:g}' for x in value)},)'"
        for field, value in (('mean', mean), ('std', std))
    )
    return (
        f'weights trained with another normalization of images ({known_from}); for the same one, '
        f'{options}'
    )
