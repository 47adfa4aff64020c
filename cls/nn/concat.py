"""Concatenation of channels."""

import jax
import jax.numpy as jnp

from cls.nn.cpu import native, vectors


def concat(*arrays: jax.Array) -> jax.Array:
    """Returns arrays (..., C_i) side by side: (..., sum of C_i).

    Programs for one CPU device call the extension: a densely connected network concatenates other
    shapes in each layer, and XLA would compile a kernel for each.
    """

    def plain(*arrays: jax.Array) -> jax.Array:
        return jnp.concatenate(arrays, -1)

    if any(x.dtype != jnp.float32 for x in arrays):
        return plain(*arrays)
    return native.instead(plain, vectors.concat, *arrays)
