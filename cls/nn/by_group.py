"""Sums over groups of consecutive examples, and values of groups for their examples."""

import jax
import jax.numpy as jnp


def sums(x: jax.Array, groups: int) -> jax.Array:
    """Returns the sums (G, C) of x (N, ..., C) over groups of consecutive examples."""
    if groups == 1:
        return jnp.sum(x, range(x.ndim - 1))[None]
    # First the pixels: on TPU, a reshape that splits the axis of the examples copies x.
    examples = jnp.sum(x, range(1, x.ndim - 1))
    return jnp.sum(examples.reshape(groups, -1, examples.shape[-1]), 1)


def count(x: jax.Array, groups: int) -> int:
    """Returns the number of examples and pixels of x (N, ..., C) in a group."""
    return x.size // (x.shape[-1] * groups)


def spread(values: jax.Array, x: jax.Array) -> jax.Array:
    """Returns values (G, C), or (C,), in a shape that broadcasts to x (N, ..., C)."""
    values = values.reshape(-1, x.shape[-1])
    if len(values) > 1:
        values = jnp.repeat(values, len(x) // len(values), 0)
    return values.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])
