"""The norm of a tree of arrays, as a program of few operations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cls.steps import sharding as meshes


def global_norm(tree: Any) -> jax.Array:
    """Returns the square root of the sum of squares of all elements, a scalar.

    Networks have many small arrays: scales, biases, statistics of norms. A sum for each of them
    would be a third of all operations of a training step. They are joined first, and summed once;
    like these, arrays below MIN_SPLIT elements are on every device, so that nothing is sent.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree)]
    large = [x for x in leaves if x.size >= meshes.MIN_SPLIT]
    small = [x.ravel() for x in leaves if x.size < meshes.MIN_SPLIT]
    joined = [jnp.concatenate(small)] if small else []
    return jnp.sqrt(sum((jnp.sum(jnp.square(x)) for x in large + joined), jnp.zeros(())))


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Scales a gradient to the norm `largest` if its `global_norm` is larger (Pascanu et al. 2012).

    Equal to Optax's rule of this name up to the order of the sum.
    """

    def update(updates, _):
        norm = global_norm(updates)

        def clipped(x):
            return jnp.where(norm < largest, x, x / norm.astype(x.dtype) * largest)

        return jax.tree.map(clipped, updates)

    return optax.stateless(update)
