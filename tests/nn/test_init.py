"""Initializers: mean, deviation, bounds and quantiles of draws by JAX and by NumPy."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit
from flax.errors import FlaxError, ScopeParamShapeError

from cls.models.prelunet import PReLU
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm

SHAPE = (3, 3, 40, 80)  # fans 360 and 720
N = math.prod(SHAPE)
FANS = {'fan_in': 360, 'fan_out': 720, 'fan_avg': 540}


def by_numpy(initializer, shape=SHAPE):
    x = initializer.draw(np.random.default_rng(0), shape)
    assert (x.shape, x.dtype) == (shape, np.float32)
    return np.asarray(x, np.float64)


def by_jax(initializer, shape=SHAPE):
    x = jit(lambda key: initializer(key, shape))(jax.random.key(0))
    assert (x.shape, x.dtype) == (shape, np.float32)
    return np.asarray(x, np.float64)


def quantiles(x, std):
    return np.quantile(x / std, [0.05, 0.25, 0.5, 0.75, 0.95])


NORMAL = [-1.645, -0.674, 0, 0.674, 1.645]
UNIFORM = [math.sqrt(3) * q for q in (-0.9, -0.5, 0, 0.5, 0.9)]
# The standard normal truncated at 2 has a deviation of 0.8796; its quantile q is the normal's at
# 0.02275 + q * 0.9545.
CUT = [q / 0.87962566 for q in (-1.4726, -0.6375, 0, 0.6375, 1.4726)]


DISTRIBUTIONS = {  # quantiles and largest value, in standard deviations
    'normal': (NORMAL, None),
    'uniform': (UNIFORM, math.sqrt(3)),
    'truncated_normal': (CUT, 2 / 0.87962566),
}


def check_scaled(x, scale, fan, distribution):
    std = math.sqrt(scale / FANS[fan])
    expected, bound = DISTRIBUTIONS[distribution]
    assert abs(x.mean()) < 4.5 * std / math.sqrt(N)
    assert x.std() == pytest.approx(std, rel=0.018)
    np.testing.assert_allclose(quantiles(x, std), expected, atol=0.05)
    if bound is None:
        assert np.abs(x).max() > 3.5 * std
    else:
        assert 0.99 * bound * std < np.abs(x).max() <= bound * std * (1 + 1e-6)


@pytest.mark.parametrize('fan', FANS)
@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
@pytest.mark.parametrize('scale', [1 / 3, 2.0])
def test_variance_scaling_on_the_host(scale, fan, distribution):
    drawn = by_numpy(init.VarianceScaling(scale, fan, distribution))
    check_scaled(drawn, scale, fan, distribution)


@pytest.mark.parametrize(
    ('scale', 'fan', 'distribution'),
    [(2.0, 'fan_out', 'truncated_normal'), (2.0, 'fan_in', 'normal'), (1.0, 'fan_avg', 'uniform')],
)
def test_variance_scaling_in_jax(scale, fan, distribution):
    drawn = by_jax(init.VarianceScaling(scale, fan, distribution))
    check_scaled(drawn, scale, fan, distribution)


def test_fans_of_a_matrix_and_of_a_depthwise_kernel():
    for shape, std in (((400, 300), math.sqrt(2 / 400)), ((5, 5, 1, 4000), math.sqrt(2 / 25))):
        assert by_numpy(init.he_normal, shape).std() == pytest.approx(std, rel=0.012)


@pytest.mark.parametrize(
    ('initializer', 'variance'),
    [
        (init.he_normal, 2 / 360),
        (init.he_normal_fan_out, 2 / 720),
        (init.VarianceScaling(1.0, 'fan_avg', 'uniform'), 2 / (360 + 720)),
    ],
)
def test_named_ones(initializer, variance):
    x = by_numpy(initializer)
    assert x.var() == pytest.approx(variance, rel=0.035)
    assert abs(x.mean()) < 4.5 * math.sqrt(variance / N)


def test_constants():
    for initializer, value in ((init.zeros, 0), (init.ones, 1), (init.Constant(-2.5), -2.5)):
        for draw in (by_numpy, by_jax):
            np.testing.assert_array_equal(draw(initializer, (7,)), np.full(7, value))


def test_indices_and_masks():
    for initializer, shape, expected in (
        (init.counting, (4,), np.arange(4, dtype=np.int32)),
        (init.all_true, (2, 3), np.ones((2, 3), bool)),
    ):
        for x in (initializer.draw(None, shape), initializer(None, shape)):
            assert x.dtype == expected.dtype
            np.testing.assert_array_equal(x, expected)


def test_draws_follow_the_generator():
    draw = init.VarianceScaling(1.0, 'fan_in', 'truncated_normal').draw
    one, again, other = (draw(np.random.default_rng(seed), (50, 60)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.mean(one == other) < 0.01


def test_a_uniform_draw_in_blocks_is_that_of_all_at_once(monkeypatch):
    initializer = init.VarianceScaling(3.0, 'fan_in', 'uniform')  # variance 3 / 300
    monkeypatch.setattr(init, '_BLOCK', 7)
    drawn = initializer.draw(np.random.default_rng(4), (3, 100, 5))
    whole = np.random.default_rng(4).uniform(-1, 1, (3, 100, 5)).astype(np.float32)
    np.testing.assert_array_equal(drawn, whole * np.float32(0.1 * math.sqrt(3)))


def test_dense_is_drawn_as_by_pytorch():
    layer = Dense(500)
    params = jit(layer.init)(jax.random.key(0), jnp.ones((1, 100)))['params']
    assert 0.099 < np.abs(params['kernel']).max() <= 0.1  # 1 / sqrt(100)
    assert np.std(params['kernel']) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    np.testing.assert_array_equal(params['bias'], np.zeros(500))


def test_the_initializer_of_a_given_parameter_is_not_traced():
    drawn = []

    def draw(key, shape, dtype):
        drawn.append(shape)
        return jnp.full(shape, 3, dtype)

    images = jnp.ones((1, 5, 5, 2))
    layers = [
        Conv(4, 3, use_bias=True, kernel_init=draw, bias_init=draw),
        BatchNorm(False, scale_init=draw, bias_init=draw),
        PReLU(weight_init=draw),
    ]
    shapes = [[(3, 3, 2, 4), (4,)], [(2,), (2,)], [(2,)]]
    for layer, expected in zip(layers, shapes, strict=True):
        drawn.clear()
        variables = layer.init(jax.random.key(0), images)
        assert drawn == expected
        assert all(jax.tree.leaves(jax.tree.map(lambda x: (x == 3).all(), variables['params'])))
        layer.apply(variables, images)
        assert drawn == expected
        with pytest.raises(
            ScopeParamShapeError, match=r'generate shape .*1.* received has shape .*2'
        ):
            layer.apply({'params': variables['params']}, images[..., :1], mutable=['batch_stats'])


def test_a_parameter_is_refused_as_by_flax():
    class Scale(nn.Module):
        ours: bool

        @nn.compact
        def __call__(self, x):
            shape = x.shape[-1:]
            if self.ours:
                return x * init.parameter(self, 'scale', init.ones, shape)
            return x * self.param('scale', init.ones, shape, jnp.float32)

    def refusal(ours, given):
        with pytest.raises(FlaxError) as error:
            nn.Sequential([Scale(ours)]).apply({'params': {'layers_0': given}}, jnp.ones((1, 3)))
        return type(error.value), str(error.value)

    for given in ({'scale': jnp.ones(2)}, {'bias': jnp.ones(3)}, {}):
        assert refusal(True, given) == refusal(False, given)
