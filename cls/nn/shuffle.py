"""Channels of groups, interleaved."""

import jax


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleaves the groups of channels of x (..., C): channel i of group g moves to i groups + g.

    Zhang et al. 2018 (1707.01083, section 3.1). C is a multiple of `groups`.
    """
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return split.swapaxes(-1, -2).reshape(x.shape)
