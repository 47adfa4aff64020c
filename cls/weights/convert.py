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

The weight of a 1x1 convolution, (O, I, 1, 1), may fill the kernel of a linear layer, (I, O).
Grouped and depthwise convolutions need nothing more: both sides store (inputs of one group,
all outputs). A model that flattens an image before a linear layer has to do so channel by
channel (NCHW), as torch does; shapes cannot tell.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cls.errors import UserError

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


def from_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, **overrides: Any
) -> dict[str, Any]:
    """Returns a registered model's variables, filled from its reference's state dict.

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
    model = models.create(model_name, **overrides)
    abstract = models.abstract_variables(model, variant.input_size)
    present = {_renamed(name, variant.old_names): value for name, value in state_dict.items()}
    if len(present) < len(state_dict):
        raise UserError(f'{model_name}: the file has some tensors under an old and a new name')
    try:
        return convert(present, abstract, variant.renames)
    except UserError as error:
        raise UserError(f'{model_name}: {error}') from None


def num_classes(
    state_dict: Mapping[str, np.ndarray], model_name: str, head: Iterable[str]
) -> int | None:
    """Returns how many classes a state dict is of, None if it has no tensor of the head.

    Args:
      state_dict: torch name -> array.
      model_name: a registered variant.
      head: paths of the head's parameters, 'module/leaf', see `cls.models.parts`.
    """
    from cls import models

    variant = models.variant(model_name)
    present = {_renamed(name, variant.old_names): value for name, value in state_dict.items()}
    names = {torch_name(('params', *path.split('/')), variant.renames) for path in head}
    counts = {len(present[name]) for name in names if name in present and present[name].ndim}
    return max(counts, default=None)


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
        variables want, different shapes, and other kinds of numbers, all at once.
    """
    variables = {c: _plain(abstract_variables[c]) for c in _COLLECTIONS if c in abstract_variables}
    wanted = traverse_util.flatten_dict(variables)
    names = {path: torch_name(path, renames) for path in wanted}
    problems = _problems(state_dict, wanted, names)
    if problems:
        raise UserError('the weights do not fit the model: ' + '; '.join(problems))
    filled = {
        path: np.array(
            _to_flax(path, state_dict[name], wanted[path]), wanted[path].dtype, order='C'
        )
        for path, name in names.items()
    }
    return traverse_util.unflatten_dict(filled)


def torch_name(path: tuple[str, ...], renames: Renames = ()) -> str:
    """Returns the torch name of a Flax variable: ('params', 'conv1', 'kernel') -> conv1.weight."""
    collection, *modules, leaf = path
    return _renamed('.'.join((*modules, _LEAVES.get((collection, leaf), leaf))), renames)


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _plain(tree: Any) -> Any:
    """Turns mappings of any type into dicts."""
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _to_flax(path: tuple[str, ...], tensor: np.ndarray, variable: Any) -> np.ndarray:
    """Moves a kernel's output and input channels, its first two axes, to the end, swapped."""
    if path[0] == 'params' and path[-1] == 'kernel':
        tensor = tensor[..., 0, 0] if _is_pointwise(tensor, variable) else tensor
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return tensor


def _is_pointwise(tensor: np.ndarray, variable: Any) -> bool:
    """Whether a tensor is a 1x1 convolution's, and the variable a linear layer's."""
    return tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and len(variable.shape) == 2


def _torch_shape(path: tuple[str, ...], variable: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The inverse of what `_to_flax` does to a shape."""
    if path[0] == 'params' and path[-1] == 'kernel':
        return (variable.shape[-1], variable.shape[-2], *variable.shape[:-2])
    return tuple(variable.shape)


def _problems(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[tuple[str, ...], jax.ShapeDtypeStruct],
    names: Mapping[tuple[str, ...], str],
) -> list[str]:
    """Describes all that keeps `state_dict` from filling `wanted`, a line's part for each kind."""
    used = set(names.values())
    counters = {
        name
        for name in state_dict
        if name.endswith(_COUNTER) and name.removesuffix(_COUNTER) + '.running_var' in used
    }
    missing = sorted(used - set(state_dict))
    unused = sorted(set(state_dict) - used - counters)
    shapes, kinds, owners = [], {}, {}
    for path, name in names.items():
        owners.setdefault(name, []).append('/'.join(path))
        if name not in state_dict:
            continue
        tensor, shape = state_dict[name], _torch_shape(path, wanted[path])
        flat = path[-1] == 'kernel' and _is_pointwise(tensor, wanted[path])
        if tuple(tensor.shape) != shape + (1, 1) * flat:
            shapes.append(f'{name} is {tuple(tensor.shape)}, the model wants {shape}')
        kind = _kind(wanted[path].dtype)
        if _kind(tensor.dtype) != kind:
            kinds.setdefault(kind, []).append(f'{name} is {tensor.dtype}')
    shared = [f'{name} for {" and ".join(paths)}' for name, paths in owners.items() if paths[1:]]
    missing_parts, unused = _pair(missing, unused)
    found = (
        (f'missing of {len(used)} tensors', missing_parts),
        (f'unused of {len(state_dict)} tensors', unused),
        ('different shapes', shapes),
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
