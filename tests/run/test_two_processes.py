"""Runs of two processes: early stopping and the best checkpoint as in one, and who writes logs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from boards import events
from logs import logged

from cls.run import checkpoint_files

pytestmark = pytest.mark.sweep
ROOT = Path(__file__).parents[2]
FLAGS = (
    '--config=configs/resnet.py',
    '--config.model.stage_sizes=(1,1,1)',
    '--config.model.widths=(4,4,4)',
    '--config.model.bn_group=0',
    '--config.optim.lr=0.2',
    '--config.schedule.warmup=0 steps',
    '--config.duration=80 steps',
    '--config.log_every=4 steps',
    '--config.checkpoint.every=8 steps',
    '--config.checkpoint.keep=1',
    '--config.checkpoint.best=validation/top1',
    '--config.eval.every=4 steps',
    '--config.eval.validation=0.1',
    '--config.eval.patience=2',
    '--config.log.to=("tensorboard", "csv", "trackio")',
)
# A package that notes the calls of each process.
TRACKIO = """
import json, os


def note(*values):
    with open(os.environ['NOTES'], 'a') as file:
        print(json.dumps([os.getpid(), *values]), file=file)


class Run:
    def log(self, values, step=None):
        note('log', step, sorted(values))

    def finish(self):
        note('finish')


def init(project, **options):
    note('init', project)
    return Run()


def Image(*values, **options):
    return None


Histogram = Markdown = Image
"""


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """The folders of a run of one process with two devices, and of two processes with one each."""
    folder = tmp_path_factory.mktemp('both')
    (folder / 'packages').mkdir()
    (folder / 'packages' / 'trackio.py').write_text(TRACKIO)
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    environment |= {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(folder / 'packages')}
    one = [sys.executable, '-m', 'cls.main']
    local = [sys.executable, 'launch/local.py', '--processes=2', '--devices=1']
    two = [*local, '--logs', folder / 'logs', '--']
    for name, command in (('one', one), ('two', two)):
        own = environment | {'NOTES': str(folder / f'{name}.jsonl')}
        own |= {'JAX_NUM_CPU_DEVICES': '2'} if name == 'one' else {}
        command = [*command, *FLAGS, '--workdir', folder / name]
        subprocess.run(command, env=own, cwd=ROOT, check=True, timeout=600)
    return folder / 'one', folder / 'two'


def test_they_stop_at_the_same_step_with_the_same_best_checkpoint(both):
    one, two = (json.loads((run / 'result.json').read_text()) for run in both)
    processes = [json.loads((run / 'environment.json').read_text()) for run in both]
    assert [each['process_count'] for each in processes] == [1, 2]
    assert 'no better validation/top1 in 2 evaluations' in two['stopped']
    assert two['step'] < 80 and two['best']['step'] < two['step']
    for name in ('step', 'stopped', 'best', 'evaluated', 'test/top1'):
        assert two[name] == one[name]
    assert two['test/loss'] == pytest.approx(one['test/loss'], rel=1e-3)
    steps = [checkpoint_files.steps(run / 'checkpoints') for run in both]
    assert sorted(steps[0]) == sorted(steps[1]) == [two['best']['step'], two['step']]
    assert not checkpoint_files.damage(both[1] / 'checkpoints' / str(two['best']['step']))
    content = [(run / 'checkpoints' / 'best.json').read_bytes() for run in both]
    assert content[0] == content[1]


def test_only_the_first_process_writes_logs(both):
    _, run = both
    rows = [(line['step'], *sorted(line)) for line in logged(run)]
    assert len(rows) == len(set(rows))
    assert [line['step'] for line in logged(both[0])] == [line['step'] for line in logged(run)]
    (file,) = (run / 'tensorboard').glob('events*')
    points = [(e.step, value.tag) for e in events(file.parent) for value in e.summary.value]
    assert len(points) == len(set(points)) > 0
    for name in ('train.csv', 'validation.csv'):
        steps = [row['step'] for row in csv.DictReader((run / 'metrics' / name).open())]
        assert len(steps) == len(set(steps)) > 0
    notes = [json.loads(line) for line in run.with_name('two.jsonl').read_text().splitlines()]
    assert len({process for process, *_ in notes}) == 1
    kinds = [kind for _, kind, *_ in notes]
    assert (kinds[0], kinds[-1]) == ('init', 'finish')
    assert kinds.count('init') == kinds.count('finish') == 1
    alone = run.with_name('one.jsonl').read_text().splitlines()
    assert [json.loads(line)[1:] for line in alone] == [each[1:] for each in notes]
