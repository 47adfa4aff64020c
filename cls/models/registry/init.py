"""Initial variables of a model, without compiling or running it."""

import hashlib
import math
import os
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cls.models.registry.tracing import trace

_LARGE = 2**16  # elements; smaller variables are drawn in less time than a thread is given them


def init(model: nn.Module, seed: int, input_size: int, channels: int = 3) -> Any:
    """Returns `{'params': ..., 'batch_stats': ...}` of NumPy arrays, shaped as `model.init` would.

    The model is traced once for its shapes. The initializer of its module then draws each variable
    on the host, from a separate stream keyed by (seed, path). A value therefore depends neither on
    other layers nor on the number of devices and hosts. Plain Flax modules have no initializer
    `x_init` of cls.nn.init for a variable `x`: such variables come from `model.init`, compiled for
    this host's CPU.
    """
    shapes = trace(model, input_size, channels).shapes
    values = draw(model, seed, input_size, channels)
    return jax.tree.map_with_path(lambda path, _: values[_names(path)], shapes)


def draw(
    model: nn.Module,
    seed: int,
    input_size: int,
    channels: int = 3,
    only: Set[tuple[str, ...]] | None = None,
) -> dict[tuple[str, ...], np.ndarray]:
    """Returns variables of `init` by their paths, those of `only`; None: all."""
    traced = trace(model, input_size, channels)
    shapes = {_names(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(traced.shapes)}
    wanted = [names for names in shapes if only is None or names in only]

    def one(names: tuple[str, ...]) -> Any:
        initializer = traced.initializers.get(names)
        digest = hashlib.sha256('/'.join(names).encode()).digest()
        rng = np.random.default_rng((seed, int.from_bytes(digest[:8], 'little')))
        return initializer and initializer.draw(rng, shapes[names])

    large = [names for names in wanted if math.prod(shapes[names]) >= _LARGE]
    small = [names for names in wanted if math.prod(shapes[names]) < _LARGE]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy draws without Python's lock
        in_threads = pool.map(one, large)
        drawn: dict[tuple[str, ...], Any] = {names: one(names) for names in small}
        drawn.update(zip(large, in_threads, strict=True))
    if any(value is None for value in drawn.values()):
        compiled = _drawn_by_flax(model, seed, input_size, channels)
        flat = {_names(path): value for path, value in jax.tree.leaves_with_path(compiled)}
        drawn = {path: flat[path] if x is None else x for path, x in drawn.items()}
    return drawn


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def _drawn_by_flax(model: nn.Module, seed: int, input_size: int, channels: int) -> Any:
    """Returns the variables of `model.init` as NumPy arrays."""
    images = np.zeros((1, input_size, input_size, channels), np.float32)
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        variables = jax.jit(model.init)(jax.random.key(seed), images)
    return jax.tree.map(np.asarray, variables)
