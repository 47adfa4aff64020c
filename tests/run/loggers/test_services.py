"""Services with their real packages, offline: a run that is killed and resumed, read back.

Skipped without the packages. With them, next to the packages of .venv:

  python3.11 -m venv loggers && loggers/bin/pip install wandb mlflow trackio
  realpath .venv/lib/python3.11/site-packages > loggers/lib/python3.11/site-packages/base.pth
  loggers/bin/python -m pytest -n 0 tests/run/loggers/test_services.py
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from logs import all_logged

ROOT = Path(__file__).parents[3]
RUN = (
    f'--config={ROOT / "configs/resnet.py"}',
    '--config.model.stage_sizes=(1, 1, 1)',
    '--config.duration=24 steps',
    '--config.schedule.warmup=4 steps',
    '--config.log_every=2 steps',
    '--config.checkpoint.every=8 steps',
    '--config.eval.every=8 steps',
    '--config.data.flip=true',
    '--config.log.histograms_every=9 steps',
    '--config.log.project=birds',
)


class Wandb:
    """The offline files of Weights & Biases."""

    def __init__(self, workdir, id):
        from wandb.proto import wandb_internal_pb2

        from cls.run.loggers.wandb import _entries

        self.rows, self.summary, self.files = [], {}, []
        folders = sorted((workdir / 'wandb').glob('offline-run-*'))
        assert [folder.name.rpartition('-')[2] for folder in folders] == [id] * 2
        for folder in folders:
            (file,) = folder.glob('*.wandb')
            for content in _entries(file.read_bytes()):
                self._read(wandb_internal_pb2.Record.FromString(content))
            self.files += [path.name for path in (folder / 'files').rglob('*') if path.is_file()]

    def _read(self, record):
        if record.HasField('history'):
            items = {
                '/'.join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            self.rows.append((items['_step'], items))
        for item in record.summary.update if record.HasField('summary') else ():
            self.summary['/'.join(item.nested_key) or item.key] = json.loads(item.value_json)

    def steps(self, name):
        return [(step, row[name]) for step, row in self.rows if name in row]

    def check_more(self):
        assert self.summary['split'] == 'test'
        assert self.summary['test/top1'] == self.steps('test/top1')[-1][1]
        histograms = self.steps('gradients/conv1/kernel/values')
        assert [(step, len(values)) for step, values in histograms] == [(1, 64), (10, 64), (19, 64)]
        assert [step for step, _ in self.steps('train/images/count')] == [1]
        assert sum(name.endswith('.png') for name in self.files) == 16


class Mlflow:
    """The store of MLflow."""

    def __init__(self, workdir, id):
        import mlflow

        self.id, self.client = id, mlflow.MlflowClient(os.environ['MLFLOW_TRACKING_URI'])
        self.run = self.client.get_run(id)

    def steps(self, name):
        return [(x.step, x.value) for x in self.client.get_metric_history(self.id, name)]

    def check_more(self):
        assert self.run.info.status == 'FINISHED'
        assert self.run.data.params['optim.name'] == 'sgd'
        assert self.run.data.tags['split'] == 'test'
        assert self.run.data.metrics['result/test/top1'] == self.steps('test/top1')[-1][1]
        assert self.client.get_experiment_by_name('birds').experiment_id == (
            self.run.info.experiment_id
        )
        names = [x.path for x in self.client.list_artifacts(self.id, 'test')]
        assert sorted(names) == ['test/confusion.json', 'test/confusion.png']
        assert self.client.list_artifacts(self.id, 'train')[0].path == 'train/images.png'


class Trackio:
    """The database of Trackio."""

    def __init__(self, workdir, id):
        from trackio.sqlite_storage import SQLiteStorage

        assert SQLiteStorage.get_runs('birds') == [id]
        self.rows = SQLiteStorage.get_logs('birds', id)

    def steps(self, name):
        return [(row['step'], row[name]) for row in self.rows if name in row]

    def check_more(self):
        assert self.steps('result/test/top1') == self.steps('test/top1')[-1:]
        assert [step for step, _ in self.steps('train/images')] == [1]
        assert [step for step, _ in self.steps('test/confusion')] == [24]
        assert [step for step, _ in self.steps('gradients/conv1/kernel')] == [1, 10, 19]


STORES = {'wandb': Wandb, 'mlflow': Mlflow, 'trackio': Trackio}


def command(workdir, name):
    fields = [f"--config.log.to=('{name}',)", f'--workdir={workdir}']
    return [sys.executable, '-m', 'cls.main', *RUN, *fields]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The environment of runs whose services write to a folder."""
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path / "mlflow.db"}')
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('PYTHONUNBUFFERED', '1')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # the current folder gets MLflow's mlruns/
    return tmp_path


def killed_at(workdir, name, step):
    """Trains until a line for a step, and kills the process; returns its lines."""
    process = subprocess.Popen(
        command(workdir, name), cwd=workdir.parent, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(f'step {step}/'):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    return lines


@pytest.mark.parametrize('name', STORES)
def test_a_killed_run_continues_in_the_service_and_no_step_comes_twice(name, offline):
    pytest.importorskip(name)
    workdir = offline / 'run'
    lines = killed_at(workdir, name, 14)
    said = [line for line in lines if line.startswith(f'{name}: ')]
    record = json.loads((workdir / 'loggers.json').read_text())[name]
    assert len(said) == 1
    assert record['id'] in said[0]
    assert lines.index(said[0]) < next(i for i, x in enumerate(lines) if x.startswith('compiling'))
    done = subprocess.run(command(workdir, name), cwd=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'continuing from step \d+ of 24', done.stdout)

    rows = all_logged(workdir)
    store = STORES[name](workdir, record['id'])
    for metric in ('train/loss', 'train/top1', 'test/top1', 'test/loss'):
        logged = [(row['step'], row[metric]) for row in rows if metric in row]
        assert len(logged) == (12 if 'train' in metric else 3)
        steps = [step for step, _ in store.steps(metric)]
        assert steps == sorted(set(steps))
        assert set(store.steps(metric)) <= set(logged)
        # At most the second entry of a step, an evaluation, is lost with the killed process.
        assert len(logged) - len(steps) <= 1
    store.check_more()


@pytest.mark.parametrize('name', STORES)
def test_a_service_that_cannot_be_reached_is_one_line_and_exit_code_2(name, offline, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv('WANDB_MODE', 'online')
    monkeypatch.setenv('WANDB_API_KEY', 'short')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'nonsense://host')
    monkeypatch.setenv('TRACKIO_SERVER_URL', 'http://127.0.0.1:9')
    done = subprocess.run(
        command(offline / 'run', name), cwd=offline, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if 'config.log.to' in line]
    assert len(lines) == 1
    assert f'leave {name} out' in lines[0]
    assert not (offline / 'run' / 'metrics.jsonl').exists()
