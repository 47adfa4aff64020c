"""Metrics against scikit-learn and closed forms."""

import csv
import math
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn import metrics as oracle

from cls.errors import UserError
from cls.evaluation import auroc, files, metrics, tables
from cls.evaluation.metrics import Predictions
from cls.steps import losses

RNG = np.random.default_rng(3)


def softmax(logits):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def predictions(probabilities, labels):
    return Predictions(probabilities, np.asarray(labels, np.int32), np.arange(len(labels)))


def tally_of(found, sizes=(1000,), names=()):
    """Returns the metrics of predictions that arrive in parts of these sizes, in turn."""
    tally, start, turn = metrics.Tally(found.probabilities.shape[1], names), 0, 0
    while start < len(found.labels):
        part = slice(start, start + sizes[turn % len(sizes)])
        one = Predictions(*(x[part] for x in vars(found).values()))
        tally.add(metrics.outcomes(one))
        tally.scores.add(one.probabilities, one.labels)
        start, turn = part.stop, turn + 1
    return tally


def dense(tally):
    matrix = np.zeros((tally.classes, tally.classes), int)
    rows, columns, images = tally.confusion()
    matrix[rows, columns] = images
    return matrix


@pytest.fixture(scope='module')
def found():
    """Predictions of 7 classes; the last has no image."""
    labels = RNG.integers(6, size=500).astype(np.int32)
    logits = RNG.normal(size=(500, 7)) * 2
    logits[np.arange(500), labels] += 2
    return predictions(softmax(logits), labels)


def test_scalars_are_scikit_learns(found):
    values = tally_of(found).scalars()
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
    tally = tally_of(found, names='abcdefg')
    expected = oracle.confusion_matrix(found.labels, guesses, labels=range(7))
    np.testing.assert_array_equal(dense(tally), expected)
    rows = tally.per_class()
    recall = oracle.recall_score(found.labels, guesses, labels=range(6), average=None)
    assert [row['class'] for row in rows] == list('abcdef')
    assert [row['top1'] for row in rows] == pytest.approx(100 * recall)
    assert [row['images'] for row in rows] == np.bincount(found.labels).tolist()


def test_precision_recall_and_f1_are_scikit_learns(found):
    """Of 7 classes, of which one has no image, one is never predicted, and two have ties."""
    probabilities = found.probabilities.copy()
    probabilities[:, 2] = 0
    probabilities[::9, :2] = 0.9
    guesses = probabilities.argmax(1)
    tally = tally_of(predictions(probabilities, found.labels))
    options = {'labels': range(6), 'zero_division': 0}
    rows, scalars = tally.per_class(), tally.scalars()
    for average in (None, 'macro'):
        expected = oracle.precision_recall_fscore_support(
            found.labels, guesses, average=average, **options
        )
        for name, values in zip(('precision', 'recall', 'f1'), expected, strict=False):
            result = [row[name] for row in rows] if average is None else scalars[name]
            assert result == pytest.approx(100 * values)
    assert [row['predicted'] for row in rows] == np.bincount(guesses, minlength=7)[:6].tolist()
    assert rows[2]['precision'] == rows[2]['f1'] == 0
    assert scalars['classes_with_images'] == 6


@pytest.mark.parametrize('scale', [0.5, 2, 60])
def test_auroc_is_scikit_learns_up_to_its_bound(scale):
    """For networks that are unsure, usual, and so sure that probabilities come to 0 and 1."""
    labels = RNG.integers(6, size=2000)
    logits = scale * RNG.normal(size=(2000, 7))
    logits[np.arange(2000), labels] += scale
    probabilities = softmax(logits)
    tally = tally_of(predictions(probabilities, labels), (1, 300, 7))
    rows, scalars = tally.per_class(), tally.scalars()
    exact = [100 * oracle.roc_auc_score(labels == i, probabilities[:, i]) for i in range(6)]
    for row, value in zip(rows, exact, strict=True):
        assert abs(row['auroc'] - value) <= row['auroc_error'] + 1e-9
        assert row['auroc_error'] < 1
        assert abs(row['auroc'] - value) < 0.02  # most of the bound is not used
    assert scalars['auroc'] == pytest.approx(np.mean(exact), abs=scalars['auroc_error'])


def test_auroc_counts_equal_probabilities_half():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]])
    found = predictions(probabilities, [0, 1, 1])
    # One of two pairs is a tie: the bound is half of that.
    areas, errors = tally_of(found).scores.areas()
    assert areas.tolist() == [0.75, 0.75]
    assert errors.tolist() == [0.25, 0.25]


