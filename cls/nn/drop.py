"""Drop path (stochastic depth) in training; Flax's Dropout drops single elements."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Returns x (N, ...) with each example zeroed with probability `rate`, others / (1 - rate).

    Larsson et al. 2016 (1605.07648), in the per-example form of NASNet and AmoebaNet. The rate may
    be traced, so that it can grow during training.
    """
    keep = 1 - jnp.asarray(rate, jnp.float32)
    mask = jax.random.bernoulli(key, keep, (len(x),) + (1,) * (x.ndim - 1))
    return x * (mask / keep).astype(x.dtype)


def path_of(module: nn.Module, x: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Returns `drop_path` of x (N, ...) with a key of the module's stream `dropout`.

    At the Python number 0.0 it returns x and draws no key: evaluation has no keys, and the value of
    a traced rate is unknown.
    """
    if isinstance(rate, float) and rate == 0:
        return x
    return drop_path(x, rate, module.make_rng('dropout'))
