"""Names of splits and of the metrics on them."""

import json

import pytest

from cls import evaluate
from cls.data import splits
from cls.run import metric_names
from cls.run.telemetry import Metrics

KINDS = {
    'test': 'test',
    'Test': 'test',
    'testing': 'test',
    'test[:50%]': 'test',
    'test[:10]+test[20:]': 'test',
    'val': 'validation',
    'VALID': 'validation',
    'validation': 'validation',
    'validation[:1000]': 'validation',
    'train': 'validation',
    'train[90%:]': 'validation',
    'train+test': 'validation',
    'test+validation': 'validation',
    '0.1 of each class held out': 'validation',
    'tests': 'validation',
    'latest': 'validation',
    'all': 'validation',
    '': 'validation',
}


@pytest.mark.parametrize('split', KINDS)
def test_only_a_test_split_is_one(split):
    assert splits.kind(split) == KINDS[split]


@pytest.mark.parametrize('kind', ['test', 'validation'])
def test_figures_are_found_whatever_split_they_are_of(kind):
    values = {'step': 3, f'{kind}/top1': 20.0, f'{kind}_ema/top1': 30.0, 'train/top1': 99.0}
    assert metric_names.figure(values, 'top1') == 20
    assert metric_names.figure(values, 'top1', ema=True) == 30
    assert metric_names.figure(values, 'loss') is None
    values |= {f'{name}/{m}': 1.0 for name in (kind, f'{kind}_ema') for m in ('top5', 'loss')}
    line = (
        f'{kind} top-1 20.00 %, top-5 1.00 %, loss 1.0000; {kind} (average of weights) top-1 30.00'
    )
    assert evaluate.summary(values).startswith(line)


@pytest.mark.parametrize('kind', ['test', 'validation'])  # the name in older runs, and now
def test_an_evaluation_that_is_repeated_is_not_logged_twice(kind, tmp_path):
    lines = [
        {'step': 2, f'{kind}/top1': 1.0},
        {'step': 4, 'train/loss': 2.0},
        {'step': 4, f'{kind}/top1': 3.0},
        {'step': 5, 'train/loss': 4.0},
    ]
    file = tmp_path / 'metrics.jsonl'
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    metrics = Metrics(tmp_path, 4)
    metrics.write(4, {'validation/top1': 5.0})
    metrics.close()
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == [*lines[:2], {'step': 4, 'validation/top1': 5.0}]