def test_a_class_has_no_auroc_without_images_of_another_class():
    tally = tally_of(predictions(np.array([[0.7, 0.3], [0.6, 0.4]]), [0, 0]))
    assert 'auroc' not in tally.scalars()
    assert 'auroc' not in tally.per_class()[0]
    assert tally.scalars()['recall'] == 100


def test_bins_grow_with_the_probability_near_0_and_1():
    small = 10.0 ** np.arange(-300, 0, 20)
    probabilities = np.concatenate([[np.nan], small, [0.3, 0.5, 0.7, 0.99, 0.999, 1 - 1e-9, 1]])
    bins = auroc.bins_of(probabilities, 4096)
    assert bins[0] == auroc.bins_of(np.zeros(1), 4096)[0]
    assert (np.diff(bins[1:]) > 0).all()
    assert bins.min() >= 0
    assert bins.max() < 4096


def test_many_classes_have_fewer_bins():
    counts = auroc.ScoreCounts(21_841)
    assert counts.of_all.nbytes + counts.of_class.nbytes <= 2 * 4 * auroc.CELLS


def test_the_calibration_diagram_sums_to_its_error(found):
    tally = tally_of(found)
    bins, images = tally.calibration(), 500
    gaps = [each['images'] * abs(each['accuracy'] - each['confidence']) for each in bins]
    assert sum(gaps) / images == pytest.approx(tally.scalars()['ece'])
    assert sum(each['images'] for each in bins) == images
    sure = found.probabilities.max(1)
    for each in bins:
        inside = (100 * sure > each['above']) & (100 * sure <= each['to'])
        assert each['confidence'] == pytest.approx(100 * sure[inside].mean())


def test_the_most_confident_mistakes_are_kept(found):
    sure, guess = found.probabilities.max(1), found.probabilities.argmax(1)
    wrong = np.flatnonzero(guess != found.labels)
    expected = wrong[np.argsort(-sure[wrong], kind='stable')][: metrics.MISTAKES]
    assert len(expected) == metrics.MISTAKES < len(wrong)
    for sizes in ((1000,), (1, 7, 64)):
        assert tally_of(found, sizes).mistakes()['index'].tolist() == expected.tolist()
    listed = tables.values(
        tally_of(found, names='abcdefg'), 'test', [f'{i}.png' for i in range(500)]
    )
    first = listed['test/mistakes'][0]
    assert first == {
        'index': expected[0],
        'image': f'{expected[0]}.png',
        'class': 'abcdefg'[found.labels[expected[0]]],
        'prediction': 'abcdefg'[guess[expected[0]]],
        'label': found.labels[expected[0]],
        'output': guess[expected[0]],
        'probability': sure[expected[0]],
    }


def test_the_printed_table_has_the_classes_with_the_lowest_f1():
    labels = np.repeat(np.arange(30), 2)
    guesses = labels.copy()
    guesses[1::2] = np.where(labels[1::2] % 3, labels[1::2], 29)
    tally = tally_of(predictions(np.eye(30)[guesses], labels), names=[f'c{i}' for i in range(30)])
    first, header, *rows = tables.class_lines(tables.values(tally, 'test'), 'test')
    assert first.startswith('means over 30 classes with images: precision ')
    assert first.endswith('; those with the lowest F1, of 30:')
    assert header.split() == ['class', 'images', 'precision', 'recall', 'F1', 'AUROC']
    assert len(rows) == tables.SHOWN
    assert [row.split()[0] for row in rows[:11]] == ['c29', *(f'c{i}' for i in range(0, 30, 3))]


def test_classes_of_one_name_stay_apart():
    found = predictions(np.eye(3), range(3))
    rows = tally_of(found, names=('crane', 'crane', 'crab')).per_class()
    assert [row['class'] for row in rows] == ['crane', 'crane', 'crab']
    perfect = dict.fromkeys(('top1', 'precision', 'recall', 'f1', 'auroc'), 100)
    counts = {'class': 1, 'images': 1, 'predicted': 1, 'auroc_error': 0}
    assert tally_of(found).per_class()[1] == perfect | counts


