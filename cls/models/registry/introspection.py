"""Which variables of a net are its head, its depthwise kernels, or depend on the image's size.

No net says so itself: the shapes do. Each function traces the net with one thing changed and looks
at which shapes changed with it, so that it holds for every system without a list of names.
"""

from typing import Any

import flax.linen as nn
import jax

from cls.models.registry import abstract_variables


def head(model: nn.Module, size: int, channels: int) -> frozenset[str]:
    """Returns the paths, 'module/leaf', of the variables that the number of classes shapes.

    These are the classifier's kernel and bias, and those of the auxiliary classifiers; of a net
    that normalises its logits the norm's variables too. What comes before a classifier is body.

    Args:
      model: a module of the registry.
      size: height and width of the images.
      channels: of the images.
    """
    more = model.clone(num_classes=model.num_classes + 1)
    return _changed(*(abstract_variables(net, size, channels) for net in (model, more)))


def depthwise(model: nn.Module, size: int, channels: int) -> frozenset[str]:
    """Returns the paths of the depthwise kernels, (h, w, 1, C): each filter sees one channel.

    A first convolution of grey images has that shape too, and is none; arguments as for `head`.
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
    """Returns the paths of the variables whose shape is another for images of another size."""
    return _changed(*(abstract_variables(model, s, channels) for s in (size, other)))


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """By path without the collection, whose leaves have names of their own."""
    tree = {name: variables.get(name, {}) for name in ('params', 'batch_stats')}
    return {
        '/'.join(entry.key for entry in path[1:]): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _changed(one: Any, other: Any) -> frozenset[str]:
    one, other = _shapes(one), _shapes(other)
    return frozenset(path for path in {*one, *other} if one.get(path) != other.get(path))
