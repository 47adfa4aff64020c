"""Metrics against scikit-learn and closed forms."""

import csv

import numpy as np
import pytest
from sklearn import metrics as oracle

from cls.evaluation import metrics
from cls.evaluation.metrics import Predictions
from cls.steps import losses

RNG = np.random.default_rng(3)


def softmax(logits):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


@pytest.fixture(scope='module')
def found():
    """Predictions of 7 classes; the last has no image."""
    labels = RNG.integers(6, size=500).astype(np.int32)
    logits = RNG.normal(size=(500, 7)) * 2
    logits[np.arange(500), labels] += 2
    return Predictions(softmax(logits), labels)


def test_scalars_are_scikit_learns(found):
    values = metrics.scalars(found)
    for k in (1, 5):
        expected = oracle.top_k_accuracy_score(
            found.labels, found.probabilities, k=k, labels=range(7)
        )
        assert values[f'top{k}'] == pytest.approx(100 * expected)
    expected = oracle.log_loss(found.labels, found.probabilities, labels=range(7))
    assert values['loss'] == pytest.approx(expected)
    assert values['images'] == 500


def test_the_confusion_matrix_and_class_accuracies_are_scikit_learns(found):
    guesses = found.probabilities.argmax(1)
    matrix = metrics.confusion(found.probabilities, found.labels)
    expected = oracle.confusion_matrix(found.labels, guesses, labels=range(7))
    np.testing.assert_array_equal(matrix, expected)
    rows = metrics.per_class(found, ('a', 'b', 'c', 'd', 'e', 'f', 'g'))
    recall = oracle.recall_score(found.labels, guesses, labels=range(6), average=None)
    assert [row['class'] for row in rows] == list('abcdef')
    assert [row['top1'] for row in rows] == pytest.approx(100 * recall)
    assert [row['images'] for row in rows] == np.bincount(found.labels).tolist()


def test_classes_of_one_name_stay_apart():
    found = Predictions(np.eye(3), np.arange(3, dtype=np.int32))
    rows = metrics.per_class(found, ('crane', 'crane', 'crab'))
    assert [row['class'] for row in rows] == ['crane', 'crane', 'crab']
    assert metrics.per_class(found)[1] == {'class': 1, 'images': 1, 'top1': 100}


def test_calibration_error_by_hand():
    # Bins of width 1/15: 0.6 ends the 9th, 0.61 is in the 10th, with two images.
    sure = np.array([0.6, 0.61, 0.62, 1.0])
    probabilities = np.stack([sure, 1 - sure], 1)
    labels = np.array([0, 0, 1, 0])
    gaps = [abs(1 - 0.6), abs(1 - 1.23), abs(1 - 1.0)]  # of sums: right minus sure
    expected = 100 * sum(gaps) / 4
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(expected)


def test_calibration_error_is_the_mean_gap_of_the_bins(found):
    sure, guess = found.probabilities.max(1), found.probabilities.argmax(1)
    total = 0
    for m in range(15):
        here = (sure > m / 15) & (sure <= (m + 1) / 15)
        if here.any():
            accuracy = (guess[here] == found.labels[here]).mean()
            total += here.mean() * abs(accuracy - sure[here].mean())
    assert metrics.calibration_error(*_pair(found)) == pytest.approx(100 * total)


def _pair(found):
    return found.probabilities, found.labels


@pytest.mark.parametrize('k', [1, 2, 5])
def test_ties_and_broken_rows_are_as_in_training(k):
    probabilities = softmax(RNG.integers(3, size=(200, 6)).astype(float))
    probabilities[::50, 2] = np.nan
    labels = RNG.integers(6, size=200)
    expected = losses.topk_correct(np.float32(probabilities), labels, k)
    np.testing.assert_array_equal(metrics.topk_correct(probabilities, labels, k), expected)


def test_a_file_has_a_line_for_every_image(tmp_path, found):
    names, files = ('a', 'b', 'c', 'd, e', 'f', 'g', 'h'), [f'{i}.png' for i in range(500)]
    (tmp_path / 'p.csv').write_text('older')
    metrics.write_predictions(tmp_path / 'p.csv', found, names, files)
    with open(tmp_path / 'p.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == files
    assert [row['label'] for row in rows] == [names[label] for label in found.labels]
    best = np.sort(found.probabilities, 1)[:, ::-1]
    for i in range(5):
        np.testing.assert_allclose(
            [float(row[f'probability{i + 1}']) for row in rows], best[:, i], rtol=1e-5
        )
    assert [row['class1'] for row in rows] == [names[i] for i in found.probabilities.argmax(1)]
    assert [file.name for file in tmp_path.iterdir()] == ['p.csv']  # nothing partial is left


def test_images_and_classes_without_names_are_numbered(tmp_path):
    found = Predictions(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, 0]))
    metrics.write_predictions(tmp_path / 'p.csv', found)
    lines = (tmp_path / 'p.csv').read_text().splitlines()
    assert lines[1:] == ['0,1,1,0.75,0,0.25', '1,0,0,0.5,1,0.5']
