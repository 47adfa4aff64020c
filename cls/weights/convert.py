"""Turns a PyTorch state dict into Flax variables by one rule and a short list of renames.

The rule: a Flax variable's path without its leaf, joined with dots, is the torch module's name,
and the leaf decides the rest.

  collection   leaf     torch                        array
  params       kernel   weight                       (O, I, *spatial) -> (*spatial, I, O)
  params       scale    weight                       as it is
  params       other    the same name                as it is
  batch_stats  mean     running_mean                 as it is
  batch_stats  var      running_var                  as it is
  batch_stats  other    the same name                as it is

The weight of a 1x1 convolution, (O, I, 1, 1), may fill the kernel of a linear layer, (I, O); and
one of (M, C, h, w), as Keras 3's kernel of a depthwise convolution looks like, that of one.
Grouped and depthwise convolutions need nothing more: both sides store (inputs of one group,
all outputs). A model that flattens an image before a linear layer has to do so channel by
channel (NCHW), as torch does; shapes cannot tell.
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cls.errors import UserError
from cls.weights import names

_log = logging.getLogger(__name__)

# (regular expression, replacement) pairs, applied in turn to torch-side names.
Renames = Iterable[tuple[str, str | Callable[[re.Match], str]]]

_COLLECTIONS = ('params', 'batch_stats')  # what else a net's init may sow is no weight
_LEAVES = {
    ('params', 'kernel'): 'weight',
    ('params', 'scale'): 'weight',
    ('batch_stats', 'mean'): 'running_mean',
    ('batch_stats', 'var'): 'running_var',
}
_COUNTER = '.num_batches_tracked'  # how many batches a norm has seen; Flax keeps no such thing
_SHOWN = 6  # how many of each kind of problem an error names


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Variables that a file fills, and what was read from it on the way.

    `fields` are those of the module that the file decides (`num_classes`; `aux_head`: False where
    it has no auxiliary heads); `left_out` the names of tensors that are no part of the network;
    `headless` whether it has no classifier, so that the variables have none.
    """

    variables: dict[str, Any]
    fields: dict[str, Any]
    left_out: list[str]
    headless: bool = False


def from_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, **overrides: Any
) -> dict[str, Any]:
    """Returns a registered model's variables, filled from its reference's state dict.

    Prefixes that wrappers add to the names are taken off (see `names.own`); what is left out is
    logged.

    Args:
      state_dict: torch name -> array, as from `cls.weights.read`.
      model_name: a registered variant; its `renames` lead to the reference's names.
      **overrides: fields of the module, as for `models.create`.

    Returns:
      {'params': ..., 'batch_stats': ...}, the tree of `model.init`, of NumPy arrays.

    Raises:
      UserError: see `convert`.
    """
    from cls import models  # here, so that reading files needs no models

    variant = models.variant(model_name)
    abstract = models.abstract_variables(models.create(model_name, **overrides), variant.input_size)
    tensors, left_out = _own(state_dict, model_name, abstract)
    if left_out:
        _log.warning('left out, as no part of %s: %s', model_name, _some(left_out))
    try:
        return _converted(tensors, model_name, abstract, left_out)
    except UserError as error:
        raise UserError(f'{error}{_hint(state_dict, model_name, overrides)}') from None


def fit(
    state_dict: Mapping[str, np.ndarray],
    model_name: str,
    *,
    source: Any = '',
    without_head: bool = False,
    **overrides: Any,
) -> Fitted:
    """Returns what `from_torch` does, of as many classes and with such heads as the file has.

    Args:
      state_dict: torch name -> array.
      model_name: a registered variant.
      source: where they are from, for messages.
      without_head: whether a file may lack the classifier altogether.
      **overrides: fields of the module. With `num_classes` or `aux_head` among them the file has to
        be of these.

    Raises:
      UserError: see `convert`.
    """
    try:
        return _fit(state_dict, model_name, without_head, overrides)
    except UserError as error:
        named = f'{source}: {error}' if source else str(error)
        given = {'num_classes', 'aux_head'} & overrides.keys()
        hint = _hint(state_dict, model_name, overrides) if given else ''
        raise UserError(named + hint) from None


def _hint(
    state_dict: Mapping[str, np.ndarray], model_name: str, overrides: Mapping[str, Any]
) -> str:
    """Returns which fields would make a state dict fit that does not, '' where none do."""
    others = {k: v for k, v in overrides.items() if k not in ('num_classes', 'aux_head')}
    try:
        fields = _fit(state_dict, model_name, False, others).fields
    except UserError:
        return ''
    return f'; it fits with {", ".join(f"{k}={v}" for k, v in fields.items())}'


