"""Weights that a new run starts from: config.init.

  python -m cls.main --config configs/resnet.py:folder=/data/birds --config.init=resnet50.pth
  python -m cls.main --config ... --config.init=hf:timm/resnet50.tv_in1k
  python -m cls.main --config ... --config.init=runs/pretrained

A PyTorch or safetensors file, an .npz of a Keras net's tensors, a snapshot folder of the Hugging
Face Hub or hf:OWNER/NAME hold the weights of the net's reference (see cls.weights); a run folder
holds those of its newest checkpoint, their average if it keeps one. What needs options of its own
(an entry of the file, colours in another order) is made a run folder by cls.tools.import_weights.

Everything is taken, BN statistics too. Only the head, which is what the number of classes shapes
(see cls.models.registry.introspection), may be of other classes; then it is new, but for the rows
of classes whose names are known on both sides and the same (config.json of a snapshot, classes.json
of a run). A new head is drawn as ever and made a hundredth of that, near the zero of Kolesnikov et
al. 2020 (1912.11370): what training from scratch starts with outweighs the few steps of fine-
tuning, and at zero itself a classifier with a ReLU behind it, as SqueezeNet's, would stay. Heads
that the weights lack, and auxiliary ones, are new as well; auxiliary ones that the net lacks are
left out. All else has to fit, or nothing is begun; so do weights of which their own snapshot says
that they are those of another network. A run that continues from its own checkpoint does not look
here.
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

from cls import models, weights
from cls.errors import UserError
from cls.models.registry import fields as fields_of
from cls.run.checkpoint import newest_whole
from cls.run.workdir import load_classes, load_config
from cls.setup import Setup
from cls.storage import paths as storage
from cls.weights import card as cards
from cls.weights.hub import HUB, Located, locate, preparation

_SHOWN = 4  # how many tensors an error names
_NEW_HEAD = 0.01  # times what a fresh classifier is drawn with


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """Variables from elsewhere, and what is known of them.

    `classes` are the names of their outputs, () if unknown; `prepared` the mean and deviation of
    pixels in 0..255 that they were made for, and who says so; `left_out` the tensors of a file that
    are no part of the net; `entry` which of several sets of weights in a file they are, as text.
    """

    variables: dict[str, Any]
    classes: tuple[str, ...]
    prepared: tuple[tuple[float, ...], tuple[float, ...], str]
    left_out: tuple[str, ...] = ()
    entry: str = ''


def load(setup: Setup) -> dict[str, Any]:
    """Returns the variables that a run starts from, in host memory; says in a line what was taken.

    Warns in another line when the weights are known to be made for images that are normalised
    otherwise than config.data.mean and std say.

    Raises:
      UserError: nothing can be read there, or it does not fit.
    """
    source, head = setup.config.init, setup.head()
    folder = None if source.startswith(HUB) else storage.checked(source)
    # Snapshots of the Hugging Face Hub have a config.json too.
    if folder and ((folder / 'environment.json').is_file() or (folder / 'checkpoints').is_dir()):
        loaded = _of_run(setup.config, folder)
    else:
        loaded = _of_file(setup)
    fresh, auxiliary, classes = setup.initial(), _auxiliary(setup), setup.test.class_names
    given, dropped = _trimmed(loaded.variables, fresh, auxiliary)
    names = (loaded.classes, classes)
    variables, new, kept = graft(given, fresh, head, source, names, auxiliary)
    if jax.process_index() == 0:
        line = _ledger(given, fresh, new)
        if kept:
            line += f'; but the rows of {len(kept)} classes of the same names: {_list(kept)}'
        elif not head & set(new):
            line += ', the rows of the classifier in their order'
            line += '' if loaded.classes else ' (the weights do not name their classes)'
        if left_out := sorted({*loaded.left_out, *dropped}):
            line += f'; left out, as no part of the net: {_list(left_out)}'
        line += f'; {loaded.entry}' if loaded.entry else ''
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
    """Returns (given's variables without auxiliary heads that the net lacks; their paths)."""
    flat_given, flat_fresh = map(traverse_util.flatten_dict, (given, fresh))
    extra = {
        path for path in flat_given.keys() - flat_fresh.keys() if '/'.join(path[1:]) in auxiliary
    }
    kept = {path: value for path, value in flat_given.items() if path not in extra}
    return traverse_util.unflatten_dict(kept), sorted('/'.join(path[1:]) for path in extra)


def graft(
    given: dict[str, Any],
    fresh: dict[str, Any],
    head: frozenset[str],
    source: str,
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    auxiliary: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Returns given's variables, with a small new head if its classes are others.

    Args:
      given: {'params', 'batch_stats'}, from elsewhere; may lack the head, or all auxiliary heads.
      fresh: the same, of the net that is to be trained.
      head: paths of the head's variables, 'module/leaf'.
      source: what to call `given` in messages.
      names: of the classes, by output, of `given` and of `fresh`; () where they are not known.
      auxiliary: paths of the auxiliary heads' variables.

    Returns:
      (variables, names of the new ones, names of the classes whose rows of these are those of
      `given` nevertheless).

    Raises:
      UserError: names on one side alone, or other shapes or kinds of numbers outside the head.
    """
    flat_given, flat_fresh = map(traverse_util.flatten_dict, (given, fresh))
    classifiers = {path for path in flat_fresh if '/'.join(path[1:]) in head}
    side = {path for path in flat_fresh if '/'.join(path[1:]) in auxiliary}

    def differs(path):
        return np.shape(flat_given[path]) != flat_fresh[path].shape

    common = flat_given.keys() & flat_fresh.keys()
    lacking = flat_fresh.keys() - common
    lacked = {
        path for group in (classifiers - side, side) if group <= lacking for path in group
    }  # of those that may be missing, which then are as a whole
    problems = {
        'not there': lacking - lacked,
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
    there = classifiers & common
    rows = min((np.shape(flat_given[path])[-1] for path in there), default=0)
    if there and len(names[0]) > rows:
        raise UserError(
            f'config.init: {source} names {len(names[0])} classes, and its classifier has '
            f'{rows}: expected a name for each.'
        )
    others = all(names) and tuple(names[0]) != tuple(names[1])
    renewed = lacked | (classifiers if others or any(map(differs, there)) else set())
    kept = [name for name in names[1] if name in set(names[0])] if renewed & there else []
    chosen = {path: (flat_fresh if path in renewed else flat_given)[path] for path in flat_fresh}
    for path in renewed & classifiers:
        if path[-1] in ('kernel', 'bias'):
            chosen[path] = chosen[path] * np.asarray(_NEW_HEAD, chosen[path].dtype)
        if kept and path in there:
            chosen[path] = _with_rows(chosen[path], flat_given[path], kept, names)
    new = sorted('/'.join(path[1:]) for path in renewed)
    return traverse_util.unflatten_dict(chosen), new, kept


def _with_rows(
    fresh: np.ndarray,
    given: np.ndarray,
    kept: list[str],
    names: tuple[Sequence[str], Sequence[str]],
) -> np.ndarray:
    """Returns a classifier's variable, whose last axis is the classes, with rows of another."""
    result = np.array(fresh)
    before, now = ([list(side).index(name) for name in kept] for side in names)
    result[..., now] = given[..., before]
    return result


def _some(paths: set[tuple[str, ...]]) -> str:
    return _list(sorted('/'.join(path[1:]) for path in paths))


def _list(names: list[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _ledger(given: Any, fresh: Any, new: list[str]) -> str:
    count = len(jax.tree.leaves(fresh))
    if not new:
        return f'{count} tensors taken, all of them'
    counts = [
        {
            value.shape[-1]
            for path, value in traverse_util.flatten_dict(tree).items()
            if '/'.join(path[1:]) == new[0]
        }
        for tree in (fresh, given)
    ]
    classes, others = (min(sizes, default=0) for sizes in counts)
    number = f'{classes} classes, not {others}' if classes != others else 'other classes'
    number = number if others else 'which the weights lack'
    return f'{count - len(new)} tensors taken; new: {", ".join(new)} ({number})'


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
        try:
            state = _arrays(checkpoint / 'state')
        except Exception as error:  # Orbax and TensorStore raise many kinds
            why = (str(error).splitlines() or [''])[0][:200]
            raise UserError(
                f'config.init: {checkpoint} cannot be read ({type(error).__name__}: {why}). If its '
                'run goes on, it has removed that meanwhile: run the same command again.'
            ) from error
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
    checkpoint = weights.open_checkpoint(located.file, inflation=setup.config.limits.inflation)
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


def _on_entry(checkpoint: weights.Checkpoint) -> str:
    if not checkpoint.unused:
        return ''
    return f'of its entry {checkpoint.entry!r}, not of {_list(list(checkpoint.unused))}'


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
