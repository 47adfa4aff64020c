"""The first convolution for images of another number of channels."""

import jax
import numpy as np
import pytest

from cls.errors import UserError
from cls.weights import stem

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)


def convolved(images, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), 'SAME', dimension_numbers=numbers)


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 13])
def test_an_image_of_equal_channels_gives_the_outputs_of_the_color_network(channels):
    gray = np.random.default_rng(1).normal(size=(2, 6, 7, 1)).astype(np.float32)
    kernel = stem.adapted(KERNEL, channels)
    assert kernel.shape == (3, 3, channels, 5) and kernel.dtype == np.float32
    ours = convolved(np.repeat(gray, channels, axis=3), kernel)
    if channels in (1, 6):  # whole copies of the colors
        theirs = convolved(np.repeat(gray, 3, axis=3), KERNEL)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    order = [0, 1, 2] * 5
    expected = KERNEL[:, :, order[:channels]] * 3 / channels
    expected = KERNEL.sum(2, keepdims=True) if channels == 1 else expected
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=1e-6)


def test_a_gray_kernel_becomes_one_of_colors():
    gray = stem.adapted(KERNEL, 1)
    images = np.repeat(np.ones((1, 5, 5, 1), np.float32), 3, axis=3)
    ours = convolved(images, stem.adapted(gray, 3))
    np.testing.assert_allclose(ours, convolved(images[..., :1], gray), atol=1e-5)


def test_only_one_convolution_can_be_the_first():
    given = {('params', 'a', 'kernel'): KERNEL, ('params', 'b', 'kernel'): KERNEL}
    wanted = {path: np.zeros((3, 3, 1, 5)) for path in given}
    with pytest.raises(UserError, match='2 convolutions .*a/kernel, b/kernel'):
        stem.adapt(given, wanted, 1)
    wanted[('params', 'b', 'kernel')] = KERNEL
    adapted, line = stem.adapt(given, wanted, 1)
    assert line == 'a/kernel adapted to images of 1 channel(s): the sum over its 3'
    assert adapted[('params', 'b', 'kernel')] is KERNEL
    # A convolution of another depth is no first one.
    assert stem.adapt(given, {path: np.zeros((3, 3, 8, 5)) for path in given}, 1)[1] == ''
