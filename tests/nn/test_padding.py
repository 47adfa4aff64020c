"""Conventions of padding against values computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.conv import conv
from cls.nn.padding import explicit_padding


@pytest.mark.parametrize(
    ('padding', 'n', 'k', 'stride', 'dilation', 'expected'),
    [
        (None, 224, 7, 2, 1, (3, 3)),
        ('SAME', 224, 7, 2, 1, (2, 3)),
        (None, 224, 3, 2, 1, (1, 1)),
        ('SAME', 224, 3, 2, 1, (0, 1)),
        ('SAME', 225, 3, 2, 1, (1, 1)),
        (None, 56, 3, 1, 1, (1, 1)),
        ('SAME', 56, 3, 1, 1, (1, 1)),
        (None, 8, 2, 1, 1, (0, 0)),
        ('SAME', 8, 2, 1, 1, (0, 1)),
        ('SAME', 8, 1, 2, 1, (0, 0)),
        (None, 8, 3, 1, 2, (2, 2)),
        ('SAME', 8, 5, 2, 2, (3, 4)),
        ('SAME', 7, 3, 3, 1, (1, 1)),
        ('VALID', 8, 5, 2, 1, (0, 0)),
        (2, 8, 3, 1, 1, (2, 2)),
    ],
)
def test_paddings_computed_by_hand(padding, n, k, stride, dilation, expected):
    pads = explicit_padding(padding, (n, 9), (k, 1), (stride, 1), (dilation, 1))
    assert pads[0] == expected


def test_paddings_are_by_axis():
    args = ((8, 8), (3, 3), (1, 1))
    assert explicit_padding((1, 2), *args) == ((1, 1), (2, 2))
    assert explicit_padding(((1, 2), (3, 4)), *args) == ((1, 2), (3, 4))
    assert explicit_padding('SAME', (6, 7), (3, 5), (2, 2)) == ((0, 1), (2, 2))


def test_symmetric_and_same_see_other_pixels():
    """The sums over a ramp at stride 2: with symmetric padding, windows are one pixel earlier."""
    ramp = jnp.arange(6.0).reshape(1, 1, 6, 1)
    kernel = jnp.ones((1, 3, 1, 1))
    symmetric = conv(ramp, kernel, strides=(1, 2), padding=None)
    same = conv(ramp, kernel, strides=(1, 2), padding='SAME')
    np.testing.assert_array_equal(symmetric.ravel(), [0 + 0 + 1, 1 + 2 + 3, 3 + 4 + 5])
    np.testing.assert_array_equal(same.ravel(), [0 + 1 + 2, 2 + 3 + 4, 4 + 5 + 0])
