"""IGCV2: the number of paths through a product of sparse convolutions."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cls.errors import UserError
from cls.models.igcv2 import complete
from cls.nn.conv import Conv
from cls.nn.igc import InterleavedConv


def paths(features, branches):
    """Returns the block of ones, without normalization, for each unit input: (inputs, outputs)."""
    conv = lambda *args, **how: Conv(*args, kernel_init=nn.initializers.ones, **how)  # noqa: E731
    groups = (features, *(features // k for k in branches))
    block = InterleavedConv(features, groups, conv, lambda name: lambda x: x)
    units = jnp.eye(features)[:, None, None]
    return np.asarray(block.init_with_output({'params': jnp.zeros(2, 'uint32')}, units)[0])[:, 0, 0]


@pytest.mark.parametrize('branches', [(12, 2), (2, 12), (4, 6), (2, 3, 4)])
def test_one_path_from_each_input_to_each_output(branches):
    np.testing.assert_array_equal(paths(24, branches), np.ones((24, 24)))


def test_fewer_channels_in_a_group_leave_inputs_unseen():
    assert np.unique(paths(24, (2, 4))).tolist() == [0, 1]


def test_the_complementary_number_of_channels():
    assert complete((0, 2), 80) == (40, 2)
    assert complete((4, 0, 2), 64) == (4, 8, 2)
    assert complete((8, 8), 416) == (8, 8)
    with pytest.raises(UserError, match='do not divide 20'):
        complete((0, 8), 20)
