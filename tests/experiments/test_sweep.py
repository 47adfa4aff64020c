"""Sweeps: every trial once, whatever is killed; failures next to results; nothing half-written."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cls.errors import UserError
from cls.experiments import pools, runs, sweep, trial
from cls.experiments.plan import make_plan
from cls.tools import sweep as tool

LOCAL = pools.PoolSpec('local', 2)


def plan(*grid, seeds=2, fields=()):
    return make_plan('resnet', fields, list(grid), seeds)


def starts(folder):
    """Returns {trial: number of its processes}."""
    return {file.parent.name: file.stat().st_size for file in folder.glob('*/starts')}


def command(folder, *arguments):
    return tool.main([f'--workdir={folder}', *arguments])


def test_every_trial_runs_once_and_the_results_are_compared(quickly, tmp_path, capsys):
    quickly(lambda fields: (80 + 10 * float(fields['optim.lr']) + int(fields['seed']), ''))
    folder = tmp_path / 'sweep'
    flags = ['--config=resnet', '--grid=optim.lr=0.1,0.2', '--seeds=2', '--jobs=2']
    assert command(folder, *flags) == 0
    text = capsys.readouterr().out
    assert '| optim.lr=0.1 | 81.50 ± 0.71 (2 seeds) |' in text
    assert '| optim.lr=0.2 | 82.50 ± 0.71 (2 seeds) |' in text
    assert '+1.00 for each of the 2 shared seeds' in text
    assert '4 trials: 4 finished, 0 failed' in text
    names = [f'optim.lr={rate},seed={seed}' for rate in ('0.1', '0.2') for seed in (0, 1)]
    assert starts(folder) == dict.fromkeys(names, 1)
    assert [t.name for t in runs.read(folder).trials] == names
    # The same command again, and the folder alone, train nothing; more seeds extend the sweep.
    assert command(folder, *flags) == command(folder) == 0
    assert starts(folder) == dict.fromkeys(names, 1)
    assert command(folder, *flags[:2], '--seeds=3') == 0
    assert len(starts(folder)) == 6
    assert '(3 seeds)' in capsys.readouterr().out


def test_failures_are_reported_next_to_the_results_and_tried_again(quickly, tmp_path, capsys):
    quickly(lambda fields: (80, 'fails' if fields['optim.lr'] == '9.0' else ''))
    folder = tmp_path / 'sweep'
    flags = ['--config=resnet', '--grid=optim.lr=0.1,9.0', '--seeds=2', '--jobs=2']
    assert command(folder, *flags) == 1
    text = capsys.readouterr().out
    assert '4 trials: 2 finished, 2 failed' in text
    assert 'optim.lr=9.0,seed=0 failed: error: the rate is too high (exit code' in text
    assert str(folder / 'logs' / 'optim.lr=9.0,seed=0.txt') in text
    assert [t.name for t in runs.read(folder).failures] == [
        f'optim.lr=9.0,seed={s}' for s in (0, 1)
    ]
    quickly(lambda fields: (80, ''))
    assert command(folder) == 0
    assert starts(folder)['optim.lr=9.0,seed=0'] == 2
    assert starts(folder)['optim.lr=0.1,seed=0'] == 1
    assert json.loads((folder / 'outcomes.json').read_text()) == {}


def test_a_trial_whose_process_is_killed_is_continued(quickly, tmp_path):
    quickly(lambda fields: (80, 'once'))
    sweep.run_grid(tmp_path / 'sweep', plan('optim.lr=0.1,0.2', seeds=1), LOCAL)
    assert set(starts(tmp_path / 'sweep').values()) == {2}
    assert len(runs.read(tmp_path / 'sweep').runs) == 2


def test_a_sweep_killed_at_any_moment_loses_no_trial_and_repeats_none(quickly, tmp_path):
    """The sweep is a process that is killed again and again; its trainings end with it."""
    quickly(lambda fields: (80, 'slow'))
    folder, the_plan = tmp_path / 'sweep', plan('optim.lr=0.1,0.2,0.3', seeds=2)
    done, kills = {}, 0
    while len(done) < 6:
        if not (process := os.fork()):
            try:
                sweep.run_grid(folder, the_plan, LOCAL)
            finally:
                os._exit(0)
        time.sleep(0.5 + 0.1 * kills)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        kills += 1
        assert kills < 60
        deadline = time.monotonic() + 10
        while alive(folder):
            assert time.monotonic() < deadline, 'a training outlived its sweep'
            time.sleep(0.05)
        for name, count in done.items():
            assert starts(folder)[name] == count, f'{name} was trained again'
        done = {t.name: starts(folder)[t.name] for t in finished(folder)}
    assert kills > 1
    sweep.run_grid(folder, the_plan, LOCAL)
    assert len(runs.read(folder).runs) == 6


def finished(folder):
    if not (folder / 'sweep.json').exists():
        return []
    return [t for t in runs.read(folder).trials if t.state == runs.FINISHED]


def alive(folder):
    """Whether a process has the folder among its arguments."""
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if f'{folder}/' in file.read_text():
                return True
        except OSError:
            continue
    return False


def test_two_processes_do_not_run_one_sweep(quickly, tmp_path):
    quickly(lambda fields: (80, ''))
    folder = tmp_path / 'sweep'
    folder.mkdir()
    with sweep.locked(folder), pytest.raises(UserError, match='another process is running'):
        sweep.run_grid(folder, plan(), LOCAL)
    assert not (folder / 'sweep.json').exists()


def test_a_folder_with_other_content_is_refused_before_anything_is_written(quickly, tmp_path):
    quickly(lambda fields: (80, ''))
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='not empty and holds no sweep'):
        sweep.run_grid(tmp_path, plan(), LOCAL)
    with pytest.raises(UserError, match='is a file'):
        sweep.run_grid(tmp_path / 'file', plan(), LOCAL)
    with pytest.raises(UserError, match='holds no sweep to continue'):
        command(tmp_path / 'none')
    folder = tmp_path / 'sweep'
    sweep.run_grid(folder, plan('optim.lr=0.1', seeds=1), LOCAL)
    before = (folder / 'sweep.json').read_text()
    with pytest.raises(UserError, match='another sweep .the trial optim.lr=0.1,seed=0 is not'):
        sweep.run_grid(folder, plan('optim.lr=0.2', seeds=1), LOCAL)
    other = plan('optim.lr=0.1', seeds=1, fields=[('batch', '32')])
    with pytest.raises(UserError, match='was another one when the sweep began'):
        sweep.run_grid(folder, other, LOCAL)
    with pytest.raises(UserError, match='have the same config'):
        sweep.run_grid(tmp_path / 'new', plan('optim.lr=0.1,1e-1'), LOCAL)
    assert (folder / 'sweep.json').read_text() == before
    assert not (tmp_path / 'new').exists()


def test_a_recipe_that_is_changed_during_the_sweep_is_noticed(quickly, tmp_path):
    quickly(lambda fields: (80, ''))
    folder = tmp_path / 'sweep'
    sweep.run_grid(folder, plan(seeds=1), LOCAL)
    spec = json.loads((folder / 'sweep.json').read_text())
    spec['trials'][0]['digest'] = 'of another recipe'
    (folder / 'sweep.json').write_text(json.dumps(spec))
    with pytest.raises(UserError, match='the recipe itself'):
        sweep.run_grid(folder, plan(seeds=1), LOCAL)


def test_processes_share_gpus():
    assert pools.gpu_share(0, 2, {}) == {}
    four = {'CUDA_VISIBLE_DEVICES': '0,1,2,5'}
    assert pools.gpu_share(1, 2, four) == {'CUDA_VISIBLE_DEVICES': '1,5'}
    assert pools.gpu_share(0, 1, four) == {}
    shares = [pools.gpu_share(slot, 6, four) for slot in range(6)]
    assert [share['CUDA_VISIBLE_DEVICES'] for share in shares] == ['0', '1', '2', '5', '0', '1']
    assert shares[0]['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.450'


def test_flags_of_other_places_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    assert pools.parse_options('timeout_min=60,slurm_partition=a', '--slurm') == {
        'timeout_min': 60, 'slurm_partition': 'a'
    }  # fmt: skip
    with pytest.raises(UserError, match='expected NAME=VALUE'):
        pools.parse_options('timeout', '--slurm')
    for flags, said in (
        (['--slurm', '--ray'], 'expected one of the two'),
        (['--jobs=0'], '--jobs is 0'),
        (['--trials=3'], '--trials is for --search'),
        (['--slurm', 'timeout_min=1'], "pip install 'cls.sweep."),
    ):
        with pytest.raises(UserError, match=said):
            command(tmp_path / 'sweep', '--config=resnet', '--seeds=1', *flags)
    assert not (tmp_path / 'sweep').exists()


def test_the_help_names_the_pruners():
    words = ' '.join(tool.parser().format_help().split())
    assert 'the first by default: hyperband, median, none' in words


def test_a_trial_waits_for_the_process_that_still_uses_its_folder(tmp_path):
    with sweep.locked(tmp_path):
        began = time.monotonic()
        trial.wait_for(tmp_path, 0.3)
        assert time.monotonic() - began >= 0.3
    began = time.monotonic()
    trial.wait_for(tmp_path, 30)
    trial.wait_for(tmp_path / 'none', 30)
    assert time.monotonic() - began < 20


def test_seeds_that_have_not_begun_are_grouped_by_config(tmp_path):
    trials = plan('optim.lr=0.1,0.2', seeds=3).trials()
    (tmp_path / trials[1].name / 'checkpoints' / '50').mkdir(parents=True)
    groups = sweep.in_groups(tmp_path, trials[:5])
    assert [[trial.name for trial in group] for group in groups] == [
        ['optim.lr=0.1,seed=0', 'optim.lr=0.1,seed=2'],
        ['optim.lr=0.1,seed=1'],
        ['optim.lr=0.2,seed=0', 'optim.lr=0.2,seed=1'],
    ]
