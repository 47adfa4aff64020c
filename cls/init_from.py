"""Weights that a new run starts from: config.init.

  python -m cls.main --config configs/resnet.py:folder=/data/birds --config.init=resnet50.pth
  python -m cls.main --config ... --config.init=hf:timm/resnet50.tv_in1k
  python -m cls.main --config ... --config.init=runs/pretrained

A PyTorch or safetensors file, an .npz of a Keras net's tensors, a snapshot folder of the Hugging
Face Hub or hf:OWNER/NAME hold the weights of the net's reference (see cls.weights); a run folder
holds those of its newest checkpoint, their average if it keeps one. What needs options of its own
(an entry of the file, colours in another order) is made a run folder by cls.tools.import_weights.

Everything is taken, BN statistics too. Only the head, which is what the number of classes shapes
(see cls.models.parts), may be of other classes: where the weights' classes and the run's have names
(config.json of a snapshot, classes.json of a run; the data set), the rows of those that both have
are taken, whatever their places, and the others drawn anew; without names a head of as many classes
is taken as it is, and a line says so, and another drawn anew, whole. Auxiliary heads that only one
side has are drawn anew or left out. All else has to fit, or nothing is begun; weights of which the
snapshot says that they are another network's are refused. A run that continues from its own
checkpoint does not look here.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from ml_collections import ConfigDict

from cls import models, storage, weights
from cls.checkpoint import newest_whole
from cls.errors import UserError
from cls.models.registry import fields as fields_of
from cls.runtime import load_classes, load_config
from cls.setup import Setup
from cls.weights import card as cards
from cls.weights.hub import HUB, Located, locate, preparation

_SHOWN = 4  # how many tensors an error names


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """Variables from elsewhere, and what is known of them.

    `classes` are the names of their outputs, () if unknown; `prepared` the mean and deviation of
    pixels in 0..255 that they were made for, and who says so; `lines` what else is to be said.
    """

    variables: dict[str, Any]
    classes: tuple[str, ...]
    prepared: tuple[tuple[float, ...], tuple[float, ...], str]
    lines: tuple[str, ...] = ()


def load(setup: Setup) -> dict[str, Any]:
    """Returns the variables that a run starts from, in host memory; says in lines what was taken.

    Warns in another line when the weights are known to be made for images that are normalised
    otherwise than config.data.mean and std say.

    Raises:
      UserError: nothing can be read there, or it does not fit.
    """
    source, head = setup.config.init, setup.head()
    folder = None if source.startswith(HUB) else storage.checked(source)
    if folder and (folder / 'environment.json').is_file():
        loaded = _of_run(setup.config, folder)
    else:
        loaded = _of_file(setup)
    fresh, auxiliary = setup.initial(), _auxiliary(setup)
    trimmed, dropped = _trimmed(loaded.variables, fresh, auxiliary)
    names = setup.test.class_names
    variables, new = graft(trimmed, fresh, head, source, auxiliary, (loaded.classes, names))
    if jax.process_index() == 0:
        print(f'init: {_account(trimmed, fresh, new)}', flush=True)
        for line in (*loaded.lines, *dropped, *_on_classes(loaded.classes, names, new, trimmed)):
            print(f'init: {line}', flush=True)
        if warning := _warning(setup.config.data, *loaded.prepared):
            print(f'warning: {source}: {warning}', flush=True)
    return variables


def _auxiliary(setup: Setup) -> frozenset[str]:
    """Returns the paths, 'module/leaf', of the variables of the net's auxiliary heads."""
    if 'aux_head' not in fields_of(type(setup.model)):
        return frozenset()
    size, _, channels = setup.info.image_shape
    without, with_heads = (
        _paths(models.abstract_variables(setup.model.clone(aux_head=on), size, channels))
        for on in (False, True)
    )
    return frozenset(with_heads - without)


def _paths(variables: Any) -> set[str]:
    weights_only = {name: variables.get(name, {}) for name in ('params', 'batch_stats')}
    return {'/'.join(path[1:]) for path in traverse_util.flatten_dict(weights_only)}


