"""Regularisers that drop whole paths at random while training (for elements: flax's Dropout)."""

import flax.linen as nn
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


def path_of(module: nn.Module, x: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Returns `drop_path` with a key of the module's; x itself, and no key taken, at a rate of 0.0.

    A traced rate may be 0 too, but says so too late: evaluation, which has no keys, gives 0.0.
    """
    if isinstance(rate, float) and rate == 0:
        return x
    return drop_path(x, rate, module.make_rng('dropout'))
