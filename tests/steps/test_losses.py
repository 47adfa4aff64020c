"""Losses against NumPy in float64, and the counting of correct predictions where it is unclear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.steps.losses import cross_entropy, topk_correct

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
