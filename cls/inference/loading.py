"""Models from run folders, files of weights, the Hugging Face Hub, and published weights."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from cls import models, weights
from cls.config import load as configs
from cls.config import runs
from cls.data.classes import wnids
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.inference.ensemble import Ensemble
from cls.inference.model import Model
from cls.inference.precision import dtype_name, typed
from cls.inference.preprocess import Preprocess
from cls.models.registry import abstract_variables, introspection
from cls.models.registry.init import init
from cls.run import workdir as folders
from cls.run.checkpoint_files import is_run
from cls.run.environment import prepare
from cls.storage import paths
from cls.weights import card as cards
from cls.weights import origin as origins
from cls.weights import pretrained, published, stem
from cls.weights.fetch import fetch
from cls.weights.hub import HUB, Located, locate
from cls.weights.images import Preparation, preparation
from cls.weights.loading import fill, hints_of, naming
from cls.weights.loading import prepare as prepare_file
from cls.weights.recognition import identify

log = logging.getLogger(__name__)

# The sets of weights of a run folder.
SETS = ('auto', 'average', 'trained', 'newest', 'newest_average', 'newest_trained')
_EXPECTED = 'Expected a run folder, a file of weights, hf:OWNER/NAME, or a name of `cls models`.'
_INFLATION = 50.0  # as config.limits.inflation


def load(
    where: str | Path,
    dtype: Any = None,
    weights: str = 'auto',
    *,
    variant: str = '',
    bgr: bool = False,
    in_chans: int | None = None,
    **fields: Any,
) -> Model:
    """Returns a model with its weights, classes and preparation of images.

    No data set is opened, and nothing is written but caches.

    Args:
      where: one of these:
        a run folder ('runs/birds'): its best checkpoint if it keeps one (config.checkpoint.best),
          else the newest; of an ensemble, those of its members, see
          `cls.inference.ensemble.Ensemble`;
        a file of weights ('resnet50.pth', '.safetensors', '.npz'), or a snapshot folder of the
          Hugging Face Hub;
        'hf:OWNER/NAME', with an optional '@REVISION';
        the name of a variant ('resnet50'): its published weights; 'resnet50.TAG' chooses others.
      dtype: the type that the network computes in, 'bfloat16' or jnp.bfloat16 for example; None:
        as the run did, or float32. The weights stay float32.
      weights: of a run folder, 'auto' (the average of the weights if the run kept one), 'average',
        or 'trained' (no average); 'newest', 'newest_average' and 'newest_trained' are those of the
        newest checkpoint where the best would be taken. Of a name, the tag of published weights, or
        a file or 'hf:...' with weights of that variant.
      variant: the variant of a file, if it does not show it.
      bgr: whether the weights of a file expect BGR, as Caffe's, if it does not show it; the model
        takes RGB.
      in_chans: channels of the images, 1 or 4 for example; weights of color images are adapted to
        them, see cls.weights.stem. None: those of the weights.
      **fields: fields of the module of a file's network that differ from the variant's.

    Raises UserError if there is nothing of that name, it does not fit, or an argument is for other
    places.

    Example:
      >>> model = cls.load('runs/birds')
      >>> model.predict('bird.jpg', top=3)
    """
    model = _loaded(str(where), dtype, weights, variant, bgr, fields)
    if in_chans is None or in_chans == model.preprocess.channels:
        return model
    return _with_channels(model, in_chans)


def _loaded(
    name: str, dtype: Any, weights: str, variant: str, bgr: bool, fields: Mapping[str, Any]
) -> Model:
    """Returns the model of `load`, for the images of its weights."""
    if not name:
        raise UserError(f'the place of the weights is empty. {_EXPECTED}')
    if not isinstance(weights, str):
        raise UserError(
            f'weights is {weights!r}: expected a text, as {", ".join(map(repr, SETS))}.'
        )
    dtype = dtype_name(dtype)
    prepare()
    if not name.startswith(HUB):
        path = paths.checked(name)
        if is_run(path):
            if bgr:
                raise UserError(f'bgr is for files of weights, not run folders as {name}.')
            if given := {'variant': variant, **fields} if variant else fields:
                raise UserError(
                    f'{name} is a run folder, whose network is known: leave {", ".join(given)} out.'
                )
            return _of_run(path, dtype, weights)
        if not path.exists() and not paths.is_remote(path):
            return _of_name(name, variant, dtype, weights, fields, bgr)
    if weights != 'auto':
        raise UserError(
            f'weights is {weights!r}, but {name} is no run folder and no name of a model: leave it '
            'out.'
        )
    return _of_file(name, variant, dtype, fields, bgr=bgr)


def create(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    size: int = 0,
    classes: Sequence[str] = (),
    seed: int = 0,
    dtype: Any = None,
    **fields: Any,
) -> Model:
    """Returns a model with new weights.

    Args:
      name: a registered variant, see `list_models`.
      num_classes: the number of outputs; None: the variant's.
      in_chans: channels of the images; normalization of other than 3 channels is the mean of those
        of the colors.
      size: height and width of the images; 0: the variant's.
      classes: the labels of the outputs; () if they have none.
      seed: the seed of the weights.
      dtype: the type that the network computes in; None: float32.
      **fields: further fields of the module, as `stage_sizes`.

    Raises UserError, with the nearest names, for an unknown variant or field.
    """
    chosen, dtype = models.variant(name), dtype_name(dtype)
    prepare()
    if num_classes is not None:
        fields['num_classes'] = num_classes
    for field, value in (('num_classes', num_classes), ('in_chans', in_chans)):
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f'{field} is {value!r}: expected a number of 1 or more.')
    module = typed(models.create(name, **fields), dtype)
    prepared = preparation(chosen.reference or chosen.name, {}, chosen.input_size)
    preprocess = _preprocess(prepared, in_chans, size)
    variables = init(module, seed, preprocess.size, in_chans)
    names = classes or (_imagenet(module) if num_classes is None else ())
    return Model(
        module,
        variables,
        preprocess,
        classes=names,
        variant=chosen.name,
        source=f'new weights of seed {seed}',
    )


def list_models(pattern: str = '*', weights: bool = False) -> list[str]:
    """Returns the names of the variants that match a shell pattern, in the order of the files.

    Args:
      pattern: as 'resnet*'.
      weights: whether to list only those with published weights, which `load` takes by name.
    """
    known = models.names(pattern)
    if not weights:
        return known
    return [name for name in known if published.default(name)]


# ------------------------------------------------------------------------------------ run folders


def _of_run(folder: Path, dtype: str | None, which: str) -> Model:
    if which not in SETS:
        raise UserError(
            f'weights is {which!r}: expected one of {", ".join(SETS)} for the run folder {folder}.'
            f'{nearest(which, SETS)}'
        )
    config = runs.load_config(folder)
    if 'members' in config:
        parts = runs.members(config, folder)
        return Ensemble([_of_run(part, dtype, which) for _, part in parts], source=str(folder))
    if 'model' not in config or 'genotype' in config.get('search', {}):
        raise UserError(f'{folder} is not the run of one network: expected a run of `cls train`.')
    newest, kind = which.startswith('newest'), which.removeprefix('newest').removeprefix('_')
    average = None if kind in ('', 'auto') else kind == 'average'
    variables, step = pretrained.of_run(folder, average, newest)
    if 'best' in step:
        log.info('weights of %s: %s', folder, step)
    data = DataSpec.from_config(config)
    module, channels = fitted(config, variables, data.image_size, folder)
    if config.eval.precise_bn and variables.get('batch_stats'):
        log.warning(
            '%s: its evaluations recompute statistics of batch norms (config.eval.precise_bn); '
            'those of the checkpoint are used here.', folder,
        )  # fmt: skip
    return Model(
        typed(module, dtype),
        variables,
        Preprocess.of_data(data, channels),
        classes=folders.load_classes(folder),
        variant=config.model.name,
        source=f'{folder}, {step}',
        license=origin.license if (origin := origins.read(folder)) else '',
        multi_label=data.multi_label,
    )


def fitted(config: Any, variables: Any, size: int, source: Path) -> tuple[nn.Module, int]:
    """Returns (the module of a run, channels of its images), by the shapes of its variables.

    Neither is always in the config: a data set determines them in training.

    Args:
      config: the config of the run.
      variables: the variables of its checkpoint.
      size: height and width of the images in training.
      source: the run folder, for messages.

    Raises UserError if the variables do not fit the config.
    """
    shapes = _shapes(variables)
    kernels = {shape[2] for shape in shapes.values() if len(shape) == 4}
    kernels |= {shape[0] for shape in shapes.values() if len(shape) == 2}
    stated = [config.data.channels] if config.data.channels else []
    candidates = [c for c in (*stated, 3, 1, *sorted(kernels)) if c <= 64]
    for channels in dict.fromkeys(candidates):
        count = config.model.get('num_classes') or _outputs(config, shapes, size, channels)
        module = count and configs.create_model(config, count)
        if module and _fits(_shapes(abstract_variables(module, size, channels)), shapes):
            return module, channels
    raise UserError(
        f'{source}: the checkpoint does not fit the network of config.json, {config.model.name}: '
        'was one of them changed, or has it no classifier (`cls import --part backbone`)?'
    )


def _fits(own: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether all variables are given, of their shapes; auxiliary heads may be given too."""
    return all(given.get(path) == shape for path, shape in own.items())