def test_calibration_error_by_hand():
    # Bins of width 1/15: 0.6 ends the 9th, 0.61 is in the 10th, with two images.
    sure = np.array([0.6, 0.61, 0.62, 1.0])
    probabilities = np.stack([sure, 1 - sure], 1)
    labels = np.array([0, 0, 1, 0])
    gaps = [abs(1 - 0.6), abs(1 - 1.23), abs(1 - 1.0)]  # of sums: right minus sure
    expected = 100 * sum(gaps) / 4
    found = tally_of(predictions(probabilities, labels)).scalars()
    assert found['ece'] == pytest.approx(expected)


def test_calibration_error_is_the_mean_gap_of_the_bins(found):
    sure, guess = found.probabilities.max(1), found.probabilities.argmax(1)
    total = 0
    for m in range(15):
        here = (sure > m / 15) & (sure <= (m + 1) / 15)
        if here.any():
            accuracy = (guess[here] == found.labels[here]).mean()
            total += here.mean() * abs(accuracy - sure[here].mean())
    assert tally_of(found).scalars()['ece'] == pytest.approx(100 * total)


def test_the_order_and_the_parts_of_the_images_make_no_difference(found):
    order = RNG.permutation(500)
    shuffled = Predictions(*(x[order] for x in vars(found).values()))
    first, second = tally_of(found), tally_of(shuffled, (1, 7, 64))
    assert first.scalars() == second.scalars()
    assert first.per_class() == second.per_class()
    np.testing.assert_array_equal(dense(first), dense(second))


def test_an_exact_sum_is_rounded_once():
    values = RNG.normal(size=300) * 10.0 ** RNG.integers(-200, 200, 300)
    values = np.concatenate([values, -values[1:], [5e-324, 0.0]])
    total = metrics.ExactSum()
    for part in np.array_split(values, 7):
        total.add(part)
    assert float(total) == math.fsum(values) == values[0] != values.sum()
    total.add(np.array([np.inf]))
    assert float(total) == np.inf
    total.add(np.array([np.nan]))
    assert math.isnan(float(total))


