"""Converts variables to the tensors of a package's network: the inverse of importing.

The tables in cls/weights/families convert names and forms in one direction. They are inverted by
computation: they get tensors whose elements are numbers that stand for their places, and the places
of these numbers in the result show the place of each element. Whatever the inverse yields is
converted by the tables again and compared, so that only exact inverses are written.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cls import models
from cls.errors import UserError
from cls.models.registry import Variant
from cls.models.registry import fields as fields_of
from cls.weights import keras, naming
from cls.weights.convert import torch_name, wanted_of
from cls.weights.naming import Naming
from cls.weights.targets import Target

Tensors = dict[str, np.ndarray]
_BASE = 1 << 15  # places are numbers of this base
_LEAST = 1 << 17  # more than any constant in a table; 2 * _BASE + _LEAST is exact in float32
# Fields of modules that do not change what a network computes in evaluation, or are checked by the
# shapes of the tensors.
_FREE = re.compile(r'num_classes|aux_head|dtype|name|parent|bn_(group|momentum)|.*drop.*|remat.*')
# Leaves of Keras's layer Normalization -> the values with which it changes nothing.
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
    names = [name for name in target.tensors if getattr(module, 'aux_head', False)] or [
        name for name in target.tensors if name not in target.optional
    ]
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
    return {name: np.ascontiguousarray(result[name], target.tensors[name][0]) for name in names}


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
    for candidate in naming.namings(variant):
        if candidate.family != target.package:
            continue
        try:
            differs = naming.difference(_forward(zeros, variant, candidate, target, own), wanted)
        except UserError as error:
            problem = str(error)
            continue
        if not differs.wrong and differs.channels == 3:
            return candidate
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
    offsets, total = {}, 0
    for name, shape in shapes.items():
        offsets[name] = total
        total += math.prod(shape)
    zero: set[str] = {name for name in shapes if '/' in name and _is_statistic(name)}
    for _ in range(2):
        places = _places(own, shapes, offsets, zero, total, forward)
        flat, filled = np.zeros(total, np.float32), np.zeros(total, bool)
        for name, where in places.items():
            valid = where >= 0
            flat[where[valid]] = own[name].reshape(-1)[valid]
            filled[where[valid]] = True
        covered = {
            name: filled[start : start + math.prod(shapes[name])].all()
            for name, start in offsets.items()
        }
        open_ = {name for name, full in covered.items() if not full} - zero
        if not open_:
            break
        zero |= {name for name in open_ if name.rpartition('/')[2].endswith('bias')}
    if open_ := open_ - zero:
        raise UserError(
            f'{target.package} {target.name}: {sorted(open_)[0]} has no tensor here to fill it; '
            '--format safetensors writes the tensors as they are.'
        )
    result = {
        name: flat[start : start + math.prod(shapes[name])].reshape(shapes[name])
        for name, start in offsets.items()
    }
    for name in result:
        if '/' in name and _is_statistic(name):
            result[name] = np.full(shapes[name], _statistic(name), np.float32)
    return result


def _places(
    own: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    offsets: Mapping[str, int],
    zero: set[str],
    total: int,
    forward: Callable,
) -> dict[str, np.ndarray]:
    """Returns for each own tensor the places of its elements, -1 for those without one."""
    places = {name: np.zeros(value.size, np.int64) for name, value in own.items()}
    factor = 1
    while factor < total:
        marked = {}
        for name, shape in shapes.items():
            if name in zero:
                marked[name] = np.full(shape, _statistic(name), np.float32)
                continue
            numbers = np.arange(offsets[name], offsets[name] + math.prod(shape)) // factor % _BASE
            marked[name] = (2 * numbers + 1 + _LEAST).astype(np.float32).reshape(shape)
        for name, values in forward(marked).items():
            numbers = np.asarray(values, np.float64).reshape(-1) - _LEAST
            valid = (numbers > 0) & (numbers < 2 * _BASE) & (numbers % 2 == 1)
            digits = (np.where(valid, numbers, 1).astype(np.int64) - 1) // 2
            where = places[name]
            where[:] = np.where(valid & (where >= 0), where + digits * factor, -1)
        factor *= _BASE
    return places


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
