"""Channel attention against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.nn.attention import SqueezeExcite
from cls.nn.conv import Conv

RNG = np.random.default_rng(8)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ('options', 'act', 'gate', 'names'),
    [
        ({}, lambda x: np.maximum(x, 0), sigmoid, ('fc1', 'fc2')),
        (
            {'act': jax.nn.silu, 'gate': jnp.tanh, 'names': ('a', 'b')},
            lambda x: x * sigmoid(x),
            np.tanh,
            ('a', 'b'),
        ),
    ],
)
def test_squeeze_excite(options, act, gate, names):
    x = RNG.standard_normal((2, 5, 4, 6)).astype(np.float32)
    unit = SqueezeExcite(3, functools.partial(Conv, bias_init=jax.nn.initializers.ones), **options)
    variables = unit.init(jax.random.key(0), x)
    assert tuple(sorted(variables['params'])) == names
    first, second = (variables['params'][name] for name in names)
    assert (first['kernel'].shape, second['kernel'].shape) == ((1, 1, 6, 3), (1, 1, 3, 6))
    s = act(x.mean((1, 2)) @ first['kernel'][0, 0] + 1)
    s = gate(s @ second['kernel'][0, 0] + 1)
    expected = x * np.asarray(s)[:, None, None]
    np.testing.assert_allclose(unit.apply(variables, x), expected, rtol=1e-5, atol=1e-6)
