"""Converts variables to the tensors of a package's network: the inverse of importing.

The tables in cls/weights/families convert names and forms in one direction. They are inverted by
computation: they get tensors whose elements are numbers that stand for their places, and the places
of these numbers in the result show the place of each element. Whatever the inverse yields is
converted by the tables again and compared, so that only exact inverses are written.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cls import models
from cls.errors import UserError
from cls.models.registry import Variant
from cls.models.registry import fields as fields_of
from cls.weights import keras, naming
from cls.weights.convert import shapes as shapes_of
from cls.weights.convert import torch_name, wanted_of
from cls.weights.naming import Naming
from cls.weights.targets import Target

Tensors = dict[str, np.ndarray]
_BASE = 1 << 15  # places are numbers of this base
_LEAST = 1 << 17  # more than any constant in a table, and exact in float32 with any place added
_LARGE = 1 << 22  # tensors of more elements are converted alone, to bound the memory
# Fields of modules that do not change the numbers of an evaluation, or are checked by the
# shapes of the tensors.
_FREE = re.compile(r'num_classes|aux_head|dtype|name|parent|bn_(group|momentum)|.*drop.*|remat.*')
# Leaves of Keras's layer Normalization -> their values in a layer without effect.
_STATISTICS = {'mean': 0.0, 'variance': 1.0, 'count': 0.0}


def reference_tensors(variables: Mapping[str, Any], variant: Variant) -> Tensors:
    """Returns variables under the names and in the axes of the variant's reference."""
    return {
        torch_name(path, variant.renames): _to_torch(path, np.asarray(value))
        for path, value in wanted_of(variables).items()
    }


