"""The variables of a model that are its head, are depthwise kernels, or depend on the image size.

Shapes determine them, without a list of names for each system: each function traces the model with
one change and compares the shapes.
"""

from typing import Any

import flax.linen as nn
import jax

from cls.models.registry import abstract_variables


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
