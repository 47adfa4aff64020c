"""Initialisers that can be drawn on the host, so that starting a run compiles nothing.

XLA compiles a random draw anew for each shape, and a deep net has dozens of shapes. An
initialiser here is a Flax initialiser like any other (`model.init` works as ever), and beside that
draws the same distribution with NumPy; cls.models.registry.init uses that. A module's parameter `x`
is drawn by its attribute `x_init`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

_shapes_only = contextvars.ContextVar('shapes_only', default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Within it shapes are right and values are not: for a trace of which only shapes are wanted.

    Initialisers give zeros, convolutions are XLA's on any platform, and normalisation does nothing:
    random draws and choices between platforms take longer to trace than all the rest of a net.
    """
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def only_shapes() -> bool:
    """Whether this is traced within `shapes_only`."""
    return _shapes_only.get()


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Zero mean and variance scale / fan, the fan of an (..., in, out) kernel.

    scale 2: He et al. 2015 (1502.01852); 1 with 'fan_avg': Glorot & Bengio 2010.
    """

    scale: float
    fan: Literal['fan_in', 'fan_out', 'fan_avg']
    distribution: Literal['normal', 'uniform', 'truncated_normal']

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jnp.zeros(shape, dtype) if _shapes_only.get() else self._traced(key, shape, dtype)

    # Jitted, a shape seen before is not traced again.
    @functools.partial(jax.jit, static_argnums=(0, 2, 3))
    def _traced(self, key, shape, dtype):
        initializer = jax.nn.initializers.variance_scaling(self.scale, self.fan, self.distribution)
        return initializer(key, shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        area = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * area, shape[-1] * area
        fan = {'fan_in': fan_in, 'fan_out': fan_out, 'fan_avg': (fan_in + fan_out) / 2}[self.fan]
        std = math.sqrt(self.scale / fan)
        if self.distribution == 'uniform':
            return rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(math.sqrt(3) * std)
        if self.distribution == 'normal':
            return rng.standard_normal(shape, np.float32) * np.float32(std)
        std /= 0.87962566103423978  # the standard deviation of a normal cut at two
        return _cut_normal(rng, shape) * np.float32(std)


def _cut_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws from a standard normal, again where beyond two."""
    draws = rng.standard_normal(shape, np.float32)
    outside = np.abs(draws) > 2
    while outside.any():
        draws[outside] = rng.standard_normal(int(outside.sum()), np.float32)
        outside = np.abs(draws) > 2
    return draws


@dataclasses.dataclass(frozen=True)
class Normal:
    """Zero mean and a given standard deviation, with `cut` the draws beyond two of them redrawn."""

    std: float
    cut: bool = False

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jnp.zeros(shape, dtype) if _shapes_only.get() else self._traced(key, shape, dtype)

    @functools.partial(jax.jit, static_argnums=(0, 2, 3))
    def _traced(self, key, shape, dtype):
        if self.cut:
            return self.std * jax.random.truncated_normal(key, -2, 2, shape, dtype)
        return self.std * jax.random.normal(key, shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        draws = _cut_normal(rng, shape) if self.cut else rng.standard_normal(shape, np.float32)
        return draws * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jnp.full(shape, self.value, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Counting:
    """0, 1, 2, ...: of int32, for indices."""

    def __call__(self, key: jax.Array, shape: tuple[int], dtype: Any = jnp.int32):
        return jnp.arange(*shape, dtype=dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int]) -> np.ndarray:
        return np.arange(*shape, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class AllTrue:
    """True everywhere: of bool, for masks."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.bool_):
        return jnp.ones(shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape, np.bool_)


zeros = Constant(0.0)
ones = Constant(1.0)
counting = Counting()
all_true = AllTrue()
he_normal = VarianceScaling(2.0, 'fan_in', 'normal')
he_normal_fan_out = VarianceScaling(2.0, 'fan_out', 'normal')
glorot_uniform = VarianceScaling(1.0, 'fan_avg', 'uniform')
