"""FractalNet: single columns, and the sampling of drop path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import FAST

from cls import models
from cls.errors import UserError
from cls.models.fractalnet import join, live_inputs
from cls.models.registry.init import init

RNG = np.random.default_rng(8)
IMAGES = RNG.standard_normal((4, 8, 8, 3)).astype(np.float32)
COLUMNS = (1, 2, 3)


def make(**fields):
    small = {'widths': (6, 8), 'dropout_rate': 0.0, **fields}
    return models.create('fractalnet20_c3_cifar', **small)


@functools.cache
def variables():
    """Returns random variables, with random batch statistics too."""
    drawn = init(make(), 0, 8)
    drawn['batch_stats'] = jax.tree.map(
        lambda x: RNG.uniform(0.5, 1.5, x.shape).astype(np.float32), drawn['batch_stats']
    )
    return drawn


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
def apply(model, train, key):
    rngs = {'dropout': key}
    return model.apply(variables(), IMAGES, train, rngs=rngs, mutable=['batch_stats'])[0]


def plain_network(column):
    """Returns the logits of a column: 2^(column-1) layers, then a pool, in each of two blocks."""
    x = IMAGES
    for unit in ('unit1', 'unit2'):
        params, stats = (variables()[kind][unit] for kind in ('params', 'batch_stats'))
        for i in range(1, 2 ** (column - 1) + 1):
            name = f'block{i * 2 ** (3 - column)}.subblock{4 - column}'
            kernel, bn, running = params[name]['conv'], params[name]['bn'], stats[name]['bn']
            x = jax.lax.conv_general_dilated(
                x, kernel['kernel'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
            )
            x = (x - running['mean']) / np.sqrt(running['var'] + 1e-5)
            x = np.maximum(x * bn['scale'] + bn['bias'], 0)
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    output = variables()['params']['output']
    return x.mean((1, 2)) @ output['kernel'] + output['bias']


@pytest.mark.parametrize('column', COLUMNS)
def test_a_column_alone_is_a_plain_network(column):
    ours = apply(make(column=column), False, jax.random.key(0))
    np.testing.assert_allclose(ours, plain_network(column), rtol=1e-4, atol=1e-5)


def test_an_unknown_column_is_refused():
    for column in (-1, 4):
        with pytest.raises(UserError, match='1 to 3'):
            make(column=column).apply(variables(), IMAGES)


def test_a_network_with_one_column_has_the_variables_of_all():
    shapes = [
        jax.tree.map(jnp.shape, models.abstract_variables(make(column=column), 8))
        for column in (0, 2)
    ]
    assert shapes[0] == shapes[1]


def test_global_drop_path_trains_one_column_of_the_network():
    alone = [np.asarray(apply(make(column=c), True, jax.random.key(0))) for c in COLUMNS]
    model = make(global_drop_rate=1.0)
    seen = set()
    for seed in range(12):
        logits = np.asarray(apply(model, True, jax.random.key(seed)))
        errors = [np.abs(logits - one).max() for one in alone]
        assert min(errors) < 1e-5
        seen.add(int(np.argmin(errors)))
    assert seen == {0, 1, 2}


def test_the_coin_between_local_and_global():
    never = [np.asarray(apply(make(global_drop_rate=0.0), True, jax.random.key(s))) for s in (0, 1)]
    assert np.abs(never[0] - never[1]).max() > 1e-3
    key = jax.random.key(0)
    # Without dropped inputs, a local sample is the full network; half of the samples are local.
    full = np.asarray(apply(make(global_drop_rate=0.0, local_drop_rate=0.0), True, key))
    model = make(local_drop_rate=0.0)
    local = [
        np.abs(np.asarray(apply(model, True, jax.random.key(s))) - full).max() < 1e-5
        for s in range(40)
    ]
    assert 10 < sum(local) < 30


@functools.partial(jax.jit, static_argnums=1, compiler_options=FAST)
def many(keys, columns, chosen, rate):
    return jax.vmap(lambda key: live_inputs(key, columns, chosen, rate))(keys)


def test_a_join_loses_inputs_and_never_all():
    def sample(columns, chosen, rate, count=4000):
        return np.asarray(many(jax.random.split(jax.random.key(1), count), columns, chosen, rate))

    live = sample((1, 2, 3), 0, 0.15)
    assert live.any(1).all()
    # An input survives if it is kept, or if all three are dropped and it is drawn.
    np.testing.assert_allclose(live.mean(0), 0.85 + 0.15**3 / 3, atol=0.02)
    # At a rate of one a single input survives, each equally often.
    live = sample((1, 2, 3), 0, 1.0)
    assert (live.sum(1) == 1).all()
    np.testing.assert_allclose(live.mean(0), 1 / 3, atol=0.03)
    np.testing.assert_array_equal(sample((2, 3), 2, 0.15, 5), [[True, False]] * 5)
    assert sample((2, 3), 1, 0.15, 5).all()  # column 1 does not reach this join


def test_a_join_is_the_mean_of_its_live_inputs():
    inputs = [jnp.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)]
    assert join(inputs) == 3
    assert join(inputs, jnp.asarray([True, False, True])) == pytest.approx(3.5)
