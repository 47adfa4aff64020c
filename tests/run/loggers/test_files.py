"""Loggers with files in the run folder: TensorBoard and CSV."""

import csv

import boards
import numpy as np
import pytest

from cls.run.loggers import drawing
from cls.run.loggers.base import Histogram
from cls.run.loggers.spec import LogSpec
from cls.run.telemetry import Metrics

BOTH = LogSpec(('tensorboard', 'csv'))


def train(step, loss):
    return {'epoch': step / 10, 'train/loss': loss, 'time/step': 1.5}


def evaluated(top1):
    return {'epoch': 0.5, 'validation/top1': top1, 'validation_ema/top1': top1 + 1}


def rows(file):
    with file.open(newline='') as stream:
        return list(csv.DictReader(stream))


def test_both_have_the_numbers_of_metrics_jsonl(tmp_path):
    metrics = Metrics(tmp_path, 0, BOTH)
    metrics.write(1, train(1, 0.1))
    metrics.write(2, train(2, float('nan')))
    metrics.write(2, evaluated(50.25))
    metrics.close()
    assert [
        (row['step'], row['train/loss']) for row in rows(tmp_path / 'metrics' / 'train.csv')
    ] == [
        ('1', '0.1'),
        ('2', 'nan'),
    ]
    (row,) = rows(tmp_path / 'metrics' / 'validation.csv')
    assert row == {
        'step': '2',
        'epoch': '0.5',
        'validation/top1': '50.25',
        'validation_ema/top1': '51.25',
    }
    board = boards.shown(tmp_path / 'tensorboard')
    assert board[1, 'train/loss'].simple_value == np.float32(0.1)
    assert board[2, 'validation_ema/top1'].simple_value == 51.25


def test_the_epoch_of_a_step_is_one_point_and_a_cell_of_each_table(tmp_path):
    metrics = Metrics(tmp_path, 0, BOTH)
    for step in (4, 5):
        metrics.write(step, train(step, 0.1))
    metrics.write(5, evaluated(50.0))
    metrics.close()
    events = boards.events(tmp_path / 'tensorboard')
    points = [(event.step, value.tag) for event in events for value in event.summary.value]
    assert [step for step, name in points if name == 'epoch'] == [4, 5]
    assert len(points) == len(set(points)) == 2 * 3 + 2
    (row,) = rows(tmp_path / 'metrics' / 'validation.csv')
    assert row['epoch'] == '0.5'
    assert all('epoch' in line for line in (tmp_path / 'metrics.jsonl').read_text().splitlines())


@pytest.mark.parametrize('cut', [False, True])
def test_a_run_that_continues_has_no_step_twice(cut, tmp_path):
    """Step 3 is of a process that was killed; the evaluation at the checkpoint is repeated."""
    metrics = Metrics(tmp_path, 0, BOTH)
    for step in (1, 2, 3):
        metrics.write(step, train(step, step))
    metrics.write(2, evaluated(50))
    metrics.close()
    file = tmp_path / 'metrics' / 'train.csv'
    if cut:
        file.write_text(file.read_text()[:-4])
    metrics = Metrics(tmp_path, 2, BOTH)
    metrics.write(2, evaluated(60))
    metrics.write(3, train(3, 30))
    metrics.close()
    assert [(row['step'], row['train/loss']) for row in rows(file)] == [
        ('1', '1'),
        ('2', '2'),
        ('3', '30'),
    ]
    assert [row['validation/top1'] for row in rows(tmp_path / 'metrics' / 'validation.csv')] == [
        '60'
    ]
    board = boards.shown(tmp_path / 'tensorboard')
    assert [board[step, 'train/loss'].simple_value for step in (1, 2, 3)] == [1, 2, 30]


def test_other_columns_go_to_another_file(tmp_path):
    metrics = Metrics(tmp_path, 0, BOTH)
    metrics.write(1, {'test/top1': 50.0})
    metrics.write(2, {'test/top1': 60.0, 'test_precise/top1': 61.0})
    metrics.close()
    metrics = Metrics(tmp_path, 2, BOTH)
    metrics.write(2, {'test/top1': 60.0, 'test_precise/top1': 61.0})
    metrics.write(3, {'test/top1': 70.0})
    metrics.close()
    assert [row['test/top1'] for row in rows(tmp_path / 'metrics' / 'test.csv')] == ['50.0', '70.0']
    assert rows(tmp_path / 'metrics' / 'test-2.csv') == [
        {'step': '2', 'test/top1': '60.0', 'test_precise/top1': '61.0'}
    ]


def test_a_confusion_matrix_is_a_table_and_an_image(tmp_path):
    counts = np.array([[3, 1], [0, 0]])
    metrics = Metrics(tmp_path, 0, BOTH)
    assert metrics.shows('confusion')
    metrics.show(lambda log: log.confusion(7, 'test/confusion', counts, ['cat, black', 'dog']))
    metrics.close()
    first, second = rows(tmp_path / 'metrics' / 'test-confusion.csv')
    assert first == {'class \\ prediction': 'cat, black', 'cat, black': '3', 'dog': '1'}
    assert [*second.values()] == ['dog', '0', '0']
    image = boards.image(boards.shown(tmp_path / 'tensorboard')[7, 'test/confusion'])
    assert image.shape == (512, 512, 3)
    cells = image[128::256, 128::256].sum(-1).astype(int)  # one of each cell, dark where many
    assert cells[0, 0] < cells[0, 1] < cells[1, 0] == cells[1, 1] == 3 * 255
    assert Metrics(tmp_path, 7, BOTH).close() is None  # a matrix is no table of steps


def test_tensorboard_shows_images_histograms_and_the_summary(tmp_path):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5, 1)
    values = np.random.default_rng(0).normal(size=1000)
    counts, edges = np.histogram(values, 8)
    histogram = Histogram(counts, values.min(), values.max(), values.sum(), (values**2).sum())
    np.testing.assert_allclose(histogram.edges, edges)
    metrics = Metrics(tmp_path, 0)
    metrics.show(lambda log: log.images(1, 'train/images', images))
    metrics.show(lambda log: log.histograms(5, {'params/w': histogram}))
    metrics.show(lambda log: log.summary(9, {'test/top1': 98.5, 'split': 'test'}))
    metrics.close()
    board = boards.shown(tmp_path / 'tensorboard')
    sheet = boards.image(board[1, 'train/images'])
    assert sheet.shape == (9, 11, 3)
    np.testing.assert_array_equal(sheet[:4, 6:], images[1].repeat(3, -1))
    np.testing.assert_array_equal(sheet[5:, :5], images[2].repeat(3, -1))
    shown = board[5, 'params/w'].histo
    assert list(shown.bucket) == counts.tolist()
    np.testing.assert_allclose(shown.bucket_limit, edges[1:])
    assert shown.num == 1000
    assert '| test/top1 | 98.5 |' in board[9, 'result/text_summary'].tensor.string_val[0].decode()


def test_without_other_loggers_only_metrics_jsonl_is_written(tmp_path):
    metrics = Metrics(tmp_path, 0, LogSpec(()))
    metrics.write(1, train(1, 0.5))
    assert not metrics.shows('images')
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_equal_values_have_a_histogram_around_them():
    edges = Histogram(np.array([0, 5]), 2.0, 2.0, 10.0, 20.0).edges
    assert edges.tolist() == [1.5, 2.0, 2.5]


def test_classes_without_names_have_numbers():
    assert drawing.named(['cat'], 3) == ['cat', '1', '2']
