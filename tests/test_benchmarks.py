"""Scores on ImageNet's other test sets, against sums by hand and the reference's formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from cls import benchmarks, losses


def logits_of(rows, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def test_one_right_class_is_topk():
    logits, labels = logits_of(200, 12), np.arange(200) % 12
    logits[:20] = np.round(logits[:20])  # ties
    right = benchmarks.targets([(label,) for label in labels], 12)
    for k in (1, 5):
        expected = losses.topk_correct(logits, labels, k)
        np.testing.assert_array_equal(benchmarks.any_correct(logits, right, k), expected)


def test_several_right_classes():
    """The prediction is in the set: as reassessed-imagenet counts, in plain Python."""
    logits = logits_of(100, 10)
    sets = [tuple(np.random.default_rng(i).choice(10, 1 + i % 4, False)) for i in range(100)]
    expected = [int(row.argmax()) in labels for row, labels in zip(logits, sets, strict=True)]
    assert 20 < sum(expected) < 60
    found = benchmarks.any_correct(logits, benchmarks.targets(sets, 10), 1)
    np.testing.assert_array_equal(found, expected)
    top3 = [
        bool({*row.argsort()[-3:]} & {*labels}) for row, labels in zip(logits, sets, strict=True)
    ]
    # Right classes do not take places from one another, so top-3 of sets can be a little more.
    found3 = benchmarks.any_correct(logits, benchmarks.targets(sets, 10), 3)
    assert (np.array(found3) >= np.array(top3)).all()


def test_ties_and_empty_sets_earn_nothing():
    right = benchmarks.targets([(1,), (), (0, 1)], 4)
    logits = np.array([[1, 1, 0, 0], [9, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32)
    assert not np.asarray(benchmarks.any_correct(logits, right, 1)).any()


def test_subset_is_the_references_choice_of_columns():
    """ImageNet-A's code takes the columns and compares places among them."""
    logits, subset = logits_of(64, 30), (2, 5, 11, 17, 29)
    labels = [subset[i % 5] for i in range(64)]
    expected = [
        int(row[list(subset)].argmax()) == subset.index(label)
        for row, label in zip(logits, labels, strict=True)
    ]
    kept = benchmarks.competing(jnp.asarray(logits), subset)
    found = benchmarks.any_correct(kept, benchmarks.targets([(x,) for x in labels], 30), 1)
    np.testing.assert_array_equal(found, expected)
    everyone = benchmarks.any_correct(logits, benchmarks.targets([(x,) for x in labels], 30), 1)
    assert np.sum(everyone) < np.sum(found)
    np.testing.assert_array_equal(benchmarks.competing(jnp.asarray(logits), ()), logits)


def test_mean_corruption_error():
    """AlexNet's own is 100; ResNet-50's is 76.7 in the paper, of corruptions' that are rounded."""
    alexnet = {
        (name, severity): error
        for name, error in benchmarks.ALEXNET_ERRORS.items()
        for severity in benchmarks.SEVERITIES
    }
    assert len(alexnet) == 75
    assert benchmarks.mean_corruption_error(alexnet) == pytest.approx(100)
    # Per-corruption CE of ResNet-50 in the paper's table 1, in the order of ours.
    resnet50 = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]
    errors = {
        (name, severity): ce / 100 * error + spread
        for (name, error), ce in zip(benchmarks.ALEXNET_ERRORS.items(), resnet50, strict=True)
        for severity, spread in zip(benchmarks.SEVERITIES, (-0.2, -0.1, 0, 0.1, 0.2), strict=True)
    }
    assert list(benchmarks.corruption_errors(errors).values()) == pytest.approx(resnet50)
    assert benchmarks.mean_corruption_error(errors) == pytest.approx(76.7, abs=0.5)
    del errors['fog', 3]
    assert benchmarks.mean_corruption_error(errors) is None
    assert 'fog' not in benchmarks.corruption_errors(errors)
    assert len(benchmarks.corruption_errors(errors)) == 14
