"""Losses against NumPy in float64, and the counting of correct predictions where it is unclear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.errors import UserError
from cls.recipes import common
from cls.steps.losses import LossSpec, cross_entropy, topk_correct

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 5)) * 4
LABELS = RNG.integers(5, size=6)


def reference(logits, targets):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - (targets * logits).sum(-1)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_labels_and_their_one_hot_rows_give_the_same_loss(smoothing):
    smoothed = np.eye(5)[LABELS] * (1 - smoothing) + smoothing / 5
    expected = reference(LOGITS, smoothed)
    for targets in (jnp.asarray(LABELS), jnp.eye(5)[LABELS]):
        loss = cross_entropy(jnp.asarray(LOGITS), targets, smoothing)
        assert loss.shape == (6,)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


def test_mixed_labels():
    targets = RNG.dirichlet(np.ones(5), size=6)
    loss = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets), 0.1)
    # The targets' rows sum to one, so smoothing keeps that.
    np.testing.assert_allclose(loss, reference(LOGITS, targets * 0.9 + 0.02), rtol=1e-5, atol=1e-5)


def test_bfloat16_logits_are_only_rounded_once():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    loss = cross_entropy(logits, jnp.asarray(LABELS))
    assert loss.dtype == jnp.float32
    expected = reference(logits, np.eye(5)[LABELS])
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


def test_huge_logits_stay_finite_and_so_do_their_gradients():
    logits = jnp.array([[1e4, 0.0, -1e4]])
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([2])).sum())(logits)
    assert value == 2e4
    np.testing.assert_allclose(grad, [[1, 0, -1]])


def spec_of(**fields):
    config = common.base()
    config.loss.update(fields)
    return LossSpec.from_config(config)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def binary_terms(targets):
    p = sigmoid(LOGITS)
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


MIXED = RNG.dirichlet(np.ones(5) / 3, size=6)
SMOOTHED = MIXED * 0.9 + 0.02


@pytest.mark.parametrize(
    ('args', 'expected'),
    [
        ({}, binary_terms(SMOOTHED).mean(-1)),
        ({'sum_classes': True}, binary_terms(SMOOTHED).sum(-1)),
        ({'threshold': 0.2}, binary_terms((SMOOTHED > 0.2).astype(float)).mean(-1)),
    ],
)
def test_binary_cross_entropy_is_that_of_timm(args, expected):
    """BinaryCrossEntropy of timm/loss/binary_cross_entropy.py, per example."""
    loss = spec_of(name='bce', args=args).per_example(jnp.asarray(LOGITS), MIXED, 0.1)
    assert loss.shape == (6,)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


def test_binary_cross_entropy_of_labels_is_that_of_their_one_hot_rows():
    spec = spec_of(name='bce', args={'threshold': 0.2})
    expected = binary_terms(np.eye(5)[LABELS]).mean(-1)
    loss = spec.per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_focal_losses_are_those_of_the_paper(gamma):
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = -(MIXED * (1 - p) ** gamma * np.log(p)).sum(-1)
    args = {'gamma': gamma}
    loss = spec_of(name='focal', args=args).per_example(jnp.asarray(LOGITS), MIXED)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)
    p, hot = sigmoid(LOGITS), np.eye(5)[LABELS]
    right = p * hot + (1 - p) * (1 - hot)
    expected = -((1 - right) ** gamma * np.log(right)).sum(-1)
    spec = spec_of(name='binary_focal', args=args)
    loss = spec.per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['focal', 'binary_focal', 'bce'])
def test_certain_predictions_have_finite_gradients(name):
    args = {'gamma': 0.5} if 'focal' in name else {}
    spec = spec_of(name=name, args=args)
    logits = jnp.array([[200.0, 0.0, -200.0], [-200.0, 0.0, 200.0]])
    grad = jax.grad(lambda x: spec.per_example(x, jnp.array([0, 0])).sum())(logits)
    assert np.isfinite(grad).all()
    assert np.abs(grad[1]).max() > 0.1


def test_focal_loss_without_gamma_is_cross_entropy():
    spec = spec_of(name='focal', args={'gamma': 0.0})
    loss = spec.per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.1)
    expected = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_weights_of_classes_multiply_the_terms_of_their_classes():
    weights = (0.5, 1.0, 2.0, 0.0, 3.0)
    logs = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    spec = spec_of(class_weights=weights).with_counts(np.ones(5, int))
    loss = spec.per_example(jnp.asarray(LOGITS), MIXED, 0.1)
    np.testing.assert_allclose(loss, -(SMOOTHED * weights * logs).sum(-1), rtol=1e-4)
    spec = spec_of(name='bce', class_weights=weights)
    loss = spec.per_example(jnp.asarray(LOGITS), MIXED, 0.1)
    np.testing.assert_allclose(loss, (binary_terms(SMOOTHED) * weights).mean(-1), rtol=1e-4)


def test_balanced_weights_give_each_class_the_same_part_of_the_loss():
    counts = np.array([1, 2, 3, 10, 4])
    spec = spec_of(class_weights=('balanced',)).with_counts(counts)
    np.testing.assert_allclose(np.array(spec.class_weights) * counts, counts.sum() / 5)
    with pytest.raises(UserError, match='class 1 of 3 has no training images'):
        spec_of(class_weights=('balanced',)).with_counts(np.array([1, 0, 2]))
    with pytest.raises(UserError, match='2 numbers, and the network 3 classes'):
        spec_of(class_weights=(1.0, 2.0)).with_counts(np.array([1, 1, 2]))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'fokal'}, 'Did you mean focal'),
        ({'name': 'softmax', 'args': {'gamma': 2.0}}, 'it has no arguments'),
        ({'name': 'focal', 'args': {'gama': 2.0}}, 'Did you mean gamma'),
        ({'name': 'bce', 'args': {'sum_classes': 1.5}}, 'True or False'),
        ({'class_weights': ('even',)}, "'balanced', or a number"),
        ({'class_weights': (1.0, -1.0)}, 'a number of 0 or more'),
    ],
)
def test_bad_losses_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        spec_of(**fields)


def test_topk_agrees_with_sorting_where_there_are_no_ties():
    order = np.argsort(-LOGITS, axis=-1)
    for k in range(1, 5):
        expected = (order[:, :k] == LABELS[:, None]).any(-1)
        correct = topk_correct(jnp.asarray(LOGITS), jnp.asarray(LABELS), k)
        assert correct.dtype == jnp.bool_
        np.testing.assert_array_equal(correct, expected)


@pytest.mark.parametrize(
    ('row', 'label', 'k', 'expected'),
    [
        ([1, 1, 1, 1], 0, 1, False),  # a constant net
        ([1, 1, 1, 1], 0, 3, False),
        ([1, 1, 0, 0], 0, 1, False),  # a tie for the first place
        ([1, 1, 0, 0], 0, 2, True),  # both fit
        ([2, 1, 1, 0], 1, 2, False),  # a tie for the last place that counts
        ([3, 2, 1, 0], 3, 5, True),  # K < k
        ([1, 1, 1, 1], 3, 5, True),
        ([np.nan] * 4, 0, 5, False),
        ([np.nan, 1, 0, 0], 1, 1, False),
        ([np.nan, 1, 0, 0], 0, 4, False),
        ([np.inf, 1, 0, 0], 0, 1, True),
        ([-np.inf] * 4, 0, 1, False),
        ([3, 2, 1, 0], -1, 5, False),  # not a label
        ([3, 2, 1, 0], 4, 5, False),
    ],
)
def test_topk_where_the_logits_do_not_decide(row, label, k, expected):
    row = jnp.array([row], jnp.float32)
    assert bool(topk_correct(row, jnp.array([label]), k)[0]) is expected
