"""Predictors: written-out networks and updates, finite differences, and the next level."""

import functools

import grown
import jax
import numpy as np
import pytest
from compiling import jit
from scipy import stats

from cls.errors import UserError
from cls.search.searchers import predictors

CODES = [
    (0, 1, 2, 0),
    (1, 1, 0, 1, 2, 0, 1, 1),
    (0, 0, 1, 1, 0, 2, 2, 0, 3, 3, 2, 1),
    (1, 0, 2, 2),
]
CELLS = grown.cells(CODES, 3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def member(net, seed=0, nodes=3):
    rng = np.random.default_rng(seed)
    params = predictors.init(net, nodes, 4, 1, rng)
    return {name: value[0].astype(float) for name, value in params.items()}


def embeddings(params, code):
    for place, decision in enumerate(code):
        yield params['states' if place % 4 < 2 else 'operations'][decision]


def mlp(params, code):
    nodes = np.reshape([*embeddings(params, code)], (-1, 400))
    x = sum(nodes) / len(nodes)
    for layer in '01':
        x = np.maximum(0, x @ params[f'kernel_{layer}'] + params[f'bias_{layer}'])
    return sigmoid(x @ params['kernel_out'] + params['bias_out'])[0]


def lstm(params, code):
    hidden, memory = np.zeros(100), np.zeros(100)
    for token in embeddings(params, code):
        gates = np.hstack([token, hidden]) @ params['kernel'] + params['bias']
        i, f, g, o = gates[:100], gates[100:200], gates[200:300], gates[300:]
        memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(memory)
    return sigmoid(hidden @ params['kernel_out'] + params['bias_out'])[0]


WRITTEN_OUT = {'mlp': mlp, 'lstm': lstm}


@pytest.mark.parametrize('net', WRITTEN_OUT)
def test_models_are_as_written_out(net):
    """For cells of several sizes: entries after the last node do not count."""
    params = member(net)
    rng = np.random.default_rng(1)
    params = {name: value + rng.normal(0, 0.05, value.shape) for name, value in params.items()}
    expected = [WRITTEN_OUT[net](params, code) for code in CODES]
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(predictors.NETS[net](params, CELLS), expected, rtol=1e-5)


@pytest.mark.parametrize('net', WRITTEN_OUT)
def test_models_begin_at_the_usual_accuracy(net):
    params = predictors.init(net, 5, 8, 5, np.random.default_rng(0))
    assert {len(value) for value in params.values()} == {5}
    first = predictors.NETS[net]({name: value[0] for name, value in params.items()}, CELLS)
    np.testing.assert_allclose(first, sigmoid(1.8), atol=0.03)
    if net == 'lstm':
        np.testing.assert_array_equal(params['bias'][0], np.repeat([0, 1, 0, 0], 100))


@pytest.mark.parametrize('net', WRITTEN_OUT)
def test_steps_are_adams_by_finite_differences(net):
    """The first step: rate * g / (|g| + 1e-8), with gradients of |p - y| in random directions."""
    accuracies = np.array([0.9, 0.3, 0.8, 0.99])
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        params = member(net)
        loss = functools.partial(predictors.loss, net, cells=CELLS, accuracies=accuracies)
        gradient = jax.tree.map(np.asarray, jit(jax.grad(loss))(params))
        loss = jit(loss)
        for name, value in params.items():
            direction = rng.normal(size=value.shape)
            ends = [loss(params | {name: value + h * direction}) for h in (1e-6, -1e-6)]
            slope = float(ends[0] - ends[1]) / 2e-6
            assert np.sum(gradient[name] * direction) == pytest.approx(slope, rel=1e-5)
            assert slope != 0
        ensemble = {name: np.stack([value, value]) for name, value in params.items()}
        batches = np.stack([CELLS, CELLS[::-1]])[None]
        after = predictors.trained(net, ensemble, batches, np.stack([accuracies] * 2)[None], 0.01)
        for name, value in params.items():
            g = gradient[name]
            np.testing.assert_allclose(after[name][0], value - 0.01 * g / (abs(g) + 1e-8))
        assert np.any(np.asarray(after['kernel_out'][0]) != after['kernel_out'][1])


def test_each_member_sees_all_but_a_fifth_of_its_own():
    rng = np.random.default_rng(0)
    parts = [*predictors._parts(100, 5, rng)]
    assert [len(part) for part in parts] == [80] * 5
    assert [*np.bincount(np.concatenate(parts))] == [4] * 100
    assert [*map(len, predictors._parts(7, 1, rng))] == [7]
    assert [*map(len, predictors._parts(1, 5, rng))] == [1] * 5
    batches = predictors._batches(parts[0], 10, rng)
    assert batches.shape == (10, 32)
    assert {*np.bincount(batches.ravel())[parts[0]]} == {4}


def test_features_of_a_cell():
    cell = grown.cells([(0, 1, 2, 0, 2, 0, 1, 2)], 3)  # op 2 on 0, 0 on 1, 1 on a node, 2 on 0
    before, one_before, node = [0, 0, 2, 0], [1, 0, 0, 0], [0, 1, 0, 0]
    expected = [2, *np.array([before, one_before, node]).ravel() / 2]
    np.testing.assert_array_equal(predictors.features(cell, 4), [expected])


def test_ridge_minimises_its_loss():
    rng = np.random.default_rng(0)
    accuracies = rng.random(4)
    predict = predictors.fit_ridge(CELLS, accuracies, 4)
    x = predictors.features(CELLS, 4)
    x -= x.mean(0)
    stacked = np.vstack([x, np.eye(13)])  # rows of the penalty
    target = np.hstack([accuracies - accuracies.mean(), np.zeros(13)])
    weights = np.linalg.lstsq(stacked, target)[0]
    np.testing.assert_allclose(predict(CELLS), accuracies.mean() + x @ weights)


def fitted(name, codes, steps):
    cells, accuracies = grown.cells(codes, 3), np.array([*map(grown.accuracy, codes)])
    if name == 'ridge':
        return predictors.fit_ridge(cells, accuracies, 4)
    rng = np.random.default_rng(0)
    known = {'members': 5, 'steps': steps, 'rate': 0.002}
    return predictors.fit(name, cells, accuracies, 4, rng, **known)


@pytest.mark.parametrize(
    ('name', 'steps'),
    [('mlp', 100), pytest.param('lstm', 60, marks=pytest.mark.sweep), ('ridge', 0)],
)
def test_next_level_is_ranked(name, steps):
    """Cells of three nodes from 36 of one and 100 of two (measured: 0.85 to 0.93)."""
    rng = np.random.default_rng(1)

    def drawn(codes, count):
        return [codes[i] for i in rng.choice(len(codes), count, replace=False)]

    def grow(codes):
        return [larger for code in codes for larger in grown.SPACE.expand(code)]

    first = grow([()])
    second = drawn(grow(first), 100)
    unseen = drawn(grow(second), 500)
    codes = first + second
    predict = fitted(name, codes, steps)
    true = [*map(grown.accuracy, unseen)]
    assert stats.spearmanr(predict(grown.cells(unseen, 3)), true)[0] > 0.75
    np.testing.assert_array_equal(
        predict(grown.cells(unseen[:9], 3)), fitted(name, codes, steps)(grown.cells(unseen[:9], 3))
    )


@pytest.mark.parametrize('wrong', [93.4, -0.1, np.nan])
def test_what_is_no_accuracy_is_refused(wrong):
    with pytest.raises(UserError, match='from 0 to 1.*ridge'):
        predictors.fit('mlp', CELLS, [0.5, 0.5, wrong, 0.5], 4, None, members=1, steps=1, rate=0.1)
