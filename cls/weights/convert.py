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

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cls.errors import UserError
from cls.weights import naming
from cls.weights.naming import Renames

_COLLECTIONS = ('params', 'batch_stats')  # other collections of a model's init are not weights
_LEAVES = {
    ('params', 'kernel'): 'weight',
    ('params', 'scale'): 'weight',
    ('batch_stats', 'mean'): 'running_mean',
    ('batch_stats', 'var'): 'running_var',
}
_SHOWN = 6  # number of names that an error lists for each problem


def shapes(model: Any, variant: Any) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the state dict that fills a variant's module."""
    from cls import models

    wanted = wanted_of(models.abstract_variables(model, variant.input_size))
    return {torch_name(path, variant.renames): torch_shape(path, v) for path, v in wanted.items()}


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
    wanted = wanted_of(abstract_variables)
    named = {path: torch_name(path, renames) for path in wanted}
    problems = _problems(state_dict, wanted, named)
    if problems:
        raise UserError('the weights do not fit the model: ' + '; '.join(problems))
    with np.errstate(over='ignore'):  # infinity is refused below
        filled = {
            path: np.array(
                _to_flax(path, state_dict[name], wanted[path]), wanted[path].dtype, order='C'
            )
            for path, name in named.items()
        }
    if useless := [named[path] for path, value in filled.items() if not _usable(path, value)]:
        raise UserError(
            f'tensors of {len(named)} with NaN, infinity or a variance below 0: '
            f'{some(sorted(useless))}; their training diverged, the file is damaged, or they do '
            'not fit into float32: take another checkpoint'
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
    return naming.renamed('.'.join((*modules, _LEAVES.get((collection, leaf), leaf))), renames)


def wanted_of(abstract: Any) -> dict[tuple[str, ...], Any]:
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


def torch_shape(path: tuple[str, ...], variable: jax.ShapeDtypeStruct) -> tuple[int, ...]:
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
    counters = {name for name in state_dict if naming.is_counter(name, used)}
    missing = sorted(used - set(state_dict))
    unused = sorted(set(state_dict) - used - counters)
    unlike, kinds, owners = [], {}, {}
    for path, name in named.items():
        owners.setdefault(name, []).append('/'.join(path))
        if name not in state_dict:
            continue
        tensor, shape = state_dict[name], torch_shape(path, wanted[path])
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
    return [f'{what}: {some(parts)}' for what, parts in groups if parts]


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


def some(parts: list[str]) -> str:
    """Returns the first names, and the number of the rest."""
    more = f', and {len(parts) - _SHOWN} more' if len(parts) > _SHOWN else ''
    return f'{len(parts)} ({", ".join(parts[:_SHOWN])}{more})'
