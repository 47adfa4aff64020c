"""Frozen values stay, to the bit; all others change by the formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from cls.errors import UserError
from cls.models.registry.init import init
from cls.steps import freeze
from cls.steps import sharding as meshes
from cls.steps.optim import OptimSpec, make_optimizer
from cls.steps.state import new_state
from cls.steps.train_step import Recipe, make_train_step

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(256, size=(12, 4, 4, 1)).astype(np.uint8)
BATCH = {
    'image': IMAGES,
    'label': np.arange(12, dtype=np.int32) % 10,
    'mask': np.ones(12, bool),
}
RECIPE = Recipe(
    total_steps=10,
    mean=(127.0,),
    std=(64.0,),
    flip=False,
    label_smoothing=0.0,
    aux_weight=0.0,
    accumulate=1,
    ema=0.9,
)
MESH = meshes.make_mesh(1, jax.devices()[:1])


def variables():
    """Of the tiny net, none of them at a value that an initialiser gives."""
    fresh = init(tiny.Tiny(), 0, 4, 1)
    return jax.tree.map(lambda x: np.float32(x + RNG.uniform(0.1, 0.5, x.shape)), fresh)


def train(start, steps=3, recipe=RECIPE, **fields):
    """(state before, state after)."""
    spec = OptimSpec(weight_decay=0.01, decay_mask='all', **fields)
    optimizer = make_optimizer(spec, lambda _: spec.lr, start['params'])
    state = new_state(start, optimizer, seed=0, ema=True)
    recipe = dataclasses.replace(recipe, freeze=spec.freeze)
    step = jax.jit(make_train_step(tiny.Tiny(), optimizer, recipe, meshes.batch_sharding(MESH)))
    after = state
    for _ in range(steps):
        after, _ = step(after, BATCH)
    return state, after


def names_of_changed(one, other):
    flat = jax.tree.leaves_with_path(one)
    return {
        '/'.join(entry.key for entry in path)
        for (path, x), y in zip(flat, jax.tree.leaves(other), strict=True)
        if np.any(x != y)
    }


@pytest.mark.parametrize(('name', 'accumulate'), [('sgd', 3), ('rmsprop', 1)])
def test_frozen_parameters_and_their_norms_stay_to_the_bit(name, accumulate):
    recipe = dataclasses.replace(RECIPE, accumulate=accumulate)
    before, after = train(variables(), recipe=recipe, name=name, freeze='^body|norm1|norm2/scale')
    moved = {'head/kernel', 'head/bias', 'norm2/bias'}
    assert names_of_changed(before.params, after.params) == moved
    assert names_of_changed(before.ema['params'], after.ema['params']) == moved
    # norm1 is frozen whole, norm2 in part
    moved = {'norm2/mean', 'norm2/var'}
    assert names_of_changed(before.batch_stats, after.batch_stats) == moved
    assert names_of_changed(before.ema['batch_stats'], after.ema['batch_stats']) == moved


def test_the_optimizer_keeps_nothing_of_what_is_frozen():
    state, _ = train(variables(), steps=0, name='rmsprop', freeze='^(body|norm)')
    shapes = sorted(x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert shapes == [(6, 10), (6, 10), (10,), (10,)]  # a mean square and a momentum of each


def forward(start):
    """In float64, with the running statistics: the classifier's input (N, 6)."""
    params, stats = (jax.tree.map(np.float64, start[name]) for name in ('params', 'batch_stats'))

    def norm(x, name):
        p, s = params[name], stats[name]
        return (x - s['mean']) / np.sqrt(s['var'] + 1e-5) * p['scale'] + p['bias']

    x = norm((IMAGES.astype(np.float64) - 127) / 64, 'norm1')
    x = np.maximum(x @ params['body']['kernel'] + params['body']['bias'], 0)
    return norm(x, 'norm2').mean((1, 2))


@pytest.mark.parametrize('how', ['frozen body', 'freeze_bn'])
def test_a_step_on_running_statistics_is_that_of_softmax_regression(how):
    """The net before the head is then a fixed function, whose head's gradient is known."""
    start = variables()
    if how == 'frozen body':
        _, after = train(start, steps=1, freeze='^(?!head)')
    else:
        recipe = dataclasses.replace(RECIPE, freeze_bn=True)
        before, after = train(start, steps=1, recipe=recipe)
        assert not names_of_changed(before.batch_stats, after.batch_stats)
        changed = names_of_changed(before.params, after.params)
        assert {'norm1/scale', 'norm2/bias', 'body/kernel'} <= changed
    x, w = forward(start), np.float64(start['params']['head']['kernel'])
    b = np.float64(start['params']['head']['bias'])
    p = np.exp(x @ w + b)
    p = p / p.sum(1, keepdims=True) - np.eye(10)[BATCH['label']]
    head = after.params['head']
    np.testing.assert_allclose(head['kernel'], w - 0.1 * (x.T @ p / 12 + 0.01 * w), rtol=1e-4)
    np.testing.assert_allclose(head['bias'], b - 0.1 * (p.mean(0) + 0.01 * b), rtol=1e-4)


@pytest.mark.parametrize(
    ('pattern', 'message'),
    [
        ('hed', 'matches none of the 8 parameters, as norm2/scale.* in body, head, norm1, norm2.'),
        ('.', 'matches all of the 8 parameters'),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern, message):
    with pytest.raises(UserError, match=message) as caught:
        freeze.frozen_params(pattern, variables()['params'])
    assert '\n' not in str(caught.value)


def test_a_norm_without_parameters_is_no_frozen_one():
    params, stats = {'head': {'kernel': 0.0}}, {'norm': {'mean': 0.0, 'var': 1.0}}
    assert freeze.frozen_mask('', params, stats)['batch_stats'] == {
        'norm': {'mean': False, 'var': False}
    }


def test_an_empty_pattern_freezes_nothing():
    assert not any(jax.tree.leaves(freeze.frozen_params('', {'a': {'kernel': jnp.zeros(2)}})))
