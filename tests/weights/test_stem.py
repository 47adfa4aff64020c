"""First convolutions for images with other channels than the weights."""

import numpy as np
import pytest

from cls.weights import stem

RED, GREEN, BLUE = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
KERNEL = np.stack([RED, GREEN, BLUE], axis=2)


@pytest.mark.parametrize(
    ('channels', 'expected'),
    [
        (1, [RED + GREEN + BLUE]),
        (2, [1.5 * RED, 1.5 * GREEN]),
        (4, [0.75 * RED, 0.75 * GREEN, 0.75 * BLUE, 0.75 * RED]),
    ],
)
def test_kernels_are_summed_or_repeated(channels, expected):
    np.testing.assert_allclose(stem.adapted_kernel(KERNEL, channels), np.stack(expected, 2), 1e-5)