def test_pairs_of_classes_are_counted_as_numpy_counts_them(monkeypatch):
    monkeypatch.setattr(metrics.PairCounts, 'BUFFER', 50)
    pairs = RNG.integers(300, size=3000)
    counts = metrics.PairCounts()
    for part in np.array_split(pairs, 90):
        counts.add(part)
        assert counts._waiting <= 350
    for one, other in zip(counts.counted(), np.unique(pairs, return_counts=True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_label_beyond_the_classes_names_the_first_image():
    found = Predictions(np.eye(3), np.array([1, 3, -1], np.int32), np.array([9, 8, 7]))
    with pytest.raises(UserError, match='Example 7 has the label -1: expected 0 to 2'):
        tally_of(found)


@pytest.mark.parametrize('k', [1, 2, 5])
def test_ties_and_broken_rows_are_as_in_training(k):
    probabilities = softmax(RNG.integers(3, size=(200, 6)).astype(float))
    probabilities[::50, 2] = np.nan
    labels = RNG.integers(6, size=200)
    expected = losses.topk_correct(np.float32(probabilities), labels, k)
    reached = metrics.outcomes(predictions(probabilities, labels))['reached']
    np.testing.assert_array_equal(reached <= k, expected)


@pytest.mark.parametrize('count', [1, 5, 6])
def test_the_most_probable_classes_are_those_of_a_stable_sort(count):
    rows = RNG.integers(4, size=(300, 6)) / 4.0
    rows[::7, 3], rows[::11, 1:5], rows[::50] = np.nan, np.nan, np.nan
    for row in rows:
        expected = np.argsort(-row, kind='stable')[:count]
        np.testing.assert_array_equal(metrics.most_probable(row, count), expected)


def test_a_file_has_a_line_for_every_image(tmp_path, found):
    """In the order of the source, from outcomes in another order."""
    names, images = ('a', 'b', 'c', 'd, e', 'f', 'g', 'h'), [f'{i}.png' for i in range(500)]
    (tmp_path / 'p.csv').write_text('older')
    outcomes = metrics.outcomes(found, listed=True)
    with files.Listing() as listing:
        for part in np.array_split(RNG.permutation(500), 9):
            listing.add(outcomes[part])
        listing.write(tmp_path / 'p.csv', 7, names, images)
    with open(tmp_path / 'p.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == images
    assert [row['label'] for row in rows] == [names[label] for label in found.labels]
    best = np.sort(found.probabilities, 1)[:, ::-1]
    for i in range(5):
        np.testing.assert_allclose(
            [float(row[f'probability{i + 1}']) for row in rows], best[:, i], rtol=1e-5
        )
    assert [row['class1'] for row in rows] == [names[i] for i in found.probabilities.argmax(1)]
    assert [file.name for file in tmp_path.iterdir()] == ['p.csv']  # nothing partial is left


def test_images_and_classes_without_names_are_numbered(tmp_path):
    found = predictions(np.array([[0.25, 0.75], [0.5, 0.5]]), [1, 0])
    with files.Listing() as listing:
        listing.add(metrics.outcomes(found, listed=True))
        listing.write(tmp_path / 'p.csv', 2)
    lines = (tmp_path / 'p.csv').read_text().splitlines()
    assert lines[1:] == ['0,1,1,0.75,0,0.25', '1,0,0,0.5,1,0.5']


def test_the_matrix_has_an_entry_for_each_pair_that_occurs(tmp_path, found):
    tally = tally_of(found, names='abcdefg')
    files.write_confusion(tmp_path / 'm.npz', tally)
    matrix = sparse.load_npz(tmp_path / 'm.npz')
    assert np.load(tmp_path / 'm.npz')['names'].tolist() == list('abcdefg')
    np.testing.assert_array_equal(matrix.toarray(), dense(tally))
    assert matrix.nnz == np.count_nonzero(dense(tally))


def test_a_class_with_the_name_of_a_column_has_another_header(tmp_path):
    names = ('image', 'cat', 'image_', 'labels')
    labels, file = np.array([[1, 1, 0, 0]]), tmp_path / 'p.csv'
    files.write_probabilities(file, labels, [np.array([0.5, 0.25, 0.75, 1])], names, ['a.png'])
    header, row = csv.reader(file.open())
    assert header == ['image', 'labels', 'image__', 'cat', 'image_', 'labels_']
    assert row == ['a.png', 'image|cat', '0.5', '0.25', '0.75', '1']


def test_many_classes_need_no_square_of_them():
    """21,841 classes: a dense matrix would have 477 million entries."""
    classes = 21_841
    found = np.zeros(1000, metrics.OUTCOME)
    found['label'] = found['index'] = np.arange(1000) * 21
    found['guess'] = RNG.integers(classes, size=1000)
    tally = metrics.Tally(classes)
    tracemalloc.start()
    tally.add(found)
    assert len(tally.confusion()[0]) == 1000
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_batch_without_a_complete_image_adds_nothing():
    none = Predictions(np.zeros((0, 7)), np.zeros(0, np.int32), np.zeros(0, np.int32))
    tally = metrics.Tally(7)
    tally.add(metrics.outcomes(none, listed=True))
    assert tally.images == 0


def test_imagenets_classes_have_their_words(tmp_path):
    """In the file of predictions in columns of their own, and in the accuracy of each class."""
    names = ('n01440764', 'n02012849', 'n03126707')
    outcomes = metrics.outcomes(
        predictions(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), [0, 1]), True
    )
    tally = metrics.Tally(3, names)
    tally.add(outcomes)
    assert [row['name'] for row in tally.per_class()] == ['tench', 'crane (bird)']
    tally.names = ('a', 'b', 'c')
    assert 'name' not in tally.per_class()[0]
    with files.Listing() as listing:
        listing.add(outcomes)
        listing.write(tmp_path / 'p.csv', 3, names)
    first, second = csv.DictReader((tmp_path / 'p.csv').open())
    assert (first['label'], first['label_name']) == ('n01440764', 'tench')
    assert (second['class1'], second['name1']) == ('n03126707', 'crane (machine)')


def test_a_probability_that_is_not_a_number_is_no_prediction():
    tally = metrics.Tally(3)
    probabilities = np.array([[np.nan] * 3, [0.2, 0.3, 0.5]])
    predictions = metrics.Predictions(probabilities, np.array([0, 2]), np.arange(2))
    tally.add(metrics.outcomes(predictions))
    with_image, without = tally.per_class()
    assert (with_image['top1'], with_image['recall'], with_image['predicted']) == (0, 0, 0)
    assert (without['top1'], without['recall'], without['precision']) == (100, 100, 100)
    first, last = tally.calibration()
    assert (first['above'], first['images'], first['accuracy']) == (0, 1, 0)
    assert (last['images'], last['accuracy']) == (1, 100)
    assert [x.tolist() for x in tally.confusion()] == [[2], [2], [1]]
    assert tally.mistakes()['index'].tolist() == [0]
