"""Searches with Optuna: points, pruning, continuation. They need `pip install 'cls[sweep]'`.

  PYTHON -m pytest -n 0 tests/experiments/test_study.py

PYTHON is an interpreter that has the extra `sweep` next to tests/requirements.txt.
"""

import subprocess
import sys
import time

import pytest
import stand_in
from stand_in import score

from cls.errors import UserError
from cls.experiments import check, pools, runs, study, sweep
from cls.experiments.plan import make_plan
from cls.tools import sweep as tool

optuna = pytest.importorskip('optuna')
FLAGS = [
    '--config=resnet',
    '--search=optim.lr=log:0.001:10',
    '--search=optim.momentum=uniform:0:0.9',
]


def points(folder):
    """Returns the drawn points, in the order of their numbers."""
    return [t.overrides for t in runs.read(folder).trials]


def search(folder, trials, *flags):
    return tool.main([f'--workdir={folder}', *FLAGS, f'--trials={trials}', *flags])


def starts(folder):
    return {file.parent.name: file.stat().st_size for file in folder.glob('*/starts')}


def test_a_search_finds_the_better_rates_and_is_extended(quickly, tmp_path, capsys):
    quickly(lambda fields: (score(fields), ''))
    folder = tmp_path / 'search'
    assert search(folder, 8, '--jobs=4') == 0
    text = capsys.readouterr().out
    assert '8 trials: 8 finished, 0 failed' in text
    assert 'Points are chosen on the test split' in text
    for trial in runs.read(folder).trials:
        assert trial.name.startswith('trial=')
        assert 0.001 <= float(trial.overrides['optim.lr']) <= 10
        assert 0 <= float(trial.overrides['optim.momentum']) <= 0.9
    assert len({tuple(point.items()) for point in points(folder)}) == 8
    before = starts(folder)
    assert tool.main([f'--workdir={folder}', '--trials=9']) == 0  # the folder has the ranges
    assert starts(folder) == before | {runs.read(folder).trials[8].name: 1}
    loaded = optuna.load_study(study_name='sweep', storage=f'sqlite:///{folder}/study.sqlite3')
    assert loaded.best_value == max(run.result['test/top1'] for run in runs.read(folder).runs)


def test_a_continued_search_draws_the_points_of_one_that_was_not_stopped(quickly, tmp_path):
    """Fifteen trials: ten are random, the others depend on all results before them."""
    quickly(lambda fields: (score(fields), ''), evaluations=1)
    search(tmp_path / 'whole', 15)
    for trials in (3, 11, 15):
        search(tmp_path / 'parts', trials)
    assert points(tmp_path / 'parts') == points(tmp_path / 'whole')


def test_trials_that_are_behind_are_pruned_by_their_own_curve(quickly, tmp_path, capsys):
    """After nine evaluations Hyperband has stopped some of the trials, none at its first one."""
    quickly(lambda fields: (score(fields), 'slow'), evaluations=9, kind='test')
    folder = tmp_path / 'search'
    assert search(folder, 16, '--jobs=3') == 0
    states = [trial.state for trial in runs.read(folder).trials]
    assert states.count('pruned') >= 1
    assert states.count('pruned') + states.count('finished') == 16
    loaded = optuna.load_study(study_name='sweep', storage=f'sqlite:///{folder}/study.sqlite3')
    reported = [list(trial.intermediate_values) for trial in loaded.trials]
    assert all(steps == list(range(1, len(steps) + 1)) for steps in reported)
    assert {len(steps) for t, steps in zip(loaded.trials, reported, strict=True)} - {9}
    assert 'pruned after' in capsys.readouterr().out
    assert f'{states.count("pruned")} pruned' in tool_report(folder, capsys)


def tool_report(folder, capsys):
    tool.report(runs.read_sweep(folder))
    return capsys.readouterr().out


def test_a_failed_trial_counts_and_is_not_tried_again(quickly, tmp_path):
    quickly(lambda fields: (80, 'fails' if float(fields['optim.lr']) > 0.1 else ''))
    folder = tmp_path / 'search'
    assert search(folder, 6, '--jobs=3') == 1
    failed = len(runs.read(folder).failures)
    assert 0 < failed < 6
    before = starts(folder)
    assert search(folder, 6) == 1
    assert starts(folder) == before


def test_a_search_killed_at_any_moment_loses_no_trial_and_repeats_no_point(quickly, tmp_path):
    quickly(lambda fields: (score(fields), ''), evaluations=1)
    search(tmp_path / 'whole', 5)
    folder, kills = tmp_path / 'killed', 0
    flags = [f'--workdir={folder}', *FLAGS, '--trials=5']
    while sum(t.state == runs.FINISHED for t in trials(folder)) < 5:
        done = {t.name: starts(folder)[t.name] for t in trials(folder) if t.state == runs.FINISHED}
        before = sum(starts(folder).values())
        process = subprocess.Popen([sys.executable, stand_in.__file__, *flags])
        while process.poll() is None and sum(starts(folder).values()) == before:
            time.sleep(0.05)
        time.sleep(0.15 * kills)  # into the first training, or into one after it
        process.kill()
        process.wait()
        time.sleep(0.3)
        kills += 1
        assert kills < 15
        assert {name: starts(folder)[name] for name in done} == done
    search(folder, 5)
    assert kills > 1
    assert points(folder) == points(tmp_path / 'whole')


def trials(folder):
    return runs.read(folder).trials if (folder / 'sweep.json').exists() else ()


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('normal:0:1', 'expected uniform:LOW:HIGH'),
        ('log:0:1', 'expected LOW above 0'),
        ('uniform:2:1', 'and a larger HIGH'),
        ('int:1:x', 'expected uniform:LOW:HIGH'),
        ('choice:a', 'two or more different values'),
        ('choice:a,a', 'two or more different values'),
    ],
)
def test_ranges_are_checked(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        tool.main([f'--workdir={tmp_path}/a', '--config=resnet', f'--search=optim.lr={text}',
                   '--trials=2'])  # fmt: skip
    assert not (tmp_path / 'a').exists()


def test_the_ends_of_all_ranges_are_checked_before_the_first_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, 'check', check.described)
    flags = [
        f'--workdir={tmp_path}/a',
        '--config=resnet',
        '--trials=2',
        '--search=optim.lr=log:1:2',
    ]
    with pytest.raises(UserError, match='config.optim.momentum is 1.5'):
        tool.main([*flags, '--search=optim.momentum=uniform:0.5:1.5'])
    with pytest.raises(UserError, match='no_such_model'):
        tool.main([*flags, '--search=model.name=choice:resnet20_cifar,no_such_model'])
    assert not (tmp_path / 'a').exists()
    plan = make_plan('resnet', [], [], None, ['batch=int:8:9', 'optim.name=choice:sgd,adam,adamw'])
    assert len(study.corners(plan)) == 4


def test_searches_need_trials_and_a_known_pruner(tmp_path):
    for flags, said in (
        (['--trials=0'], '--trials is 0'),
        (['--trials=2', '--pruner=x'], 'known: h'),
    ):
        with pytest.raises(UserError, match=said):
            tool.main([f'--workdir={tmp_path}/a', *FLAGS, *flags])
    assert pools.PoolSpec().kind == 'local'