def _to_torch(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[0] == 'params' and path[-1] == 'kernel':
        return value.transpose(-1, -2, *range(value.ndim - 2))
    return value


def package_tensors(
    variables: Mapping[str, Any],
    module: Any,
    variant: Variant,
    target: Target,
    statistics: Mapping[str, np.ndarray] | None = None,
) -> Tensors:
    """Returns variables as the tensors of a package's network, in its order.

    Args:
      variables: {'params', 'batch_stats'}.
      module: the module of these variables.
      variant: its variant.
      target: the network.
      statistics: 'mean' and 'variance' of images, for a network of Keras that normalizes them.

    Raises:
      UserError: the network computes something else, or cannot hold these variables.
    """
    own = reference_tensors(variables, variant)
    names = list(target.tensors)
    if not getattr(module, 'aux_head', False):
        names = [name for name in names if name not in target.optional]
    elif not target.optional:
        plain = shapes_of(module.clone(aux_head=False), variant)
        own = {name: value for name, value in own.items() if name in plain}
    shapes = {name: target.shape(name, module.num_classes) for name in names}
    chosen = _naming(own, variant, target, shapes)
    _check_fields(module, variant, chosen, target)

    def forward(tensors: Tensors) -> Tensors:
        return _forward(tensors, variant, chosen, target, own)

    counted = {name for name in names if name.endswith(naming.COUNTER)}
    shapes = {name: shape for name, shape in shapes.items() if name not in counted}
    table = chosen.table
    if target.package != 'keras' and (table is None or table.tensors is None):
        result = _by_names(own, shapes, forward)
    else:
        result = _by_places(own, shapes, forward, target)
    _compare(own, forward(result), target)
    result |= {name: np.zeros((), target.tensors[name][0]) for name in counted}
    for name in result:
        if target.package == 'keras' and _is_statistic(name):
            value = (statistics or {}).get(name.rpartition('/')[2], result[name])
            result[name] = np.broadcast_to(value, result[name].shape)
    dtypes = {name: target.tensors[name][0] for name in names}
    return {name: np.asarray(result[name], dtype, order='C') for name, dtype in dtypes.items()}


def _forward(
    tensors: Tensors, variant: Variant, chosen: Naming, target: Target, own: Tensors
) -> Tensors:
    """Returns tensors of a package under the names of the variant's reference, as imports do."""
    if target.package == 'keras':
        tensors = keras.to_torch(tensors)
    named = naming.named(tensors, variant, chosen, own)
    return {name: _shaped(value, own.get(name)) for name, value in named.tensors.items()}


def _shaped(value: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Returns a tensor of a 1x1 convolution in the shape of a linear layer, see `convert`."""
    if own is not None and value.ndim == 4 and own.ndim == 2 and value.shape[2:] == (1, 1):
        return value[..., 0, 0]
    return value


def _naming(
    own: Tensors, variant: Variant, target: Target, shapes: Mapping[str, tuple[int, ...]]
) -> Naming:
    """Returns the names of a package for a variant, by a trial with tensors of zeros."""
    zeros = {
        name: np.broadcast_to(np.float32(_statistic(name) if '/' in name else 0), shape)
        for name, shape in shapes.items()
    }
    wanted = {name: value.shape for name, value in own.items()}
    problem = ''
    # A family has no table for the variants whose names are those of the reference.
    candidates = sorted(naming.namings(variant), key=lambda n: n.family != target.package)
    for candidate in candidates:
        if candidate.family != target.package and candidate.table is not None:
            continue
        try:
            differs = naming.difference(_forward(zeros, variant, candidate, target, own), wanted)
        except UserError as error:
            problem = str(error)
            continue
        if not differs.wrong and differs.channels == 3:
            return candidate
        if problem:
            continue
        first = (*differs.unlike, *differs.missing, *differs.unused, 'channels of the images')[0]
        problem = f'they differ in {first}'
    raise UserError(
        f'{variant.name}: its tensors are not those of {target.package} {target.name}'
        + (f': {problem}' if problem else '')
        + '; expected a network with the fields of the variant. --format safetensors writes any.'
    )


def _check_fields(module: Any, variant: Variant, chosen: Naming, target: Target) -> None:
    """Raises UserError if a field of the module is not as in the package's network."""
    usual = models.create(variant.name)
    for name in fields_of(type(module)):
        if _FREE.fullmatch(name):
            continue
        expected = chosen.fields.get(name, getattr(usual, name))
        actual = getattr(module, name)
        if actual != expected and not _is_same(actual, expected):
            raise UserError(
                f'{variant.name}: the run has {name}={actual!r:.60}, but {target.package} '
                f'{target.name} has {expected!r:.60}, and would compute something else; '
                '--format safetensors writes the tensors as they are.'
            )


def _is_same(actual: Any, expected: Any) -> bool:
    return isinstance(actual, tuple | list) and list(actual) == list(expected or ())


def _by_names(own: Tensors, shapes: Mapping[str, Any], forward: Callable) -> Tensors:
    """Returns the inverse of a conversion that only gives other names."""
    names = list(shapes)
    places = forward({name: np.array([k]) for k, name in enumerate(names)})
    return {names[int(place[0])]: own[name].reshape(shapes[names[int(place[0])]])
            for name, place in places.items()}  # fmt: skip


def _by_places(
    own: Tensors, shapes: Mapping[str, tuple[int, ...]], forward: Callable, target: Target
) -> Tensors:
    """Returns the inverse of a conversion that moves elements.

    A bias that is added to another tensor has no place of its own; it is 0 in the result.
    """
    names = list(shapes)
    fixed = {name for name in names if '/' in name and _is_statistic(name)}
    for _ in range(2):
        sources = _sources(own, shapes, fixed, forward)
        used = {names[k] for numbers in sources.values() for k in np.unique(numbers) if k >= 0}
        if not (rest := {*names} - used - fixed):
            break
        fixed |= {name for name in rest if re.search(r'\bbias$', name)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    filled = dict.fromkeys(names, 0)
    result = {name: np.full(shape, _constant(name, fixed)) for name, shape in shapes.items()}
    large = [[name] for name in used if sizes[name] > _LARGE]
    for group in ([name for name in used if sizes[name] <= _LARGE], *large):
        places = _places(own, shapes, group, forward)
        for name, numbers in sources.items():
            for k in np.unique(numbers):
                if k < 0 or names[k] not in group:
                    continue
                there = slice(None) if numbers.ndim == 0 else numbers == k
                where = places[name][there]
                result[names[k]].reshape(-1)[where] = own[name].reshape(-1)[there]
                filled[names[k]] += where.size
    if rest := [name for name in names if name not in fixed and filled[name] != sizes[name]]:
        raise UserError(
            f'{target.package} {target.name}: {rest[0]} has no tensor here to fill it; '
            '--format safetensors writes the tensors as they are.'
        )
    return result


def _constant(name: str, fixed: set[str]) -> np.float32:
    return np.float32(_statistic(name) if name in fixed else 0)


def _sources(
    own: Tensors, shapes: Mapping[str, tuple[int, ...]], fixed: set[str], forward: Callable
) -> dict[str, np.ndarray]:
    """Returns for each own tensor the number of the tensor that it is from.

    It is an array of the number for each element if there are several. A number is negative for
    elements that are computed, or constant.
    """
    marked = {}
    for k, (name, shape) in enumerate(shapes.items()):
        value = _constant(name, fixed) if name in fixed else np.float32(2 * k + 1 + _LEAST)
        marked[name] = np.broadcast_to(value, shape)
    sources = {}
    for name, values in forward(marked).items():
        if name not in own:
            continue
        first = values.reshape(-1)[:1] if values.size else np.zeros(1, np.float32)
        same = not any(values.strides) or bool((values == first[0]).all())
        numbers = np.asarray(first[0] if same else values.reshape(-1), np.float64) - _LEAST
        valid = (numbers > 0) & (numbers < 2 * len(shapes)) & (numbers % 2 == 1)
        sources[name] = np.where(valid, (numbers - 1) // 2, -1).astype(np.int32)
    return sources


def _places(
    own: Tensors, shapes: Mapping[str, tuple[int, ...]], group: Iterable[str], forward: Callable
) -> dict[str, np.ndarray]:
    """Returns for each own tensor the places of its elements in those of a group."""
    places, factor = {}, 1
    most = max((math.prod(shapes[name]) for name in group), default=0)
    inside = frozenset(group)
    while factor < most:
        marked = {}
        for name, shape in shapes.items():
            if name in inside:
                numbers = np.arange(math.prod(shape), dtype=np.int32) // factor % _BASE
                marked[name] = numbers.astype(np.float32).reshape(shape)
            else:
                marked[name] = np.broadcast_to(np.float32(_statistic(name)), shape)
        for name, values in forward(marked).items():
            if name in own and any(values.strides):
                digits = values.astype(np.int32).reshape(-1)
                places[name] = places.get(name, 0) + digits * factor
        factor *= _BASE
    return {name: places.get(name, np.zeros(value.size, np.int32)) for name, value in own.items()}


def _is_statistic(name: str) -> bool:
    return name.rpartition('/')[2] in _STATISTICS


def _statistic(name: str) -> float:
    return _STATISTICS.get(name.rpartition('/')[2], 0.0)


def _compare(own: Tensors, again: Tensors, target: Target) -> None:
    """Raises UserError unless the tensors of an import are those of the run, bit by bit."""
    for name, value in own.items():
        if name not in again or not np.array_equal(value, again[name]):
            raise UserError(
                f'{name} has values that {target.package} {target.name} has no tensor for (as a '
                'scale other than 1); --format safetensors writes the tensors as they are.'
            )


def write_keras(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes Keras's HDF5 file of weights: groups of layers, in the order of the network.

    `load_weights` of Keras takes it, as it takes those of Keras Applications.
    """
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.partition('/')[0], []).append(name)
    with h5py.File(file, 'w') as top:
        top.attrs['layer_names'] = [layer.encode() for layer in layers]
        top.attrs['backend'], top.attrs['keras_version'] = b'tensorflow', b'3.0.0'
        for layer, names in layers.items():
            group = top.create_group(layer)
            group.attrs['weight_names'] = [f'{name}:0'.encode() for name in names]
            for name in names:
                group.create_dataset(f'{name}:0', data=tensors[name])
