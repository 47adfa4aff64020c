"""Average precision by hand, and against its definition in precisions and recalls."""

import numpy as np
import pytest

from cls.evaluation.ranking import average_precisions, mean_average_precision


def by_definition(score, label):
    """The sum over thresholds of (recall - the recall before) * precision."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        recall = label[chosen].sum() / label.sum()
        total += (recall - before) * label[chosen].mean()
        before = recall
    return total


def test_precisions_are_those_of_the_definition_also_with_equal_scores():
    rng = np.random.default_rng(0)
    scores = rng.integers(8, size=(60, 5)).astype(np.float32)
    labels = (rng.random((60, 5)) < 0.3).astype(np.uint8)
    expected = [by_definition(scores[:, k], labels[:, k]) for k in range(5)]
    np.testing.assert_allclose(average_precisions(scores, labels), expected, rtol=1e-12)


def test_a_ranking_by_hand_and_a_class_without_images():
    scores = np.array([[4.0, 1], [3, 2], [2, 3], [1, 4]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    each = average_precisions(scores, labels)
    assert each[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert np.isnan(each[1])
    assert mean_average_precision(each) == pytest.approx(100 * 5 / 6)
    assert np.isnan(mean_average_precision(each[1:]))