def _trimmed(
    given: dict[str, Any], fresh: dict[str, Any], auxiliary: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    """Returns (given's variables without auxiliary heads that the net does not have; lines)."""
    flat_given, flat_fresh = map(traverse_util.flatten_dict, (given, fresh))
    extra = {
        path for path in flat_given.keys() - flat_fresh.keys() if '/'.join(path[1:]) in auxiliary
    }
    kept = {path: value for path, value in flat_given.items() if path not in extra}
    lines = [f'auxiliary heads left out: {_some(extra)}'] if extra else []
    return traverse_util.unflatten_dict(kept), lines


def _on_classes(
    known: Sequence[str], names: Sequence[str], new: list[str], given: dict[str, Any]
) -> list[str]:
    """Says what became of the rows of a head that was taken, if any was."""
    kept = sum(name in set(known) for name in names)
    if known and names and kept and (new or tuple(known) != tuple(names)):
        return [
            f'rows of the classifier by the names of their classes: {kept} of {len(names)} taken'
            + (f', {len(names) - kept} new' if kept < len(names) else '')
        ]
    if new or (known and names):
        return []
    lacking = 'the data set' if known else 'the weights'
    return [
        f'nothing names the classes of {lacking}; assumed: the outputs are the classes of '
        'config.data in its order'
    ]


def graft(
    given: dict[str, Any],
    fresh: dict[str, Any],
    head: frozenset[str],
    source: str,
    auxiliary: frozenset[str] = frozenset(),
    classes: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> tuple[dict[str, Any], list[str]]:
    """Returns (given's variables, with what of the head has to be new from `fresh`; new names).

    Args:
      given: {'params', 'batch_stats'}, from elsewhere; may lack the head and auxiliary heads.
      fresh: the same, of the net that is to be trained.
      head: paths of the head's variables, 'module/leaf'.
      source: what to call `given` in messages.
      auxiliary: paths of the auxiliary heads' variables.
      classes: the names of given's classes and of fresh's, in the order of the outputs; () if
        unknown. With both, rows are taken by name.

    Raises:
      UserError: names on one side alone, or other shapes or kinds of numbers outside the head.
    """
    flat_given, flat_fresh = map(traverse_util.flatten_dict, (given, fresh))
    classifiers = {path for path in flat_fresh if '/'.join(path[1:]) in head}
    side = {path for path in flat_fresh if '/'.join(path[1:]) in auxiliary}

    def differs(path):
        return np.shape(flat_given[path]) != flat_fresh[path].shape

    common = flat_given.keys() & flat_fresh.keys()
    absent = flat_fresh.keys() - common
    if classifiers - side <= absent:  # a file of the body alone
        absent = absent - classifiers
    if not side & common:
        absent = absent - side
    problems = {
        'not there': absent,
        'without a place': flat_given.keys() - common,
        'of another shape': {path for path in common - classifiers if differs(path)},
        'of another type': {
            path for path in common if flat_given[path].dtype != flat_fresh[path].dtype
        },
    }
    if any(problems.values()):
        found = '; '.join(
            f'{len(paths)} {what} ({_some(paths)})' for what, paths in problems.items() if paths
        )
        raise UserError(f'config.init: {source} does not fit the net: tensors {found}.')
    chosen = {path: flat_given.get(path, flat_fresh[path]) for path in flat_fresh}
    renewed = flat_fresh.keys() - common
    old, new = classes
    if any(len(old) > np.shape(flat_given[path])[-1] for path in classifiers & common):
        raise UserError(
            f'config.init: {source} has names for {len(old)} classes, more than its classifier has '
            'outputs: mend its names.'
        )
    if old and new:
        renewed |= set() if set(old) & set(new) else classifiers
        if tuple(old) != tuple(new) or any(map(differs, classifiers & common)):
            chosen |= {
                path: _by_name(flat_given[path], flat_fresh[path], old, new)
                for path in classifiers & common
            }
    elif any(map(differs, classifiers & common)):
        renewed |= classifiers
        chosen |= {path: flat_fresh[path] for path in classifiers}
    return traverse_util.unflatten_dict(chosen), sorted('/'.join(path[1:]) for path in renewed)


def _by_name(given: Any, fresh: Any, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """Returns (..., classes): given's values for the classes that it has, fresh's for others."""
    places = {name: place for place, name in enumerate(old)}
    value = np.array(fresh)
    shared = [(i, places[name]) for i, name in enumerate(new) if name in places]
    if shared:
        to, of = map(list, zip(*shared, strict=True))
        value[..., to] = np.asarray(given)[..., of]
    return value


def _some(paths: set[tuple[str, ...]]) -> str:
    names = sorted('/'.join(path[1:]) for path in paths)
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _account(given: Any, fresh: Any, new: list[str]) -> str:
    count = len(jax.tree.leaves(fresh))
    if not new:
        return f'{count} tensors taken, all of them'
    counts = [
        [
            value.shape[-1]
            for path, value in traverse_util.flatten_dict(tree).items()
            if '/'.join(path[1:]) == new[0]
        ]
        for tree in (fresh, given)
    ]
    (classes,), others = counts
    why = f' ({classes} classes, not {others[0]})' if others and others[0] != classes else ''
    return f'{count - len(new)} tensors taken; new: {", ".join(new)}{why}'


def _of_run(config: ConfigDict, folder: Path) -> _Loaded:
    theirs = load_config(folder)
    if 'members' in theirs:
        raise UserError(
            f'config.init: {folder} is the run of an ensemble; choose the folder of one member.'
        )
    own = models.variant(config.model.name).name
    if models.variant(theirs.model.name).name != own:
        raise UserError(
            f'config.init: {folder} holds {theirs.model.name}, this run is of {own}: '
            'expected the same net.'
        )
    with newest_whole(folder / 'checkpoints') as checkpoint:
        if checkpoint is None:
            raise UserError(f'config.init: {folder} has no checkpoint that can be read.')
        state = _arrays(checkpoint / 'state')
    variables = state.get('ema') or state
    variables = {name: variables[name] for name in ('params', 'batch_stats') if variables.get(name)}
    prepared = (theirs.data.mean, theirs.data.std, f'{folder}/config.json')
    return _Loaded(variables, load_classes(folder), prepared)


def _arrays(checkpoint: Path) -> dict[str, Any]:
    """Reads a saved state as NumPy arrays, on whatever devices it was saved."""
    reader = ocp.PyTreeCheckpointer()
    checkpoint = checkpoint if storage.is_remote(checkpoint) else checkpoint.absolute()
    saved = reader.metadata(checkpoint).item_metadata.tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    return reader.restore(checkpoint, restore_args=arguments)


def _of_file(setup: Setup) -> _Loaded:
    """Reads weights of any number of classes; every tensor of theirs has to find its place."""
    variant = models.variant(setup.config.model.name)
    located = locate(setup.config.init)
    checkpoint = weights.open_checkpoint(located.file)
    with located.naming_card():
        cards.check(located.card, variant)
        prepared = preparation(
            variant.reference or variant.name, located.card, setup.config.data.image_size
        )
    with Located(located.file, {}).naming_card():
        cards.check(checkpoint.card, variant, strict=False)
    kept = ('name', 'dtype', 'num_classes', 'aux_head')
    fields = {k: v for k, v in setup.config.model.to_dict().items() if k not in kept}
    fitted = weights.fit(
        checkpoint.tensors, variant.name, source=located.file, without_head=True, **fields
    )
    with located.naming_card():
        count = fitted.fields.get('num_classes', 0)
        classes, _ = cards.class_names(located.card, count) if count else ((), '')
    lines = [f'left out, as no part of the net: {", ".join(fitted.left_out[:_SHOWN])}']
    return _Loaded(
        fitted.variables,
        classes,
        (prepared.mean, prepared.std, prepared.known_from['mean']),
        tuple(lines if fitted.left_out else ()),
    )


def _warning(data: ConfigDict, mean: Any, std: Any, known_from: str) -> str:
    """Says how images are normalised for the weights if it is not how this run does it.

    Half a level of 255 and a hundredth of the deviation are let pass, which is how far apart the
    rounded constants lie that are in use for the same images.
    """
    count = max(map(len, (mean, std, data.mean, data.std)))
    values = [np.resize(np.float64(v), count) for v in (mean, data.mean, std, data.std)]
    near_mean = np.all(np.abs(values[0] - values[1]) <= 0.5)
    if near_mean and np.all(np.abs(values[2] - values[3]) <= 0.01 * values[2]):
        return ''
    options = ' '.join(
        f"'--config.data.{field}=({', '.join(f'{x:g}' for x in value)},)'"
        for field, value in (('mean', mean), ('std', std))
    )
    return f'weights made for images normalised otherwise ({known_from}); to do as there, {options}'
