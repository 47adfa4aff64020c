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
    on the other layers nor on the number of devices and hosts.

    Raises TypeError for a variable `x` whose module has no `x_init` that can draw on the host.
    """
    modules: dict[tuple[str, ...], nn.Module] = {}

    def note(next_call, args, kwargs, context):
        modules[context.module.path] = context.module
        return next_call(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes = abstract_variables(model, input_size, channels)

    def draw(path, shape):
        _, *module, name = [entry.key for entry in path]
        initializer = getattr(modules[tuple(module)], f'{name}_init', None)
        if not hasattr(initializer, 'draw'):
            where = f'{type(modules[tuple(module)]).__name__} ({"/".join(module)})'
            raise TypeError(f'{where} has no {name}_init of cls.nn.init for its variable {name!r}')
        digest = hashlib.sha256('/'.join(entry.key for entry in path).encode()).digest()
        rng = np.random.default_rng((seed, int.from_bytes(digest[:8], 'little')))
        return initializer.draw(rng, shape.shape)

    return jax.tree.map_with_path(draw, shapes)