def _fit(
    state_dict: Mapping[str, np.ndarray],
    model_name: str,
    without_head: bool,
    overrides: Mapping[str, Any],
) -> Fitted:
    from cls import models

    variant = models.variant(model_name)
    model = models.create(model_name, **overrides)

    def traced(net: Any) -> Any:
        return models.abstract_variables(net, variant.input_size)

    abstract, fields = traced(model), {}
    tensors, left_out = _own(state_dict, model_name, abstract)
    if getattr(model, 'aux_head', False) and 'aux_head' not in overrides:
        plain = model.clone(aux_head=False)
        without = traced(plain)
        heads = _wanted(abstract).keys() - _wanted(without).keys()
        if not any(torch_name(path, variant.renames) in tensors for path in heads):
            model, abstract, fields['aux_head'] = plain, without, False
    more = _wanted(traced(model.clone(num_classes=model.num_classes + 1)))
    head = {path for path, v in _wanted(abstract).items() if more[path].shape != v.shape}
    names_of_head = {torch_name(path, variant.renames) for path in head}
    present = [tensors[name] for name in names_of_head if name in tensors and tensors[name].ndim]
    if present and 'num_classes' not in overrides:
        fields['num_classes'] = max(len(tensor) for tensor in present)
        if fields['num_classes'] != model.num_classes:
            abstract = traced(model.clone(num_classes=fields['num_classes']))
    headless = without_head and not present
    if headless:
        kept = {path: v for path, v in _wanted(abstract).items() if path not in head}
        abstract = traverse_util.unflatten_dict(kept)
    return Fitted(_converted(tensors, model_name, abstract, left_out), fields, left_out, headless)


def same_tensors(model_name: str) -> list[str]:
    """Returns the other variants whose state dicts have the names and shapes of this one's."""
    from cls import models

    variant = models.variant(model_name)
    others = [v for v in map(models.variant, models.names()) if v.params == variant.params]
    own = shapes(models.create(model_name), variant)
    return [
        other.name
        for other in others
        if other.name != model_name and shapes(models.create(other.name), other) == own
    ]


def shapes(model: Any, variant: Any) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the state dict that fills a variant's module."""
    from cls import models

    wanted = _wanted(models.abstract_variables(model, variant.input_size))
    return {torch_name(path, variant.renames): _torch_shape(path, v) for path, v in wanted.items()}


