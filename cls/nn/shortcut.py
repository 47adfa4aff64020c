"""A shortcut without parameters for residual networks that change shape."""

import jax
import jax.numpy as jnp

from cls.nn.pool import avg_pool


def pooled(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Returns the means over strides x strides pixels, with channels of zeros appended.

    As in the authors' code of stochastic depth (1603.09382) and PyramidNet (1610.02915). Their
    networks have even sizes; of an odd size, the last mean is over the remaining pixels.

    Args:
      x: (N, H, W, C).
      features: channels of the result, at least C.
      strides: pixels of a mean in height and in width.

    Returns:
      (N, H / strides, W / strides, features), rounded up.
    """
    if strides > 1:
        x = avg_pool(x, strides, strides, ceil_mode=True)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))
