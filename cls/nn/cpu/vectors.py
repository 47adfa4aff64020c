"""Arrays side by side, by the extension. Only for programs for one CPU device.

For XLA's compiler for CPUs each of these operations is a kernel of its own.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cls.nn.cpu.native import ffi


def join(arrays: Sequence[jax.Array]) -> jax.Array:
    """Returns the elements of float32 arrays, one array after the other, as a vector."""
    return _joined(arrays, 1, (sum(x.size for x in arrays),))


def concat(*arrays: jax.Array) -> jax.Array:
    """Returns float32 arrays (..., C_i) side by side: (..., sum of C_i)."""
    *outer, _ = arrays[0].shape
    return _joined(arrays, math.prod(outer), (*outer, sum(x.shape[-1] for x in arrays)))


def _joined(arrays, rows, shape):
    return ffi('cls_join', jax.ShapeDtypeStruct(shape, jnp.float32))(*arrays, rows=np.int64(rows))


def split(joined: jax.Array, shapes: Sequence[tuple[int, ...]]) -> Sequence[jax.Array]:
    """Returns the arrays of a joined vector.

    Raises ValueError if the shapes do not have all elements of the vector.
    """
    size = sum(map(math.prod, shapes))
    if size != joined.size:
        raise ValueError(f'{size} elements in the shapes, {joined.size} in the vector')
    return ffi('cls_split', [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])(joined)
