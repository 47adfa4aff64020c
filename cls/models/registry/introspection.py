"""The variables of a model that are its head, are depthwise kernels, or depend on the image size.

Shapes determine them, without a list of names for each system: each function traces the model with
one change and compares the shapes. The order of calls determines the layers.
"""

import re
from typing import Any

import flax.linen as nn
import jax

from cls.models.registry import abstract_variables
from cls.models.registry.tracing import trace

# Names of blocks that follow one another in a module: '0', 'denselayer1', 'b1'.
_BLOCK = re.compile(r'((\w*(layer|block|unit|cell))?|b)[0-9]+')


def head(model: nn.Module, size: int, channels: int) -> frozenset[str]:
    """Returns the paths, 'module/leaf', of the variables whose shape has the number of classes.

    These are the kernel and bias of the classifier and the auxiliary classifiers, and of a norm
    after a classifier. All other variables are the body.

    Args:
      model: a module of the registry.
      size: height and width of the images.
      channels: channels of the images.
    """
    more = model.clone(num_classes=model.num_classes + 1)
    return _changed(*(abstract_variables(each, size, channels) for each in (model, more)))


def depthwise(model: nn.Module, size: int, channels: int) -> frozenset[str]:
    """Returns the paths of the depthwise kernels, (h, w, 1, C): each filter sees one channel.

    The first convolution of gray images has that shape too, but is excluded. Arguments are those of
    `head`.
    """
    params, other = (abstract_variables(model, size, count) for count in (channels, channels + 1))
    shapes = _shapes(params)
    candidates = {
        path
        for path, shape in shapes.items()
        if path.endswith('kernel') and len(shape) == 4 and shape[2] == 1 and shape[3] > 1
    }
    return frozenset(candidates) - _changed(params, other)


def layers(model: nn.Module, size: int, channels: int) -> dict[str, int]:
    """Returns the layer of each parameter, from 0 at the images, by its path.

    A layer is a block, or a convolution or linear layer outside of blocks; a norm belongs to the
    layer before it. Blocks are the modules at the top that have modules of their own, or, if all of
    these have the names of blocks, each of these. Classifiers, see `head`, have the last layer.

    Args:
      model: a module of the registry.
      size: height and width of the images.
      channels: channels of the images.
    """
    traced = trace(model, size, channels)
    calls = {path: i for i, path in enumerate(traced.modules)}
    params = traced.shapes['params']
    paths = [tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)]
    paths.sort(key=lambda path: calls.get(path[:-1], 0))
    classifiers = head(model, size, channels)
    units: dict[tuple[str, ...], int] = {}
    result, last = {}, -1
    for path in paths:
        name, unit = '/'.join(path), _unit(path, params)
        if name in classifiers:
            continue
        if unit not in units:
            last += last < 0 or _has_kernel(params, unit)
            units[unit] = last
        result[name] = units[unit]
    return result | {name: last + 1 for name in map('/'.join, paths) if name in classifiers}


def _unit(path: tuple[str, ...], params: Any) -> tuple[str, ...]:
    """Returns the path of the block, or the module at the top, that has a parameter."""
    names = params[path[0]] if len(path) > 2 else ()
    blocks = names and all(map(_BLOCK.fullmatch, names))
    return path[:2] if blocks else path[:1]


def _has_kernel(params: Any, unit: tuple[str, ...]) -> bool:
    for name in unit:
        params = params[name]
    return any(path[-1].key == 'kernel' for path, _ in jax.tree.leaves_with_path(params) if path)


def sized(model: nn.Module, size: int, other: int, channels: int) -> frozenset[str]:
    """Returns the paths of the variables with another shape for images of `other` pixels."""
    return _changed(*(abstract_variables(model, s, channels) for s in (size, other)))


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape; paths omit the collection, as names do not clash."""
    tree = {name: variables.get(name, {}) for name in ('params', 'batch_stats')}
    return {
        '/'.join(entry.key for entry in path[1:]): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _changed(one: Any, other: Any) -> frozenset[str]:
    one, other = _shapes(one), _shapes(other)
    return frozenset(path for path in {*one, *other} if one.get(path) != other.get(path))
