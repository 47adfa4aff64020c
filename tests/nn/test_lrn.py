"""Local response normalization against its definition, channel by channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.norm import local_response_norm

RNG = np.random.default_rng(11)


@pytest.mark.parametrize('constants', [(5, 1e-4, 0.75, 2.0), (3, 0.5, 0.6, 1.5)])
def test_values_are_those_of_the_definition(constants):
    size, alpha, beta, k = constants
    x = RNG.standard_normal((2, 3, 2, 7)) * 30
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - size // 2) : min(7, i + size // 2 + 1)]
        expected[..., i] = x[..., i] / (k + alpha * np.sum(near**2, -1)) ** beta
    ours = local_response_norm(jnp.asarray(x, jnp.float32), *constants)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert np.abs(expected * k**beta / x - 1).max() > 0.01  # neighbors matter


def test_defaults_are_krizhevskys():
    x = jnp.full((1, 5), 100.0)
    near = np.array([3, 4, 5, 4, 3]) * 1e4
    expected = 100 / (2 + 1e-4 * near) ** 0.75
    np.testing.assert_allclose(local_response_norm(x)[0], expected, rtol=1e-6)


def test_bfloat16_stays_bfloat16_and_gradients_are_finite_at_zero():
    x = jnp.zeros((1, 2, 2, 4), jnp.bfloat16)
    gradient = jax.grad(lambda x: local_response_norm(x).sum().astype(jnp.float32))(x)
    assert local_response_norm(x).dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), 2**-0.75, rtol=1e-2)
