"""PReLU networks beyond their golden rows: initial values, slopes and the pyramid."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls import models
from cls.config import load as configs
from cls.models.prelunet import PReLU, spatial_pyramid
from cls.models.registry.init import init
from cls.steps.optim import OptimSpec, make_optimizer

RNG = np.random.default_rng(7)


def test_initial_values_are_those_of_the_paper():
    model = models.create('prelunet_14', widths=(32, 32), stem_width=16, hidden=64, pyramid=(1,))
    params = init(model, 0, 32)['params']
    for name, layer in params.items():
        if name.startswith('prelu'):
            np.testing.assert_array_equal(layer['weight'], 0.25)
            continue
        assert not layer['bias'].any()
        *window, fan_in, fan_out = layer['kernel'].shape
        fan = math.prod(window) * fan_out if name.startswith('conv') else fan_in
        tolerance = 4 / math.sqrt(2 * layer['kernel'].size)
        assert layer['kernel'].std() == pytest.approx(math.sqrt(2 / fan), rel=tolerance), name


def test_slopes_learn_and_do_not_decay():
    x = jnp.asarray([[-2.0, -3.0], [5.0, -7.0]])
    params = {'params': {'weight': jnp.asarray([0.5, 0.1])}}
    gradient = jax.grad(lambda p: jnp.sum(PReLU().apply(p, x)))(params)['params']
    np.testing.assert_array_equal(gradient['weight'], [-2, -10])
    spec = OptimSpec.from_config(configs.load('configs/prelunet.py'))
    params = {'params': {'weight': jnp.ones(2)}, 'fc1': {'kernel': jnp.ones((2, 2))}}
    optimizer = make_optimizer(spec, lambda step: 1.0, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert not updates['params']['weight'].any()
    np.testing.assert_allclose(updates['fc1']['kernel'], -spec.weight_decay)


def test_the_pyramid_is_maxima_over_bins_in_pytorchs_order():
    x = RNG.standard_normal((2, 4, 4, 3)).astype(np.float32)
    quarters = [x[:, i : i + 2, j : j + 2].max((1, 2)) for i in (0, 2) for j in (0, 2)]
    expected = np.concatenate([np.stack(quarters, 2).reshape(2, -1), x.max((1, 2))], 1)
    np.testing.assert_array_equal(spatial_pyramid(jnp.asarray(x), (2, 1)), expected)
