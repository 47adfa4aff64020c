"""Precise statistics against the population's, computed by NumPy from the same batches."""

import jax
import numpy as np
import pytest
import tiny

from cls.evaluate import evaluate_state, precise_variables
from cls.nn.norm import BatchNorm
from cls.setup import abstract_state
from cls.steps import sharding as meshes
from cls.train import train_batches

pytestmark = pytest.mark.usefixtures('quick_programs')


def on_mesh(setup, step=0):
    """A state of the tiny net on its devices, after `step` steps that changed nothing."""
    state, _ = setup.new_state()
    state = state.replace(step=np.int32(step))
    where = abstract_state(state, setup.mesh)
    return meshes.put(state, jax.tree.map(lambda x: x.sharding, where))


def by_numpy(setup, params, batches):
    """{'norm1', 'norm2'} -> (mean, variance) of each norm's input over all batches, in float64."""
    params = jax.tree.map(np.float64, params)
    images = [np.float64(batch['image']) for batch in batches]
    xs = [(x - setup.recipe.mean[0]) / setup.recipe.std[0] for x in images]
    seen = {'norm1': np.concatenate(xs)}
    after = []
    for x in xs:  # of the batch alone, as in training
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        x = x * params['norm1']['scale'] + params['norm1']['bias']
        after.append(np.maximum(x @ params['body']['kernel'] + params['body']['bias'], 0))
    seen['norm2'] = np.concatenate(after)
    return {name: (x.mean((0, 1, 2)), x.var((0, 1, 2))) for name, x in seen.items()}


@pytest.mark.parametrize(('devices', 'accumulate', 'step'), [(1, 1, 5), (8, 1, 0), (1, 2, 5)])
def test_statistics_are_the_populations(devices, accumulate, step):
    """40 examples are three batches of 16, or five of 8; those that come next in training."""
    overrides = (('eval.precise_bn', '40'), ('accumulate', str(accumulate)))
    setup = tiny.setup(*overrides, devices=devices)
    state = on_mesh(setup, step)
    found = precise_variables(setup, state, state.variables())

    iterator = train_batches(setup)
    iterator.set_state({'step': step})
    whole = [next(iterator) for _ in range(3)]
    iterator.close()
    if accumulate == 1:
        batches = whole
    else:
        batches = [{'image': b['image'][i : i + 8]} for b in whole for i in (0, 8)][:5]
    for name, (mean, var) in by_numpy(setup, state.params, batches).items():
        np.testing.assert_allclose(found['batch_stats'][name]['mean'], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found['batch_stats'][name]['var'], var, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found['params'], state.params)


def test_moments_of_a_norm_in_groups_are_those_of_the_batch():
    x = np.random.default_rng(0).normal(3, 2, (8, 3, 3, 2)).astype(np.float32)
    layer = BatchNorm(True, group=2)
    variables = {
        'params': {'scale': np.ones(2), 'bias': np.zeros(2)},
        'batch_stats': {'mean': np.zeros(2), 'var': np.ones(2)},
    }
    _, updated = layer.apply(variables, x, mutable=['batch_stats', 'moments'])
    np.testing.assert_allclose(updated['moments']['mean'][0], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(updated['moments']['var'][0], x.var((0, 1, 2)), rtol=1e-5)


def test_they_are_reported_beside_the_plain_ones_for_weights_and_average():
    plain = tiny.setup(('ema', '0.9'))
    setup = tiny.setup(('ema', '0.9'), ('eval.precise_bn', '100'))
    state = on_mesh(setup)
    values = evaluate_state(setup, setup.eval_step(), state)
    assert evaluate_state(plain, plain.eval_step(), state).items() <= values.items()
    names = {'test', 'test_ema', 'test_precise', 'test_ema_precise'}
    assert {name.split('/')[0] for name in values} == names
    assert values['test_precise/loss'] != values['test/loss']
    # the average has just begun at the weights
    assert values['test_ema_precise/loss'] == values['test_precise/loss']
