"""Permutations of channels between grouped convolutions."""

import jax


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of each of `groups` groups out to new groups: (N, H, W, C) -> the same.

    Channel i of group g moves to place i * groups + g (Zhang et al. 2018, 1707.01083, section 3.1),
    so that the next convolution's groups, if there are as many, take from all of these.
    """
    shape = x.shape
    x = x.reshape(*shape[:-1], groups, shape[-1] // groups)
    return x.swapaxes(-1, -2).reshape(shape)