def _own(
    state_dict: Mapping[str, np.ndarray], model_name: str, abstract: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    from cls import models

    variant = models.variant(model_name)
    wanted = {torch_name(path, variant.renames) for path in _wanted(abstract)}
    try:
        return names.own(state_dict, wanted, lambda name: _renamed(name, variant.old_names))
    except UserError as error:
        raise UserError(f'{model_name}: {error}') from None


def _converted(
    tensors: Mapping[str, np.ndarray], model_name: str, abstract: Any, left_out: list[str]
) -> dict[str, Any]:
    from cls import models

    try:
        return convert(tensors, abstract, models.variant(model_name).renames)
    except UserError as error:
        more = f'; left out, as no part of it: {_some(left_out)}' if left_out else ''
        raise UserError(f'{model_name}: {error}{more}') from None


def convert(
    state_dict: Mapping[str, np.ndarray], abstract_variables: Any, renames: Renames = ()
) -> dict[str, Any]:
    """Fills the tree `abstract_variables` from `state_dict`; every tensor is used exactly once.

    Args:
      state_dict: torch name -> array of any floating type; of any integer type for an index, of
        booleans for a mask.
      abstract_variables: nested dict of what has `.shape` and `.dtype`, as from `jax.eval_shape`.
      renames: from the names that the general rule gives to the state dict's.

    Returns:
      A nested dict of the same structure and types with C-contiguous NumPy arrays of its own.

    Raises:
      UserError: variables without a tensor, tensors without a variable, a tensor that two
        variables want, different shapes, and other kinds of numbers, all at once; values that are
        not finite, and variances below 0.
    """
    wanted = _wanted(abstract_variables)
    named = {path: torch_name(path, renames) for path in wanted}
    problems = _problems(state_dict, wanted, named)
    if problems:
        raise UserError('the weights do not fit the model: ' + '; '.join(problems))
    filled = {
        path: np.array(
            _to_flax(path, state_dict[name], wanted[path]), wanted[path].dtype, order='C'
        )
        for path, name in named.items()
    }
    if useless := [named[path] for path, value in filled.items() if not _usable(path, value)]:
        raise UserError(
            f'tensors of {len(named)} with NaN, infinity or a variance below 0: '
            f'{_some(sorted(useless))}; their training diverged, or the file is damaged: take '
            'another checkpoint'
        )
    return traverse_util.unflatten_dict(filled)


def _usable(path: tuple[str, ...], value: np.ndarray) -> bool:
    """Whether a network can compute with a variable's values."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return True
    is_variance = path[0] == 'batch_stats' and path[-1] == 'var'
    return bool(np.isfinite(value).all()) and not (is_variance and (value < 0).any())


def torch_name(path: tuple[str, ...], renames: Renames = ()) -> str:
    """Returns the torch name of a Flax variable: ('params', 'conv1', 'kernel') -> conv1.weight."""
    collection, *modules, leaf = path
    return _renamed('.'.join((*modules, _LEAVES.get((collection, leaf), leaf))), renames)


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _wanted(abstract: Any) -> dict[tuple[str, ...], Any]:
    """Returns the weights among a tree of variables, by path."""
    weights = {c: _plain(abstract[c]) for c in _COLLECTIONS if c in abstract}
    return traverse_util.flatten_dict(weights)


def _plain(tree: Any) -> Any:
    """Turns mappings of any type into dicts."""
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _to_flax(path: tuple[str, ...], tensor: np.ndarray, variable: Any) -> np.ndarray:
    """Moves a kernel's output and input channels, its first two axes, to the end, swapped."""
    if path[0] == 'params' and path[-1] == 'kernel':
        tensor = tensor[..., 0, 0] if _is_pointwise(tensor, variable) else tensor
        if _is_keras_depthwise(tensor, variable):
            return tensor.transpose(2, 3, 1, 0).reshape(variable.shape)
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return tensor


def _is_pointwise(tensor: np.ndarray, variable: Any) -> bool:
    """Whether a tensor is a 1x1 convolution's, and the variable a linear layer's."""
    return tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and len(variable.shape) == 2


def _is_keras_depthwise(tensor: np.ndarray, variable: Any) -> bool:
    """Whether a tensor is Keras 3's kernel of a depthwise convolution, and the variable is one.

    Keras 3 calls it `kernel`, as any other, and (h, w, C, M) was taken for (h, w, inputs, outputs).
    """
    if tensor.ndim != 4 or len(variable.shape) != 4 or tensor.shape[1] == 1:
        return False
    multiplier, inputs, *window = tensor.shape
    return variable.shape == (*window, 1, inputs * multiplier)


def _torch_shape(path: tuple[str, ...], variable: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The inverse of what `_to_flax` does to a shape."""
    if path[0] == 'params' and path[-1] == 'kernel':
        return (variable.shape[-1], variable.shape[-2], *variable.shape[:-2])
    return tuple(variable.shape)


def _problems(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[tuple[str, ...], jax.ShapeDtypeStruct],
    named: Mapping[tuple[str, ...], str],
) -> list[str]:
    """Describes all that keeps `state_dict` from filling `wanted`, a line's part for each kind."""
    used = set(named.values())
    counters = {
        name
        for name in state_dict
        if name.endswith(_COUNTER) and name.removesuffix(_COUNTER) + '.running_var' in used
    }
    missing = sorted(used - set(state_dict))
    unused = sorted(set(state_dict) - used - counters)
    unlike, kinds, owners = [], {}, {}
    for path, name in named.items():
        owners.setdefault(name, []).append('/'.join(path))
        if name not in state_dict:
            continue
        tensor, shape = state_dict[name], _torch_shape(path, wanted[path])
        kernel = path[-1] == 'kernel'
        flat = kernel and _is_pointwise(tensor, wanted[path])
        turned = kernel and _is_keras_depthwise(tensor, wanted[path])
        if tuple(tensor.shape) != shape + (1, 1) * flat and not turned:
            unlike.append(f'{name} is {tuple(tensor.shape)}, the model wants {shape}')
        kind = _kind(wanted[path].dtype)
        if _kind(tensor.dtype) != kind:
            kinds.setdefault(kind, []).append(f'{name} is {tensor.dtype}')
    shared = [f'{name} for {" and ".join(paths)}' for name, paths in owners.items() if paths[1:]]
    missing_parts, unused = _pair(missing, unused)
    found = (
        (f'missing of {len(used)} tensors', missing_parts),
        (f'unused of {len(state_dict)} tensors', unused),
        ('different shapes', unlike),
        *((f'not {kind}', parts) for kind, parts in kinds.items()),
        ('wanted more than once', shared),
    )
    return [f'{what}: {_some(parts)}' for what, parts in found if parts]


def _kind(dtype: Any) -> str:
    """Says what sort of numbers a type holds; those of one sort may be cast into each other."""
    kinds = {'floating point': jnp.floating, 'integers': jnp.integer, 'booleans': jnp.bool_}
    return next((name for name, kind in kinds.items() if jnp.issubdtype(dtype, kind)), 'numbers')


def _pair(missing: list[str], unused: list[str]) -> tuple[list[str], list[str]]:
    """Puts the names that resemble one of the other side first, and says which they resemble."""
    candidates, ranked = unused[:500], []
    for name in missing[:100]:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
        score = difflib.SequenceMatcher(None, name, close[0]).ratio() if close else 0.0
        ranked.append((-score, name, close[0] if close else ''))
    ranked.sort()
    first = [f'{name} (near the unused {close})' if close else name for _, name, close in ranked]
    near = list(dict.fromkeys(close for _, _, close in ranked if close))
    return first + missing[100:], near + [name for name in unused if name not in set(near)]


def _some(parts: list[str]) -> str:
    """Joins the first few and counts the rest."""
    more = f', and {len(parts) - _SHOWN} more' if len(parts) > _SHOWN else ''
    return f'{len(parts)} ({", ".join(parts[:_SHOWN])}{more})'
