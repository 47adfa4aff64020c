"""Readers of run folders and sweep folders, groups, and statistics over seeds."""

import json
import logging
import math

import numpy as np
import pytest

from cls.config import load as configs
from cls.errors import UserError
from cls.experiments import groups, runs, statistics


def write_run(folder, top1=90.0, overrides=(), finished=True):
    """Writes a run folder as a training on digits leaves it."""
    folder.mkdir(parents=True)
    config = configs.load('resnet', [*overrides])
    (folder / 'config.json').write_text(configs.to_json(config))
    rows = [
        {'step': 5, 'train/loss': 1.5, 'train/top1': 40.0, 'learning_rate': 0.1},
        {'step': 5, 'test/top1': top1 - 10, 'test/top5': 99.0, 'test/loss': 0.9},
        {'step': 10, 'train/loss': None, 'train/top1': 80.0, 'learning_rate': 0.0},
        {'step': 10, 'test/top1': top1, 'test/top5': 99.0, 'test/loss': 0.5},
    ]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / 'classes.json').write_text('["zero", "one"]')
    (folder / 'time.json').write_text('{"start": 1.0, "step": 4.0, "restarts": 0, "at": 1e9}')
    result = {'test/top1': top1, 'test/top5': 99.0, 'test/loss': 0.5}
    if finished:
        result |= {'split': 'test', 'step': 10, 'seconds': 5.0}
        (folder / 'result.json').write_text(json.dumps(result))
    return folder


def write_sweep(folder, trials, outcomes=()):
    folder.mkdir(parents=True, exist_ok=True)
    spec = {'config': 'resnet', 'trials': [{'name': n, 'overrides': o} for n, o in trials.items()]}
    (folder / 'sweep.json').write_text(json.dumps(spec))
    (folder / 'outcomes.json').write_text(json.dumps(dict(outcomes)))
    return folder


def test_a_run_folder_is_read_with_its_curves(tmp_path):
    run = runs.read(write_run(tmp_path / 'run', 91.0, [('seed', '3')]))
    assert (run.name, run.seed, run.classes) == ('run', 3, ('zero', 'one'))
    assert run.result['test/top1'] == 91.0
    assert run.fields['optim.lr'] == 0.1
    assert run.curve('test/top1') == [(5, 81.0), (10, 91.0)]
    assert run.curve('train/loss') == [(5, 1.5)]
    assert run.curves[:3] == ['train/loss', 'train/top1', 'learning_rate']
    assert run.time['step'] == 4.0


def test_a_run_that_is_killed_in_a_line_is_read_to_the_line_before(tmp_path, caplog):
    folder = write_run(tmp_path / 'run', finished=False)
    with (folder / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 15, "train/lo')
    run = runs.read(folder)
    assert (len(run.metrics), run.result) == (4, None)
    assert not caplog.records
    text = (folder / 'metrics.jsonl').read_text()
    (folder / 'metrics.jsonl').write_text('{"no step": 1}\n' + text)
    assert len(runs.read(folder).metrics) == 4
    assert '1 lines cannot be read' in caplog.text


def test_a_sweep_folder_is_read_with_its_failures(tmp_path):
    write_run(tmp_path / 'a')
    write_run(tmp_path / 'b', finished=False)
    write_run(tmp_path / 'p', finished=False)
    names = {name: {'optim.lr': '0.1', 'seed': str(i)} for i, name in enumerate('abpfx')}
    outcomes = {'f': {'state': 'failed', 'message': 'too high'}, 'a': {'state': 'failed'}}
    write_sweep(tmp_path, names, outcomes | {'p': {'state': 'pruned', 'message': 'after 2'}})
    sweep = runs.read(tmp_path)
    states = {trial.name: trial.state for trial in sweep.trials}
    # A result is newer than any failure before it.
    expected = ('finished', 'open', 'pruned', 'failed', 'open')
    assert states == dict(zip('abpfx', expected, strict=True))
    assert [run.name for run in sweep.runs] == ['a']
    assert [(trial.name, trial.message) for trial in sweep.failures] == [('f', 'too high')]
    assert sweep.trials[1].run.metrics
    assert sweep.trials[3].run is None
    assert [run.name for run in runs.runs_of([tmp_path, tmp_path / 'a'])] == ['a']


def test_other_folders_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match='no folder .* expected a run folder or a sweep'):
        runs.read(tmp_path / 'none')
    with pytest.raises(UserError, match='is not a run folder .* and no sweep folder'):
        runs.read(tmp_path)
    write_sweep(tmp_path, {'../elsewhere': {}})
    with pytest.raises(UserError, match='is not a sweep folder'):
        runs.read(tmp_path)
    write_sweep(tmp_path, {'a': {}})
    with pytest.raises(UserError, match='no trial .* is finished yet'):
        runs.runs_of([tmp_path])


def test_groups_are_runs_with_equal_configs_up_to_the_seed(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'cls')
    folders = [
        write_run(tmp_path / f'{rate}-{seed}-{every}', 90, [
            ('optim.lr', rate), ('seed', seed), ('log_every', every)
        ])
        for rate, seed, every in [
            ('0.1', '1', '5 steps'), ('0.2', '0', '5 steps'), ('0.1', '0', '7 steps'),
            ('0.1', '0', '9 steps'),
        ]
    ]  # fmt: skip
    one, other = groups.grouped(runs.runs_of(folders))
    assert (one.label, one.seeds, dict(one.fields)) == ('optim.lr=0.1', (0, 1), {'optim.lr': 0.1})
    assert (other.label, other.seeds) == ('optim.lr=0.2', (0,))
    assert one.results('test/top1') == {0: 90, 1: 90}
    assert one.results('test_ema/top1') == {}
    assert 'has the config and the seed of' in caplog.text
    (only,) = groups.grouped(runs.runs_of(folders[1:2]))
    assert only.label == 'resnet20_cifar'


def test_a_mean_has_the_sample_standard_deviation_and_the_t_interval():
    summary = statistics.summarize([92.39, 93.80, 79.44])
    assert str(summary) == '88.54 ± 7.92 (3 seeds)'
    # Student's t for 2 degrees of freedom at 97.5 %, from the closed form of its distribution.
    p = 0.975
    quantile = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    half = quantile * np.std([92.39, 93.80, 79.44], ddof=1) / math.sqrt(3)
    assert summary.high - summary.mean == pytest.approx(half)
    assert summary.mean - summary.low == pytest.approx(half)
    assert str(statistics.summarize([80.0])) == '80.00 (1 seed)'


def test_the_paired_test_is_of_shared_seeds_only():
    one, other = {0: 90.0, 1: 92.0, 2: 91.0, 7: 0.0}, {2: 93.0, 0: 91.0, 1: 92.5, 9: 50.0}
    result = statistics.paired(one, other)
    assert result.seeds == (0, 1, 2)
    gains = np.array([1.0, 0.5, 2.0])
    t = gains.mean() / (gains.std(ddof=1) / math.sqrt(3))
    p = 1 - t / math.sqrt(t * t + 2)  # of Student's t with 2 degrees of freedom, both sides
    assert result.difference == pytest.approx(gains.mean())
    assert result.p == pytest.approx(p)
    assert result.low < 0 < result.difference < result.high


def test_with_one_shared_seed_or_none_nothing_is_said():
    assert 'nothing can be said' in str(statistics.paired({0: 1.0}, {0: 2.0}))
    assert 'no shared seed' in str(statistics.paired({0: 1.0}, {1: 2.0}))
    equal = statistics.paired({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5})
    assert equal.p is None
    assert str(equal) == '+0.50 for each of the 2 shared seeds'
