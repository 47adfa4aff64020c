"""A shortcut without parameters for residual nets that change shape."""

import jax
import jax.numpy as jnp

from cls.nn.pool import avg_pool


def pooled(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Means over strides x strides pixels of (N, H, W, C), and zeros behind the C channels.

    As in the authors' code of stochastic depth (1603.09382) and of PyramidNet (1610.02915), who
    write their nets for even sizes; of an odd one the last mean is over the pixels that are left.
    """
    if strides > 1:
        x = avg_pool(x, strides, strides, ceil_mode=True)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
