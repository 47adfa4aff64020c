"""Channels in another order, so that grouped convolutions that follow each other mix."""

import jax


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleaves the channels of `groups` equal groups: (N, H, W, C) -> the same shape.

    The first channel of each group comes first, then the second of each, and so on
    (ShuffleNet, Zhang et al. 2018, 1707.01083, section 3.1).
    """
    channels = x.shape[-1]
    return x.reshape(*x.shape[:-1], groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)
