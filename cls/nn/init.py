"""Initializers that can also sample on the host, so that the start of a run compiles nothing.

XLA compiles a random draw for each shape, and a deep network has dozens of shapes. An initializer
here is a Flax initializer (`model.init` works as usual), and its method `draw` samples the same
distribution with NumPy. By convention a module draws its parameter `x` with its attribute `x_init`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

_BLOCK = 2**20  # float64 numbers in a draw

_shapes_only = contextvars.ContextVar('shapes_only', default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """A context for traces of shapes: shapes are right, values are not.

    Initializers return zeros, convolutions and pools are XLA's on every platform, and batch
    normalization in evaluation is the identity: random draws and choices between platforms take
    longer to trace than the rest of a network.
    """
    token = _shapes_only.set(True)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def only_shapes() -> bool:
    """Returns whether the caller is traced within `shapes_only`."""
    return _shapes_only.get()


def parameter(
    module: nn.Module, name: str, initializer: Callable[..., Any], shape: tuple[int, ...]
) -> jax.Array:
    """Returns a float32 parameter of a module, as `module.param` does, and sooner.

    Flax traces the initializer of each given parameter in each trace of a network, only to compare
    the shapes (findings/flax_apply_calls_initializers.sh).

    Raises:
      ScopeParamShapeError: as there, the given parameter has another shape.
    """
    if not module.has_variable('params', name):
        return module.param(name, initializer, shape, jnp.float32)
    given = module.get_variable('params', name)
    if jnp.shape(given) != shape:
        raise ScopeParamShapeError(name, '/' + '/'.join(module.path), jnp.shape(given), shape)
    return given


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """A distribution with mean 0 and variance scale / fan, for kernels (..., in, out).

    With scale 2 that of He et al. 2015 (1502.01852); with scale 1 and 'fan_avg' that of Glorot and
    Bengio 2010.
    """

    scale: float
    fan: Literal['fan_in', 'fan_out', 'fan_avg']
    distribution: Literal['normal', 'uniform', 'truncated_normal']

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jnp.zeros(shape, dtype) if _shapes_only.get() else self._traced(key, shape, dtype)

    # Jitted, so that a draw is traced only once for each shape.
    @functools.partial(jax.jit, static_argnums=(0, 2, 3))
    def _traced(self, key, shape, dtype):
        initializer = jax.nn.initializers.variance_scaling(self.scale, self.fan, self.distribution)
        return initializer(key, shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a float32 sample of a shape, drawn on the host."""
        area = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * area, shape[-1] * area
        fan = {'fan_in': fan_in, 'fan_out': fan_out, 'fan_avg': (fan_in + fan_out) / 2}[self.fan]
        std = math.sqrt(self.scale / fan)
        if self.distribution == 'uniform':
            return _scaled(_uniform(rng, shape), math.sqrt(3) * std)
        if self.distribution == 'normal':
            return _scaled(rng.standard_normal(shape, np.float32), std)
        std /= 0.87962566103423978  # the standard deviation of a standard normal truncated at 2
        return _scaled(_cut_normal(rng, shape), std)


def _scaled(draws: np.ndarray, std: float) -> np.ndarray:
    """Multiplies an array in place, without the memory of another one; returns it."""
    return np.multiply(draws, np.float32(std), out=draws)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a sample of the uniform distribution in -1 to 1, float32."""
    draws = np.empty(math.prod(shape), np.float32)
    for start in range(0, draws.size, _BLOCK):  # all float64 at once would be three times as large
        part = draws[start : start + _BLOCK]
        part[:] = rng.uniform(-1, 1, part.size)
    return draws.reshape(shape)


def _cut_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a sample of the standard normal distribution truncated at 2 on either side."""
    draws = rng.standard_normal(shape, np.float32)
    outside = np.abs(draws) > 2
    while outside.any():
        draws[outside] = rng.standard_normal(int(outside.sum()), np.float32)
        outside = np.abs(draws) > 2
    return draws


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normal distribution with mean 0, with `cut` truncated at two standard deviations."""

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
        """Returns a float32 sample of a shape, drawn on the host."""
        draws = _cut_normal(rng, shape) if self.cut else rng.standard_normal(shape, np.float32)
        return _scaled(draws, self.std)


@dataclasses.dataclass(frozen=True)
class Constant:
    """A constant."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jnp.full(shape, self.value, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the constant, float32, in a shape."""
        return np.full(shape, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Counting:
    """The numbers 0, 1, 2, ..., int32, for indices."""

    def __call__(self, key: jax.Array, shape: tuple[int], dtype: Any = jnp.int32):
        return jnp.arange(*shape, dtype=dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int]) -> np.ndarray:
        """Returns the numbers in a shape (N,)."""
        return np.arange(*shape, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class AllTrue:
    """True everywhere, bool, for masks."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.bool_):
        return jnp.ones(shape, dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the mask in a shape."""
        return np.ones(shape, np.bool_)


zeros = Constant(0.0)
ones = Constant(1.0)
counting = Counting()
all_true = AllTrue()
he_normal = VarianceScaling(2.0, 'fan_in', 'normal')
he_normal_fan_out = VarianceScaling(2.0, 'fan_out', 'normal')
glorot_uniform = VarianceScaling(1.0, 'fan_avg', 'uniform')