def _outputs(config: Any, shapes: Mapping[str, Any], size: int, channels: int) -> int:
    """Returns the number of outputs of a network by the variables of its head; 0 if unknown."""
    module = configs.create_model(config, 7)
    head = introspection.head(module, size, channels)
    sizes = [shape[-1] for path, shape in shapes.items() if path.partition('/')[2] in head]
    return min(sizes, default=0)


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    return {
        '/'.join(entry.key for entry in path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(variables)
    }


# -------------------------------------------------------------------------------- files, the Hub


def _of_file(
    source: str,
    variant: str,
    dtype: str | None,
    fields: Mapping[str, Any],
    name: str = '',
    bgr: bool = False,
) -> Model:
    """Returns the model of a file of weights.

    Args:
      source: the place of the file.
      variant: its variant; '': it is recognized.
      dtype: the type that the network computes in.
      fields: fields of the module.
      name: the published source of a file in the cache, '' for none.
      bgr: as of `load`.
    """
    located = locate(source)
    checkpoint = weights.open_checkpoint(located.file, '', _INFLATION)
    hints = hints_of(source, located, checkpoint)
    match = None
    if not variant:
        with naming(located.file):
            match = identify(checkpoint.tensors, hints)
    chosen = models.variant(match.variant if match else variant)
    with located.naming_card():
        cards.check(located.card, chosen)
    with Located(located.file, {}).naming_card():
        cards.check(checkpoint.card, chosen, strict=False)
    own = {**(match.fields if match else {}), **fields}
    result = fill(checkpoint, chosen.name, located.file, hints, own)
    prepared, reversed_ = prepare_file(result, chosen, located, name or source, bgr=bgr)
    module = models.create(chosen.name, **{**own, **result.fields})
    origin = origins.of(name or source, located, prepared, result.family, reversed_)
    return Model(
        typed(module, dtype),
        result.variables,
        _preprocess(prepared, result.channels),
        classes=_names(located, checkpoint, module) or _imagenet(module),
        variant=chosen.name,
        source=name or source,
        license=origin.license,
    )


def _names(located: Located, checkpoint: Any, module: Any) -> tuple[str, ...]:
    """Returns the names of the outputs in the metadata of a file, () for none."""
    with located.naming_card():
        labels, _ = cards.class_names(located.card, module.num_classes)
    if not labels:
        with Located(located.file, {}).naming_card():
            labels, _ = cards.class_names(checkpoint.card, module.num_classes)
    return labels


def _with_channels(model: Model, channels: int) -> Model:
    """Returns a model of color images for images with other channels. Raises UserError."""
    if type(channels) is not int or channels < 1:
        raise UserError(f'in_chans is {channels!r}: expected a number of 1 or more.')
    p = model.preprocess
    shapes: Any = abstract_variables(model.module, p.size, channels)
    given, wanted = (traverse_util.flatten_dict(tree) for tree in (model.variables, shapes))
    flat, line = stem.adapt(given, wanted, channels)
    if not line:
        raise UserError(
            f'in_chans is {channels}, but the weights of {model.source} have no first convolution '
            f'that can be adapted to it: expected {p.channels}.'
        )
    log.info('%s: %s', model.source, line)
    mean, std = (stem.normalization(values, channels) for values in (p.mean, p.std))
    variables = traverse_util.unflatten_dict(flat)
    return Model(
        model.module,
        variables,
        dataclasses.replace(p, mean=mean, std=std, channels=channels),
        classes=model.classes,
        variant=model.variant,
        source=model.source,
        license=model.license,
        multi_label=model.multi_label,
    )


def _preprocess(prepared: Preparation, channels: int, size: int = 0) -> Preprocess:
    """Returns the preparation of published weights, for some channels and perhaps another size."""
    prepared = prepared.of_channels(channels)
    size = size or prepared.size
    return Preprocess(
        size=size,
        resize=max(int(size / prepared.crop), size),
        interpolation=prepared.interpolation,
        mean=prepared.mean,
        std=prepared.std,
        channels=channels,
        squash=prepared.squash,
    )


def _imagenet(module: Any) -> tuple[str, ...]:
    """Returns ImageNet's WordNet ids for 1,000 outputs without names, () for other numbers."""
    return wnids() if module.num_classes == 1000 else ()


# ------------------------------------------------------------------------------ published weights


def _of_name(
    name: str, given: str, dtype: str | None, which: str, fields: Mapping[str, Any], bgr: bool
) -> Model:
    variant, tag = _variant_and_tag(name)
    if given:
        raise UserError(f'{name} names a network already, and variant is {given!r}: leave one out.')
    if which != 'auto' and tag:
        raise UserError(f'{name} names weights already, and weights is {which!r}: leave one out.')
    if which.startswith(HUB) or (which != 'auto' and Path(which).exists()):
        return _of_file(which, variant, dtype, fields, bgr=bgr)
    if bgr:
        raise UserError(f'bgr is for files of weights, not names as {name}.')
    tag = tag or ('' if which == 'auto' else which)
    rows = published.of_variant(variant)
    row = published.default(variant)
    if tag:
        row = next((r for r in rows if tag in (r.tag, r.title, f'{r.name}.{r.tag}')), None)
    if row is None:
        tags = [row.tag or row.title for row in rows]
        wrong = f'of the tag {tag!r} ' if tag else ''
        listed = f'Known: {", ".join(tags)}. ' if tags else ''
        raise UserError(
            f'no published weights {wrong}of {variant} are known.{nearest(tag, tags)} {listed}'
            f"Expected a tag, a file or hf:OWNER/NAME, or cls.create('{variant}') for new weights."
        )
    return _of_file(fetch(row), variant, dtype, fields, row.source)


def _variant_and_tag(name: str) -> tuple[str, str]:
    """Returns the variant and the tag of 'resnet50.a1_in1k'. Raises UserError for other names."""
    plain, _, tag = name.rpartition('.')
    if models.is_known(name):
        return models.variant(name).name, ''
    if models.is_known(plain) and tag:
        return models.variant(plain).name, tag
    raise UserError(
        f'{name}: there is no such folder or file, and no model of that name.'
        f'{nearest(name, models.names())} {_EXPECTED}'
    )
