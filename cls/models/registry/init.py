"""Initial variables of a model, without compiling or running it."""

import hashlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cls.models.registry import abstract_variables


def init(model: nn.Module, seed: int, input_size: int, channels: int = 3) -> Any:
    """Returns `{'params': ..., 'batch_stats': ...}` of NumPy arrays, shaped as `model.init` would.

    The model is traced once for its shapes. The initializer of its module then draws each variable
    on the host, from a separate stream keyed by (seed, path). A value therefore depends neither on
    other layers nor on the number of devices and hosts. Plain Flax modules have no initializer
    `x_init` of cls.nn.init for a variable `x`: such variables come from `model.init`, compiled for
    this host's CPU.
    """
    modules: dict[tuple[str, ...], nn.Module] = {}

    def note(next_call, args, kwargs, context):
        modules[context.module.path] = context.module
        return next_call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = abstract_variables(model, input_size, channels)

    def initializer(path) -> Any:
        _, *module, name = [entry.key for entry in path]
        return getattr(modules.get(tuple(module)), f'{name}_init', None)

    def draw(path, shape):
        digest = hashlib.sha256('/'.join(entry.key for entry in path).encode()).digest()
        rng = np.random.default_rng((seed, int.from_bytes(digest[:8], 'little')))
        return initializer(path).draw(rng, shape.shape)

    plain = jax.tree.map_with_path(lambda path, _: not hasattr(initializer(path), 'draw'), shapes)
    drawn = jax.tree.map_with_path(
        lambda path, shape, is_plain: None if is_plain else draw(path, shape), shapes, plain
    )
    if not any(jax.tree.leaves(plain)):
        return drawn
    compiled = _drawn_by_flax(model, seed, input_size, channels)
    return jax.tree.map(
        lambda is_plain, theirs, ours: theirs if is_plain else ours, plain, compiled, drawn
    )


def _drawn_by_flax(model: nn.Module, seed: int, input_size: int, channels: int) -> Any:
    """Returns the variables of `model.init` as NumPy arrays."""
    images = np.zeros((1, input_size, input_size, channels), np.float32)
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        variables = jax.jit(model.init)(jax.random.key(seed), images)
    return jax.tree.map(np.asarray, variables)
