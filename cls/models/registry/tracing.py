"""Traces of networks for the shapes of their variables, without any computation."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.nn import limits
from cls.nn.init import shapes_only

# Limit of traced modules for each layer of config.limits.layers, as a mistake in a config may ask
# for a huge network.
MODULES = 7
# Set-up, initialization and the search for the head trace the same few networks, in turn.
_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Trace:
    """The results of a trace.

    Attributes:
      shapes: the tree of shapes and types of `model.init`.
      initializers: those of cls.nn.init, by the path of the variable: collection, modules, leaf.
      flax_norms: the paths of batch norms of Flax's own class, in place of cls.nn.norm.BatchNorm.
      modules: the paths of all modules, in the order of their first calls.
    """

    shapes: Any
    initializers: Mapping[tuple[str, ...], Any]
    flax_norms: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...]


def trace(model: nn.Module, input_size: int, channels: int = 3) -> Trace:
    """Returns the trace of `model.init` for square images; that of an equal model is kept.

    Raises UserError for a network with so large a number of modules that a trace takes minutes.
    """
    most = MODULES * limits.max_layers()
    try:
        return _kept(model, input_size, channels, most)
    except TypeError as error:
        if 'unhashable' not in str(error):
            raise
    return _trace(model, input_size, channels, most)  # a field of the model has no hash


def abstract_variables(model: nn.Module, input_size: int, channels: int = 3) -> Any:
    """Returns the tree of shapes of `model.init` for square images. Raises as `trace` does."""
    shapes = trace(model, input_size, channels).shapes
    return jax.tree.map(lambda shape: shape, shapes)  # the caller's own dicts


def flax_norms(model: nn.Module, input_size: int, channels: int = 3) -> list[str]:
    """Returns the paths of batch norms of Flax's own class, in place of cls.nn.norm.BatchNorm."""
    return list(trace(model, input_size, channels).flax_norms)


def _trace(model: nn.Module, input_size: int, channels: int, most: int) -> Trace:
    images = jax.ShapeDtypeStruct((1, input_size, input_size, channels), jnp.float32)
    modules: dict[tuple[str, ...], nn.Module] = {}

    def note(next_call, args, kwargs, context):
        modules[context.module.path] = context.module
        if len(modules) > most:
            raise UserError(
                f'config.model describes a network of more than {most:,} modules: expected at most '
                f'that, {MODULES} for each of config.limits.layers (SE-PreActResNet-1202: 6,006).'
            )
        return next_call(*args, **kwargs)

    key = jax.eval_shape(lambda: jax.random.key(0))  # computed, it would start XLA's devices
    with shapes_only(), nn.intercept_methods(note):
        shapes = jax.eval_shape(model.init, key, images)
    initializers = {}
    for path, _ in jax.tree.leaves_with_path(shapes):
        _, *module, name = keys = tuple(entry.key for entry in path)
        initializer = getattr(modules.get(tuple(module)), f'{name}_init', None)
        if hasattr(initializer, 'draw'):
            initializers[keys] = initializer
    norms = ('/'.join(path) for path, one in modules.items() if isinstance(one, nn.BatchNorm))
    return Trace(shapes, initializers, tuple(norms), tuple(modules))


_kept = functools.lru_cache(_KEPT)(_trace)
