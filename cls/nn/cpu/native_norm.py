"""The sums of batch normalization and what follows from them, by the extension.

XLA's reductions on CPU write the shifted images to memory first and read them twice. And each
operation on the numbers of the channels would be a kernel of its own for each number of channels,
that takes nearly as long to compile as one on images. Only for programs for CPU, see
`cls.nn.cpu.native.instead`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls.nn.cpu.native import ffi


def moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns the means and variances (G, C) of groups of examples of x (N, ..., C)."""
    result = jax.ShapeDtypeStruct((groups, x.shape[-1]), jnp.float32)
    return ffi('cls_moments', (result, result))(x)


def statistics(
    x: jax.Array, scale: jax.Array, groups: int, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `moments`, and scale / sqrt(variance + epsilon) (G, C)."""
    result = jax.ShapeDtypeStruct((groups, x.shape[-1]), jnp.float32)
    return ffi('cls_norm_statistics', (result,) * 3)(x, scale, epsilon=np.float32(epsilon))


def terms(
    dout: jax.Array,
    x: jax.Array,
    scale: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, ...]:
    """Returns the terms of a gradient, see `cls.nn.norm._terms`."""
    group, channel = (jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in (mean, scale))
    call = ffi('cls_norm_terms', (group, group, group, channel, channel))
    return call(dout, x, scale, mean, var, epsilon=np.float32(epsilon))


def running(old: jax.Array, groups: jax.Array, momentum: float, factor: float) -> jax.Array:
    """Returns momentum * old + (1 - momentum) * factor * mean of groups; (C,) of (C,), (G, C)."""
    result = jax.ShapeDtypeStruct(old.shape, jnp.float32)
    call = ffi('cls_norm_running', result, input_output_aliases={0: 0})
    return call(old, groups, momentum=np.float64(momentum), factor=np.float64(factor))
