"""Weights that a new run starts from: config.init.

  python -m cls.main --config configs/resnet.py:folder=/data/birds --config.init=resnet50.pth
  python -m cls.main --config ... --config.init=hf:timm/resnet50.tv_in1k
  python -m cls.main --config ... --config.init=runs/pretrained

A PyTorch or safetensors file, an .npz of a Keras net's tensors, a snapshot folder of the Hugging
Face Hub or hf:OWNER/NAME hold the weights of the net's reference (see cls.weights); a run folder
holds those of its newest checkpoint, their average if it keeps one. What needs options of its own
(an entry of the file, colours in another order) is made a run folder by cls.tools.import_weights.

Everything is taken, BN statistics too. Only the head, which is what the number of classes shapes
(see cls.models.parts), may be of another number of classes; then it is drawn anew, whole. All else
has to fit, or nothing is begun. A run that continues from its own checkpoint does not look here.
"""

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
from cls.runtime import load_config
from cls.setup import Setup
from cls.weights.hub import HUB, locate, preparation

_SHOWN = 4  # how many tensors an error names


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
        given, prepared = _of_run(setup.config, folder)
    else:
        given, prepared = _of_file(setup, head)
    fresh = setup.initial()
    variables, new = graft(given, fresh, head, source)
    if jax.process_index() == 0:
        print(f'init: {_account(given, fresh, new)}', flush=True)
        if warning := _warning(setup.config.data, *prepared):
            print(f'warning: {source}: {warning}', flush=True)
    return variables


def graft(
    given: dict[str, Any], fresh: dict[str, Any], head: frozenset[str], source: str
) -> tuple[dict[str, Any], list[str]]:
    """Returns (given's variables, with the whole head of `fresh` if its shapes differ; new names).

    Args:
      given: {'params', 'batch_stats'}, from elsewhere.
      fresh: the same, of the net that is to be trained.
      head: paths of the head's variables, 'module/leaf'.
      source: what to call `given` in messages.

    Raises:
      UserError: names on one side alone, or other shapes or kinds of numbers outside the head.
    """
    flat_given, flat_fresh = map(traverse_util.flatten_dict, (given, fresh))
    classifiers = {path for path in flat_fresh if '/'.join(path[1:]) in head}

    def differs(path):
        return np.shape(flat_given[path]) != flat_fresh[path].shape

    common = flat_given.keys() & flat_fresh.keys()
    problems = {
        'not there': flat_fresh.keys() - common,
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
    renewed = classifiers if any(map(differs, classifiers & common)) else set()
    chosen = {path: (flat_fresh if path in renewed else flat_given)[path] for path in flat_fresh}
    return traverse_util.unflatten_dict(chosen), sorted('/'.join(path[1:]) for path in renewed)


def _some(paths: set[tuple[str, ...]]) -> str:
    names = sorted('/'.join(path[1:]) for path in paths)
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _account(given: Any, fresh: Any, new: list[str]) -> str:
    count = len(jax.tree.leaves(fresh))
    if not new:
        return f'{count} tensors taken, all of them'
    classes, others = (
        next(
            value.shape[-1]
            for path, value in traverse_util.flatten_dict(tree).items()
            if '/'.join(path[1:]) == new[0]
        )
        for tree in (fresh, given)
    )
    return (
        f'{count - len(new)} tensors taken; new: {", ".join(new)} ({classes} classes, not {others})'
    )


# (variables, (mean, std of pixels in 0..255, who says so))
_Loaded = tuple[dict[str, Any], tuple[tuple[float, ...], tuple[float, ...], str]]


def _of_run(config: ConfigDict, folder: Path) -> _Loaded:
    theirs = load_config(folder)
    if 'members' in theirs:
        raise UserError(
            f'config.init: {folder} is the run of an ensemble; choose the folder of one member.'
        )
    if theirs.model.name != config.model.name:
        raise UserError(
            f'config.init: {folder} holds {theirs.model.name}, this run is of {config.model.name}: '
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
    return variables, prepared


def _arrays(checkpoint: Path) -> dict[str, Any]:
    """Reads a saved state as NumPy arrays, on whatever devices it was saved."""
    reader = ocp.PyTreeCheckpointer()
    checkpoint = checkpoint if storage.is_remote(checkpoint) else checkpoint.absolute()
    saved = reader.metadata(checkpoint).item_metadata.tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    return reader.restore(checkpoint, restore_args=arguments)


def _of_file(setup: Setup, head: frozenset[str]) -> _Loaded:
    """Reads weights of any number of classes; every tensor of theirs has to find its place."""
    variant = models.variant(setup.config.model.name)
    located = locate(setup.config.init)
    tensors = weights.read(located.file)
    classes = weights.num_classes(tensors, variant.name, head) or setup.model.num_classes
    fields = {k: v for k, v in setup.config.model.to_dict().items() if k not in ('name', 'dtype')}
    variables = weights.from_torch(tensors, variant.name, **{**fields, 'num_classes': classes})
    prepared = preparation(variant.reference or variant.name, located.card, variant.input_size)
    return variables, (prepared.mean, prepared.std, prepared.known_from)


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
