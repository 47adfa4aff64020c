"""Bilinear interpolation against planes, a loop in NumPy, and an example by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.resize import bilinear

RNG = np.random.default_rng(3)
SIZES = [((2, 3), (5, 7)), ((4, 4), (8, 8)), ((7, 5), (4, 2)), ((1, 2), (3, 2)), ((3, 3), (1, 1))]


def at(image, row, column):
    """Returns the value at a position between pixels, weighted by the opposite areas."""
    total = 0.0
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            total += max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j)) * image[i, j]
    return total


@pytest.mark.parametrize(('size', 'new'), SIZES)
def test_each_pixel_is_the_mean_of_its_neighbors_weighted_by_nearness(size, new):
    images = RNG.standard_normal((2, *size, 3)).astype(np.float32)
    out = np.asarray(bilinear(images, new))
    assert out.shape == (2, *new, 3)
    scale = [(n - 1) / (m - 1) if m > 1 else 0 for n, m in zip(size, new, strict=True)]
    for i in range(new[0]):
        for j in range(new[1]):
            expected = [at(x, i * scale[0], j * scale[1]) for x in images]
            np.testing.assert_allclose(out[:, i, j], expected, rtol=1e-5, atol=1e-6)


def test_corners_stay_and_a_plane_stays_a_plane():
    rows, columns = np.mgrid[0:3:3j, 0:10:4j]
    wide_rows, wide_columns = np.mgrid[0:3:7j, 0:10:9j]
    plane, wide = (
        np.float32(2 + r - 3 * c)[None, ..., None]
        for r, c in ((rows, columns), (wide_rows, wide_columns))
    )
    np.testing.assert_allclose(bilinear(plane, (7, 9)), wide, rtol=1e-5, atol=1e-5)


def test_doubling_by_hand():
    out = bilinear(jnp.asarray([0.0, 3.0]).reshape(1, 1, 2, 1), (1, 4))
    np.testing.assert_allclose(out[0, 0, :, 0], [0, 1, 2, 3], atol=1e-6)


def test_the_type_stays_and_gradients_sum_to_those_of_the_outputs():
    images = jnp.ones((1, 3, 3, 1), jnp.bfloat16)
    assert bilinear(images, (5, 5)).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: bilinear(x, (6, 7)).sum())(jnp.ones((1, 3, 3, 1)))
    assert float(gradient.sum()) == pytest.approx(42, rel=1e-5)
