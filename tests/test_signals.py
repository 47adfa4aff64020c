"""Signals to real processes: a training run with workers, and the programs of signalled.py."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from signalled import defaults

ROOT = Path(__file__).parent.parent
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
STOPS = ((TERM, 0), (INT, 130), (HUP, 129))


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return kept | {'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1', 'JAX_PLATFORMS': 'cpu'} | more


@pytest.fixture
def scene():
    """Runs a program of tests/signalled.py in a new process group, and waits for it."""
    started = []

    def start(name, *more, wait=True):
        process = subprocess.Popen(
            [sys.executable, '-m', 'signalled', name, *more],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=defaults,
        )
        started.append(process)
        while wait and process.stdout.readline() != 'ready\n':
            assert process.poll() is None, process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(('number', 'code'), STOPS)
def test_each_signal_saves_and_has_its_exit_code(number, code, scene):
    process = scene('saves')
    os.killpg(process.pid, number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (code, '')
    assert out.splitlines()[-1] == 'saved'


@pytest.mark.parametrize(('number', 'code'), STOPS)
@pytest.mark.parametrize(
    ('name', 'what'),
    [
        ('compiles', 'nothing to save yet.'),
        ('sets_up', 'nothing to save yet.'),
        ('has_saved', 'nothing new to save.'),
    ],
)
def test_with_nothing_to_save_it_ends_at_once(number, code, name, what, scene):
    process = scene(name)
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert out + error == f'stopped by {signal.Signals(number).name}; {what}\n'


def test_a_second_ctrl_c_after_the_save_does_not_say_that_nothing_was_saved(scene):
    process = scene('ends_slowly')
    os.killpg(process.pid, INT)
    while process.stdout.readline() != 'saved\n':
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.3)
    os.killpg(process.pid, INT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out, error) == (130, '', 'interrupted again\n')


def test_a_second_ctrl_c_ends_a_save(scene):
    process = scene('saves_slowly')
    process.send_signal(INT)
    assert 'Ctrl-C again ends at once' in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(INT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, '')


def test_signals_that_come_twice_are_one_request(scene):
    """`timeout` sends its signal to the process, and then to its group."""
    for number, code in STOPS:
        process = scene('saves')
        process.send_signal(number)
        os.killpg(process.pid, number)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == code
        assert out.splitlines()[-1] == 'saved'


def test_ctrl_c_that_python_forgets_ends_a_program_all_the_same(scene):
    process = scene('collects')
    process.send_signal(INT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1] == 'interrupted'


def test_a_tool_tidies_up(scene):
    process = scene('tidies')
    process.send_signal(INT)
    assert process.communicate(timeout=30) == ('tidied\n', 'interrupted\n')
    assert process.returncode == 130


@pytest.mark.parametrize(('number', 'code'), [(TERM, 143), (INT, 130), (HUP, 129)])
def test_a_job_that_is_not_continued_has_failed(number, code, scene):
    process = scene('sets_up', '--job=evaluate')
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, '')
    assert len(error.splitlines()) == 1


def test_a_notebook_has_its_keyboard_interrupt(scene):
    process = scene('notebook')
    process.send_signal(INT)
    out, error = process.communicate(timeout=30)
    assert (out, error) == ('KeyboardInterrupt SIG_DFL\n', '')


def test_under_nohup_a_closed_terminal_is_nothing(scene):
    command = ['nohup', sys.executable, '-m', 'signalled', 'saves']
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(HUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(TERM)
        assert process.communicate(timeout=30)[0] == 'saved\n'
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_what_nobody_reads_does_not_stop_a_program(scene, tmp_path):
    process = scene('prints', str(tmp_path / 'file'), wait=False)
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(timeout=30), error) == (0, '')
    assert (tmp_path / 'file').read_text() == 'done'


@pytest.mark.parametrize('name', ['saves', 'tidies', 'compiles'])
def test_a_loop_in_a_shell_stops_on_ctrl_c(name, tmp_path):
    loop = f'for seed in 1 2 3; do {sys.executable} -m signalled {name}; echo $?; done; echo over'
    shell = subprocess.Popen(
        ['bash', '-c', loop],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=defaults,
    )
    try:
        assert shell.stdout.readline() == 'ready\n'
        os.killpg(shell.pid, INT)
        out, _ = shell.communicate(timeout=30)
        assert 'ready' not in out
        assert 'over' not in out
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------
# A training run
# ------------------------------------------------------------------------------------------------


class Training:
    """A run with two workers in a new process group, on its own terminal."""

    def __init__(self, data, folder):
        self.workdir = folder / 'run'
        self._master, slave = pty.openpty()
        fields = {
            'model.genotype': data / 'chain.json',
            'data.name': f'folder:{data}/images',
            'data.image_size': '16',
            'data.workers': '1',
            'batch': '16',
            'duration': '100000 steps',
            'log_every': '10 steps',
            'checkpoint.every': '90000 steps',
        }
        self.log = folder / 'log'
        self.process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'cls.main', '--config=configs/metaqnn.py'),
                *(f'--config.{name}={value}' for name, value in fields.items()),
                f'--workdir={self.workdir}',
            ],
            env=environment(CLS_CACHE_DIR=str(data / 'cache')),
            cwd=ROOT,
            stdin=slave,
            stdout=self.log.open('w'),
            stderr=slave,
            start_new_session=True,
            preexec_fn=self._on_its_terminal,
        )
        os.close(slave)

    @staticmethod
    def _on_its_terminal():
        defaults()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def close_terminal(self):
        os.close(self._master)
        self._master = None

    def wait_for(self, text):
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def children(self):
        """Returns the child processes, without their own children."""
        return [
            int(file.parent.name)
            for file in Path('/proc').glob('[0-9]*/stat')
            if int(file.read_text().rpartition(')')[2].split()[1]) == self.process.pid
        ]

    def close(self):
        self.process.kill()
        self.process.wait()
        if self._master is not None:
            self.close_terminal()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('signals')
    rng = np.random.default_rng(0)
    for name in ('train/a', 'train/b', 'val/a', 'val/b'):
        (folder / 'images' / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / 'images' / name / f'{i}.png')
    chain = {'layers': ['C(16,3,1)', 'P(2,2)', 'FC(32)']}
    (folder / 'chain.json').write_text(json.dumps(chain))
    return folder


@pytest.fixture
def training(data, tmp_path):
    """A run after some steps, and its workers."""
    started = []

    def start():
        run = Training(data, tmp_path)
        started.append(run)
        run.wait_for('step 20/')
        assert run.children()
        return run, run.children()

    yield start
    for run in started:
        run.close()


@pytest.mark.parametrize(
    ('number', 'code'),
    [STOPS[0], *(pytest.param(*stop, marks=pytest.mark.sweep) for stop in STOPS[1:])],
)
def test_a_signal_to_the_group_of_a_run_with_workers_saves(number, code, training):
    """SIGHUP comes with a closed terminal: output to it is an error."""
    run, workers = training()
    run.close_terminal() if number == HUP else os.killpg(run.process.pid, number)
    assert run.process.wait(timeout=60) == code, run.log.read_text()
    assert 'the same command continues' in run.log.read_text().splitlines()[-1]
    (saved,) = [int(p.name) for p in (run.workdir / 'checkpoints').iterdir() if p.name.isdigit()]
    assert 20 <= saved < 90000
    wait_until_gone(workers)


def test_no_worker_outlives_a_run_that_is_killed(training):
    run, workers = training()
    run.process.kill()
    run.process.wait()
    wait_until_gone(workers)


def wait_until_gone(processes):
    deadline = time.monotonic() + 60
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return '\nState:\tZ' not in Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return False


@pytest.mark.parametrize(('number', 'code'), STOPS)
def test_a_signal_during_the_imports(number, code, data, tmp_path):
    """As soon as there is a handler: after some hundredths of a second, mostly Python's start."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'cls.main', '--config=configs/metaqnn.py', f'--workdir={tmp_path}'],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=defaults,
    )
    try:
        status = Path(f'/proc/{process.pid}/status')
        while not int(status.read_text().split('SigCgt:')[1].split()[0], 16) >> (HUP - 1) & 1:
            time.sleep(0.002)  # the handler of SIGHUP is installed last
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == code
        assert out == f'stopped by {signal.Signals(number).name}; nothing to save yet.\n'
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.communicate()
