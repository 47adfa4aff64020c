"""The channel shuffle, to mix the groups of successive grouped convolutions."""

import jax


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Returns x (N, H, W, C) with the channels of `groups` equal groups interleaved.

    First come the first channels of all groups, then all second ones, and so on (ShuffleNet, Zhang
    et al. 2018, 1707.01083, section 3.1).
    """
    channels = x.shape[-1]
    return x.reshape(*x.shape[:-1], groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)
