"""Converts a PyTorch state dict to Flax variables, by one rule and a short list of renames.

The rule: the path of a Flax variable without its leaf, joined with dots, is the name of the torch
module. The leaf determines the rest.

  collection   leaf     torch                        array
  params       kernel   weight                       (O, I, *spatial) -> (*spatial, I, O)
  params       scale    weight                       unchanged
  params       other    the same name                unchanged
  batch_stats  mean     running_mean                 unchanged
  batch_stats  var      running_var                  unchanged
  batch_stats  other    the same name                unchanged

The weight of a 1x1 convolution, (O, I, 1, 1), may fill the kernel of a linear layer, (I, O). A
weight of (M, C, h, w), the form of Keras 3's depthwise kernel, may fill the kernel of a depthwise
convolution. Grouped and depthwise convolutions need nothing more: both sides store (inputs of one
group, all outputs). A model that flattens an image before a linear layer has to do so channel by
channel (NCHW), as torch does; shapes cannot show this.
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

_COLLECTIONS = ('params', 'batch_stats')  # other collections of a model's init are not weights
_LEAVES = {
    ('params', 'kernel'): 'weight',
    ('params', 'scale'): 'weight',
    ('batch_stats', 'mean'): 'running_mean',
    ('batch_stats', 'var'): 'running_var',
}
_COUNTER = '.num_batches_tracked'  # torch's counter of batches in a norm; Flax has none
_SHOWN = 6  # number of names that an error lists for each problem


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Variables filled from a file, and the properties of the file.

    Attributes:
      variables: the filled variables.
      fields: the fields of the module that the file determines: `num_classes`, and `aux_head` as
        False if it has no auxiliary heads.
      left_out: the names of tensors that are not part of the network.
      headless: whether the file has no classifier, so that the variables have none either.
    """

    variables: dict[str, Any]
    fields: dict[str, Any]
    left_out: list[str]
    headless: bool = False


def from_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, **overrides: Any
) -> dict[str, Any]:
    """Returns a registered model's variables, filled from its reference's state dict.

    Prefixes that wrappers add to the names are removed (see `names.own`). The names of tensors that
    are left out are logged.

    Args:
      state_dict: torch name -> array, as from `cls.weights.read`.
      model_name: a registered variant; its `renames` give the reference's names.
      **overrides: fields of the module, as for `models.create`.

    Returns:
      {'params': ..., 'batch_stats': ...}, the tree of `model.init` with NumPy arrays.

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
    """Returns variables as `from_torch` does, with the number of classes and heads of the file.

    Args:
      state_dict: torch name -> array.
      model_name: a registered variant.
      source: the name of the file, for messages.
      without_head: whether a file may lack the classifier.
      **overrides: fields of the module. `num_classes` or `aux_head` among them have to be the
        file's.

    Raises:
      UserError: see `convert`.
    """
    try:
        return _fit(state_dict, model_name, without_head, overrides)
    except UserError as error:
        named = f'{source}: {error}' if source else str(error)
        fixed = {'num_classes', 'aux_head'} & overrides.keys()
        hint = _hint(state_dict, model_name, overrides) if fixed else ''
        raise UserError(named + hint) from None


def _hint(
    state_dict: Mapping[str, np.ndarray], model_name: str, overrides: Mapping[str, Any]
) -> str:
    """Returns a hint on fields with which a state dict would fit, '' if there are none."""
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
    """Returns the other variants with the same names and shapes in their state dicts."""
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
    """Returns the tree `abstract_variables` filled from `state_dict`; each tensor is used once.

    Args:
      state_dict: torch name -> array of any floating type, of any integer type for an index, or of
        booleans for a mask.
      abstract_variables: nested dict with `.shape` and `.dtype`, as from `jax.eval_shape`.
      renames: from the names by the general rule to those of the state dict.

    Returns:
      A nested dict of the same structure and types with new C-contiguous NumPy arrays.

    Raises:
      UserError: variables without a tensor, tensors without a variable, a tensor for two variables,
        different shapes, and other kinds of numbers, all in one message; or values that are not
        finite, and variances below 0.
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
    """Returns whether a network can compute with a variable's values."""
    if not jnp.issubdtype(value.dtype, jnp.floating) or not value.size:
        return True
    # NaN comes through both; arrays of booleans would take a quarter of the memory again.
    least, most = value.min(), value.max()
    is_variance = path[0] == 'batch_stats' and path[-1] == 'var'
    return bool(np.isfinite(least) and np.isfinite(most)) and not (is_variance and least < 0)


