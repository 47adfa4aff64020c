"""Sweeps whose trials really train: the checks before them, their run folders, kill -9."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_sweep import alive

from cls import main as cls_main
from cls import models
from cls.data import datasets
from cls.errors import UserError
from cls.experiments import check, runs, sweep
from cls.models import registry
from cls.run.workdir import load_result
from cls.tools import sweep as tool

RECIPE = """
import flax.linen as nn
from cls import models
from cls.recipes import common


class Plain(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(images))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


MINE = models.System('Mine', 'A model of my own', '', '', None, None)
models.register(models.Variant('plain', MINE, Plain, {}, input_size=8, params=0, macs=0))


def get_config(argument):
    c = common.base()
    common.use_digits(c)
    c.model.name = 'plain'
    c.optim.lr = 0.01
    c.duration, c.batch, c.log_every, c.eval.every = '8 steps', 64, '2 steps', '4 steps'
    return c
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with a model of its own, unknown again after the test."""
    models.names()
    monkeypatch.setattr(registry, '_VARIANTS', dict(registry._VARIANTS))
    monkeypatch.setattr(registry, '_ORIGINS', {})
    (tmp_path / 'own.py').write_text(RECIPE)
    return str(tmp_path / 'own.py')


@pytest.mark.sweep
def test_trials_are_ordinary_runs_and_one_that_fails_is_reported(recipe, tmp_path, capfd):
    folder = tmp_path / 'sweep'
    flags = [f'--config={recipe}', f'--workdir={folder}', '--grid=optim.lr=0.01,1e38', '--jobs=2']
    assert tool.main([*flags, '--config.optim.momentum=0.5']) == 1
    text = capfd.readouterr().out
    data = runs.read(folder)
    (good,), (bad,) = data.runs, data.failures
    assert good.fields['optim.momentum'] == 0.5
    assert [step for step, _ in good.curve('test/top1')] == [4, 8]
    assert f'{bad.name} failed: error: ' in text
    assert 'not finite at step' in bad.message
    # The folder is that of the same training without a sweep: nothing is left to train.
    same = ['--config.optim.lr=0.01', '--config.optim.momentum=0.5', '--config.seed=0']
    arguments = [f'--config={recipe}', f'--workdir={good.folder}', *same]
    assert cls_main.main(arguments) == 0
    assert 'nothing was trained' in capfd.readouterr().out


def test_one_bad_value_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, 'check', check.described)
    flags = [f'--config={recipe}', f'--workdir={tmp_path / "sweep"}']
    bad = ['--grid=optim.lr=0.01,x', '--grid=batch=64,5000', '--grid=duration=8 steps,0 steps']
    with pytest.raises(UserError) as caught:
        tool.main([*flags, *bad])
    for said in ("config.optim.lr is a float (now 0.01); 'x' is not", 'config.batch is 5000'):
        assert said in str(caught.value)
    assert not (tmp_path / 'sweep').exists()


def test_the_check_opens_each_data_set_once(recipe, monkeypatch):
    opened, load = [], datasets.load
    monkeypatch.setattr(datasets, 'load', lambda *args: opened.append(args[1]) or load(*args))
    points = [(('optim.lr', f'{lr}'), ('seed', seed)) for lr in (0.1, 0.2) for seed in '01']
    first, *others = check.described(recipe, points)
    assert opened == ['train', 'eval']
    assert len({one.digest for one in (first, *others)}) == 4
    sizes = [(('data.eval_resize', '40'), *point) for point in points]
    check.described(recipe, [*points, *sizes])
    assert opened == 3 * ['train', 'eval']


@pytest.mark.sweep
def test_a_sweep_that_is_killed_ends_with_the_results_of_one_that_is_not(recipe, tmp_path):
    """Kills the sweep, and then the trainings, at several moments; every result is the same."""
    flags = ['--config', recipe, '--grid', 'optim.lr=0.01,0.02', '--seeds', '2', '--jobs', '2']
    fields = ['--config.duration=200 steps', '--config.checkpoint.every=20 steps']

    def started(folder):
        command = [sys.executable, '-m', 'cls', 'sweep', *flags, *fields, '--workdir', str(folder)]
        return subprocess.Popen(command, start_new_session=True)

    assert started(tmp_path / 'whole').wait(600) == 0
    folder, kills, finished = tmp_path / 'killed', 0, {}
    while (code := ended(process := started(folder), 8 + 4 * kills)) is None:
        if kills % 2 and (children := trainings(folder)):
            os.kill(children[0], signal.SIGKILL)
            time.sleep(5)
        process.kill()
        process.wait()
        kills += 1
        deadline = time.monotonic() + 60
        while alive(folder):
            assert time.monotonic() < deadline, 'a training outlived its sweep'
            time.sleep(0.1)
        for name, when in finished.items():
            assert (folder / name / 'result.json').stat().st_mtime_ns == when
        results = folder.glob('*/result.json')
        finished = {file.parent.name: file.stat().st_mtime_ns for file in results}
    assert (code, kills > 1) == (0, True)
    for trial in runs.read(tmp_path / 'whole').trials:
        one, other = (load_result(tmp_path / name / trial.name) for name in ('whole', 'killed'))
        assert one['test/loss'] == other['test/loss']


def ended(process, seconds):
    """Returns the exit code of a process; None if it still runs after some seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def trainings(folder):
    """Returns the ids of the processes that train in a sweep folder."""
    listed = subprocess.run(
        ['pgrep', '-f', f'cls.main.*{folder}/'], capture_output=True, text=True, check=False
    )
    return [int(line) for line in listed.stdout.split()]
