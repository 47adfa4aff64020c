"""The channel shuffle against its definition."""

import jax.numpy as jnp
import numpy as np

from cls.nn.shuffle import channel_shuffle


def test_a_shuffle_interleaves_the_groups():
    channels = jnp.arange(2 * 12).reshape(2, 1, 1, 12)
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]  # three groups of four
    np.testing.assert_array_equal(channel_shuffle(channels, 3)[0, 0, 0], expected)
    np.testing.assert_array_equal(channel_shuffle(channels, 3)[1, 0, 0], np.add(expected, 12))


def test_a_shuffle_by_as_many_groups_as_a_group_had_channels_undoes_it():
    x = jnp.arange(2 * 3 * 5 * 12).reshape(2, 3, 5, 12)
    np.testing.assert_array_equal(channel_shuffle(channel_shuffle(x, 3), 4), x)
