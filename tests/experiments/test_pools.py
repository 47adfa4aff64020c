"""Sweeps in jobs of Slurm, by submitit's local executor, and in tasks of Ray.

  PYTHON -m pytest -n 0 tests/experiments/test_pools.py

PYTHON is an interpreter that has the extras `sweep` or `ray` next to tests/requirements.txt.
"""

import pickle
import threading
import time

import pytest

from cls.errors import UserError
from cls.experiments import pools, remote, runs, sweep
from cls.experiments.plan import make_plan

COUNT = "import sys; open(sys.argv[1], 'a').write('.'); sys.stdin.read(); sys.exit(3)"


def plan(seeds):
    return make_plan('resnet', [], ['optim.lr=0.1,9.0'], seeds)


def behavior(fields):
    return 80, 'fails' if fields['optim.lr'] == '9.0' else 'once'


def check_outcomes(folder):
    data = runs.read(folder)
    assert [run.name for run in data.runs] == ['optim.lr=0.1,seed=0', 'optim.lr=0.1,seed=1']
    assert [trial.name for trial in data.failures] == [f'optim.lr=9.0,seed={s}' for s in (0, 1)]
    assert 'the rate is too high' in data.failures[0].message


def test_jobs_of_submitit_train_and_report(quickly, tmp_path):
    pytest.importorskip('submitit')
    quickly(behavior)
    spec = pools.PoolSpec('slurm', 4, {'cluster': 'local'})
    folder = tmp_path / 'sweep'
    sweep.run_grid(folder, plan(2), spec)
    check_outcomes(folder)
    assert len(runs.load_json(folder / 'jobs.json')) == 4
    before = {file: file.stat().st_size for file in folder.glob('*=0.1,*/starts')}
    sweep.run_grid(folder, plan(2), spec)
    assert before == {file: file.stat().st_size for file in folder.glob('*=0.1,*/starts')}
    assert set(before.values()) == {2}  # each was killed once


def test_parameters_that_submitit_does_not_know_are_one_line(quickly, tmp_path):
    pytest.importorskip('submitit')
    quickly(behavior)
    with pytest.raises(UserError, match='--slurm: expected timeout_min=MINUTES'):
        sweep.run_grid(tmp_path / 'a', plan(1), pools.PoolSpec('slurm', 4, {}))
    options = {'cluster': 'local', 'no_such': 1}
    with pytest.raises(UserError, match='submitit refuses'):
        sweep.run_grid(tmp_path / 'a', plan(1), pools.PoolSpec('slurm', 4, options))
    assert not list(tmp_path.glob('a/*=*'))


def test_tasks_of_ray_train_and_report(quickly, tmp_path):
    pytest.importorskip('ray')
    quickly(behavior)
    sweep.run_grid(tmp_path / 'sweep', plan(2), pools.PoolSpec('ray', 2, {'num_cpus': 1}))
    check_outcomes(tmp_path / 'sweep')


def test_options_of_ray_are_checked(monkeypatch):
    monkeypatch.setattr(pools, 'require', lambda *_: None)
    with pytest.raises(UserError, match='--ray gpus: known are num_cpus, num_gpus'):
        pools.PoolSpec('ray', 2, {'gpus': 1}).check()


def test_a_file_asks_a_command_on_another_machine_to_stop(tmp_path):
    """Closing its standard input is the request; the exit code is that of the command."""
    stop, starts = tmp_path / 'stop', tmp_path / 'starts'

    def ask():
        while not starts.exists():
            time.sleep(0.02)
        stop.touch()

    asking = threading.Thread(target=ask)
    asking.start()
    command = ['python', '-c', COUNT, str(starts)]
    assert remote.run(command, str(tmp_path / 'log'), str(stop)) == 3
    asking.join()


def test_a_job_whose_time_is_over_ends_its_training_and_is_continued(tmp_path):
    submitit = pytest.importorskip('submitit')
    command = remote.Command(['', '-c', COUNT, str(tmp_path / 'starts')], str(tmp_path / 'log'), '')
    command.process = remote._begun(command.command, command.log)
    again = command.checkpoint()
    assert command.process.poll() == 3
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert pickle.loads(pickle.dumps(again.function)).command == command.command