def torch_name(path: tuple[str, ...], renames: Renames = ()) -> str:
    """Returns the torch name of a Flax variable: ('params', 'conv1', 'kernel') -> conv1.weight."""
    collection, *modules, leaf = path
    return _renamed('.'.join((*modules, _LEAVES.get((collection, leaf), leaf))), renames)


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _wanted(abstract: Any) -> dict[tuple[str, ...], Any]:
    """Returns {path: weight} of a tree of variables."""
    weights = {c: _plain(abstract[c]) for c in _COLLECTIONS if c in abstract}
    return traverse_util.flatten_dict(weights)


def _plain(tree: Any) -> Any:
    """Returns mappings of any type as dicts."""
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _to_flax(path: tuple[str, ...], tensor: np.ndarray, variable: Any) -> np.ndarray:
    """Returns a tensor in Flax's layout: a kernel's first two axes are swapped and moved last."""
    if path[0] == 'params' and path[-1] == 'kernel':
        tensor = tensor[..., 0, 0] if _is_pointwise(tensor, variable) else tensor
        if _is_keras_depthwise(tensor, variable):
            return tensor.transpose(2, 3, 1, 0).reshape(variable.shape)
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return tensor


def _is_pointwise(tensor: np.ndarray, variable: Any) -> bool:
    """Returns whether a tensor is of a 1x1 convolution and the variable of a linear layer."""
    return tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and len(variable.shape) == 2


def _is_keras_depthwise(tensor: np.ndarray, variable: Any) -> bool:
    """Returns whether a tensor is Keras 3's depthwise kernel and the variable a depthwise kernel.

    Keras 3 names it `kernel`, as any other, so (h, w, C, M) was read as (h, w, inputs, outputs).
    """
    if tensor.ndim != 4 or len(variable.shape) != 4 or tensor.shape[1] == 1:
        return False
    multiplier, inputs, *window = tensor.shape
    return variable.shape == (*window, 1, inputs * multiplier)


def _torch_shape(path: tuple[str, ...], variable: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """Returns the shape in torch's layout, the inverse of `_to_flax`."""
    if path[0] == 'params' and path[-1] == 'kernel':
        return (variable.shape[-1], variable.shape[-2], *variable.shape[:-2])
    return tuple(variable.shape)


def _problems(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[tuple[str, ...], jax.ShapeDtypeStruct],
    named: Mapping[tuple[str, ...], str],
) -> list[str]:
    """Returns a description of each kind of problem with filling `wanted` from `state_dict`."""
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
    groups = (
        (f'missing of {len(used)} tensors', missing_parts),
        (f'unused of {len(state_dict)} tensors', unused),
        ('different shapes', unlike),
        *((f'not {kind}', parts) for kind, parts in kinds.items()),
        ('wanted more than once', shared),
    )
    return [f'{what}: {_some(parts)}' for what, parts in groups if parts]


def _kind(dtype: Any) -> str:
    """Returns the kind of numbers of a type; types of one kind may be cast to each other."""
    kinds = {'floating point': jnp.floating, 'integers': jnp.integer, 'booleans': jnp.bool_}
    return next((name for name, kind in kinds.items() if jnp.issubdtype(dtype, kind)), 'numbers')


def _pair(missing: list[str], unused: list[str]) -> tuple[list[str], list[str]]:
    """Returns both lists of names, with similar names first.

    A missing name is followed by the most similar unused name.
    """
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
    """Returns the first names, and the number of the rest."""
    more = f', and {len(parts) - _SHOWN} more' if len(parts) > _SHOWN else ''
    return f'{len(parts)} ({", ".join(parts[:_SHOWN])}{more})'
