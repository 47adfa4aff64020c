"""Fresh variables of a net, without compiling or running the net."""

import hashlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cls.models.registry import abstract_variables


def init(model: nn.Module, seed: int, input_size: int, channels: int = 3) -> Any:
    """Returns `{'params': ..., 'batch_stats': ...}` of NumPy arrays, shaped as `model.init` would.

    The net is traced once for its shapes; every variable is then drawn on the host by its module's
    initialiser, from a stream of its own keyed by (seed, path). A value therefore depends neither
    on the other layers nor on the number of devices and hosts. A variable `x` whose module has no
    `x_init` of cls.nn.init, as in a plain Flax module, is Flax's own: what `model.init` draws on
    this host's CPU, for which it is compiled.
    """
    modules: dict[tuple[str, ...], nn.Module] = {}

    def note(next_call, args, kwargs, context):
        modules[context.module.path] = context.module
        return next_call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = abstract_variables(model, input_size, channels)

    def initializer(path):
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
