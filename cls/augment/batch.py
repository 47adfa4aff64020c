"""Helpers for batches of images."""

from collections.abc import Callable

import jax


def column(values: jax.Array) -> jax.Array:
    """Returns values (N,) as (N, 1, 1, 1)."""
    return values[:, None, None, None]


def channels(images: jax.Array) -> list[jax.Array]:
    """Returns the channels of images (N, H, W, C), each (N, H, W, 1).

    On CPUs, XLA computes with these much faster than it reduces an axis of three values.
    """
    return [images[..., i : i + 1] for i in range(images.shape[-1])]


def one_by_one(cpu: Callable, elsewhere: Callable, *arrays: jax.Array) -> jax.Array:
    """Returns elsewhere(*arrays); on CPUs cpu(*arrays) with one row of the arrays after the other.

    In a loop over images, each takes its own branch, and an image of 224 pixels stays in a core's
    cache from one operation to the next. TPUs and GPUs compute on the whole batch at once.

    Args:
      cpu: maps arrays with a first axis of 1 to an array with a first axis of 1.
      elsewhere: as `cpu`, for a first axis of any length.
      *arrays: (N, ...).

    Returns:
      (N, ...).
    """

    def loop(*arrays):
        return jax.lax.map(lambda rows: cpu(*(x[None] for x in rows))[0], arrays)

    return jax.lax.platform_dependent(*arrays, cpu=loop, default=elsewhere)
