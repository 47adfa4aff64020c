"""Drop path: the share of dropped examples, and the scale of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.drop import drop_path

dropped = jax.jit(drop_path)


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.8])
def test_examples_are_dropped_and_the_rest_scaled(rate):
    n = 20_000
    x = np.random.default_rng(0).uniform(1, 2, (n, 2, 1, 3)).astype(np.float32)
    out = np.asarray(dropped(x, rate, jax.random.key(0)))
    is_dropped = np.all(out == 0, axis=(1, 2, 3))
    np.testing.assert_array_equal(is_dropped, np.any(out == 0, axis=(1, 2, 3)))
    np.testing.assert_allclose(out[~is_dropped], x[~is_dropped] / (1 - rate), rtol=1e-5)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(is_dropped.mean() - rate) < 4 * deviation


def test_rate_zero_is_the_identity():
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    np.testing.assert_array_equal(dropped(x, 0.0, jax.random.key(1)), x)


def test_keys_decide():
    x = jnp.ones((64, 1))
    one, again, other = (dropped(x, 0.5, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)


def test_gradient_is_the_mask():
    x = jnp.ones((64, 3))
    key = jax.random.key(3)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(drop_path(x, 0.25, key))))(x)
    np.testing.assert_array_equal(gradient, dropped(x, 0.25, key))


def test_bfloat16_stays_bfloat16():
    assert dropped(jnp.ones((4, 2), jnp.bfloat16), 0.5, jax.random.key(0)).dtype == jnp.bfloat16
