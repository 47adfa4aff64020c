"""Engines: the same search in every engine, and processes that die."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from signalled import defaults

from cls.errors import UserError
from cls.search import engines, loop
from cls.search.engines import EngineSpec
from cls.search.history import History
from cls.search.searcher import FAILED
from cls.search.searchers.evolution import Evolution
from cls.search.spaces.tabular import FixedOps

ROOT = Path(__file__).parents[2]
SPACE = FixedOps(6, 3)


@dataclasses.dataclass(frozen=True)
class Dies:
    """The sum of a code, after a random while; some trials kill their process.

    A trial of `once` does so the first time, while its file is not in `folder`; one of `always`
    every time.
    """

    folder: Path
    once: tuple[int, ...] = ()
    always: tuple[int, ...] = ()

    def __call__(self, trial):
        marker = self.folder / f'{trial.number}'
        if trial.number in self.always or (trial.number in self.once and not marker.exists()):
            with marker.open('a') as file:
                file.write('x')
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(int.from_bytes(os.urandom(1)) / 10_000)
        if sum(trial.code) == 7:
            raise ValueError('seven')
        return {'accuracy': sum(trial.code)}


@dataclasses.dataclass(frozen=True)
class Wrong:
    """An evaluation that finds a mistake of the user."""

    def __call__(self, trial):
        raise UserError('the data are not there')


@dataclasses.dataclass(frozen=True)
class Endless:
    """An evaluation that writes its process ID and does not end."""

    file: Path

    def __call__(self, trial):
        self.file.write_text(str(os.getpid()))
        time.sleep(600)


def settings(engine, max_concurrent=3, workers=0):
    return EngineSpec(engine, max_concurrent, workers)


def searched(file, config, evaluate, evaluations=30):
    history = History(file)
    with engines.started(config, evaluate) as submit:
        loop.search(
            Evolution(SPACE, 0, population=6, sample=2),
            submit,
            lambda metrics: metrics['accuracy'],
            history,
            evaluations=evaluations,
            max_concurrent=config.max_concurrent,
        )
    return history.results


def test_neither_engine_nor_workers_nor_deaths_change_a_search(tmp_path):
    searched(tmp_path / 'local', settings('local'), Dies(tmp_path))
    # Trial 9 dies once: it is evaluated again by another process.
    results = searched(tmp_path / 'two', settings('processes', workers=2), Dies(tmp_path, (9,)))
    assert (tmp_path / '9').read_text() == 'x'
    assert (tmp_path / 'two').read_bytes() == (tmp_path / 'local').read_bytes()
    failed = [result for result in results if result.fitness == FAILED]
    assert failed
    assert all(sum(result.trial.code) == 7 for result in failed)
    assert {result.metrics['error'] for result in failed} == {'ValueError: seven'}


def test_a_trial_that_brings_every_process_down_fails_alone(tmp_path):
    results = searched(
        tmp_path / 'history',
        settings('processes', max_concurrent=2),
        Dies(tmp_path, always=(2,)),
        evaluations=5,
    )
    assert (tmp_path / '2').read_text() == 'xxx'
    assert results[2].fitness == FAILED
    assert results[2].metrics == {'error': '3 processes died of it'}
    others = [r for r in results if r.trial.number != 2 and sum(r.trial.code) != 7]
    assert [r.fitness for r in others] == [sum(r.trial.code) for r in others]


@pytest.mark.parametrize('engine', ['local', 'processes'])
def test_a_mistake_in_the_config_ends_a_search(tmp_path, engine):
    with pytest.raises(UserError, match='^the data are not there$'):
        searched(tmp_path / 'history', settings(engine, 2), Wrong())


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGINT, 130)]
)
def test_no_process_outlives_a_search_that_is_stopped(tmp_path, number, code):
    """A signal to the group does not stop the workers; they end with the search."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_engines as t
from cls import signals
from cls.distributed.preemption import Preemption
if __name__ == '__main__':
    signals.begin(['cls.main'])
    with Preemption():
        t.searched(None, t.settings('processes', 1), t.Endless(Path({str(tmp_path / 'pid')!r})))
"""
    (tmp_path / 'program.py').write_text(program)
    environment = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT}/tests'}
    process = subprocess.Popen(
        [sys.executable, tmp_path / 'program.py'],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=defaults,
    )
    while not (tmp_path / 'pid').exists() or not (tmp_path / 'pid').read_text():
        assert process.poll() is None
        time.sleep(0.05)
    worker = Path('/proc') / (tmp_path / 'pid').read_text()
    ignored = int((worker / 'status').read_text().split('SigIgn:')[1].split()[0], 16)
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert ignored >> (stop - 1) & 1
    process.kill() if number == signal.SIGKILL else os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    name = signal.Signals(number).name
    assert out == ('' if code < 0 else f'stopped by {name}; nothing to save yet.\n')
    deadline = time.monotonic() + 60
    while worker.exists() and 'State:\tZ' not in (worker / 'status').read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1, 2, 5, 6})
    assert engines.core_shares(2) == [{0, 2, 6}, {1, 5}]
    assert engines.core_shares(6) == [set()] * 6


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with (
        pytest.raises(UserError, match="pip install 'ray"),
        engines.started(settings('ray'), Wrong()),
    ):
        pass


@pytest.mark.sweep
def test_workers_of_ray_die_and_nothing_changes(tmp_path, monkeypatch):
    """Three workers of a cluster on this machine, two of them killed during the search."""
    ray = pytest.importorskip('ray')
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}:{Path(__file__).parent}')
    searched(tmp_path / 'local', settings('local'), Dies(tmp_path))
    dies = Dies(tmp_path, once=(4, 9))
    searched(tmp_path / 'ray', settings('ray', workers=3), dies)
    assert (tmp_path / '4').read_text() + (tmp_path / '9').read_text() == 'xx'
    assert (tmp_path / 'ray').read_bytes() == (tmp_path / 'local').read_bytes()
    with pytest.raises(UserError, match='^the data are not there$'):
        searched(tmp_path / 'wrong', settings('ray', 2), Wrong())
    assert not ray.is_initialized()
