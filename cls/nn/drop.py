"""Regularisers that drop whole paths at random while training (for elements: flax's Dropout)."""

import jax
import jax.numpy as jnp


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Zeroes each example of x (N, ...) with probability `rate`; scales the rest by 1/(1 - rate).

    Larsson et al. 2016 (1605.07648), in the per-example form of NASNet and AmoebaNet. The rate may
    be traced, so that it can grow as training proceeds.
    """
    keep = 1 - jnp.asarray(rate, jnp.float32)
    mask = jax.random.bernoulli(key, keep, (len(x),) + (1,) * (x.ndim - 1))
    return x * (mask / keep).astype(x.dtype)
