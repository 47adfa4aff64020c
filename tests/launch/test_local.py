"""launch/local.py: real processes of a stub, and once of the program."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from signalled import defaults

ROOT = Path(__file__).parents[2]

STUB = """#!{python}
import os, pathlib, signal, sys, time
here = pathlib.Path({here!r})
index = int(sys.argv[sys.argv.index('--process_index') + 1])
what = sys.argv[-1].split(',')[index]
for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
    save = lambda number, _, code=code: ((here / f'saved{{index}}').touch(), sys.exit(code))
    signal.signal(number, save)
print('process', index, what, flush=True)
print(os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ.get('JAX_NUM_CPU_DEVICES'), flush=True)
(here / f'token{{index}}').write_text(os.environ['CLS_TOKEN'])
(here / f'begun{{index}}').write_text(str(os.getpid()))
(here / f'begun{{index}}').rename(here / f'ready{{index}}')
while len(list(here.glob('ready*'))) < int(sys.argv[sys.argv.index('--process_count') + 1]):
    time.sleep(0.02)
if what == 'wait':
    signal.pause()
elif what == 'stay':
    signal.signal(signal.SIGINT, lambda *_: (here / f'saved{{index}}').touch())
    while True:
        signal.pause()
elif what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(what))
"""


@pytest.fixture
def local(tmp_path):
    """Returns a function that starts local.py with a stub that behaves as its last flag says."""
    stub = tmp_path / 'python'
    stub.write_text(STUB.format(python=sys.executable, here=str(tmp_path)))
    stub.chmod(0o755)
    started = []

    def start(*flags):
        process = subprocess.Popen(
            [sys.executable, ROOT / 'launch/local.py', '--logs', tmp_path / 'logs', *flags],
            env=os.environ | {'PYTHON': str(stub)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=defaults,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    left = []
    for ready in tmp_path.glob('ready*'):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(ready.read_text()), signal.SIGKILL)
            left.append(ready.name)
    assert left == []


def wait_for_all(folder, count):
    while len(list(folder.glob('ready*'))) < count:
        time.sleep(0.02)


def test_all_end_well(local, tmp_path):
    process = local('--processes=3', '--devices', '2', '--', '--workdir', 'a b', '0,0,0')
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[1:] == ['process 0 0', 'None 2']
    logs = sorted(path.name for path in (tmp_path / 'logs').iterdir())
    assert logs == ['process-1.log', 'process-2.log']
    assert (tmp_path / 'logs/process-2.log').read_text() == 'process 2 0\nNone 2\n'


def test_all_have_the_token_of_this_run(local, tmp_path):
    tokens = []
    for _ in range(2):
        local('--processes=2', '--', '0,0').communicate(timeout=60)
        tokens.append({(tmp_path / f'token{index}').read_text() for index in range(2)})
    assert [len(run) for run in tokens] == [1, 1]
    assert tokens[0] != tokens[1]
    assert {len(token) for run in tokens for token in run} == {32}


def test_each_has_its_gpus(local, tmp_path):
    process = local('--processes=2', '--devices=4', '--gpu', '--', '0,0')
    output, _ = process.communicate(timeout=60)
    assert output.splitlines()[2].startswith('0,1,2,3 ')
    assert '4,5,6,7 ' in (tmp_path / 'logs/process-1.log').read_text()


@pytest.mark.parametrize(
    ('what', 'code', 'says'),
    [('wait,3,wait', 3, 'ended with code 3'), ('wait,wait,die', 137, 'SIGKILL')],
)
def test_when_one_fails_the_others_are_stopped(what, code, says, local, tmp_path):
    process = local('--processes=3', '--', what)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert says in errors
    assert f'process {what.split(",").index(what.replace("wait", "").strip(","))}' in errors
    assert len(list(tmp_path.glob('saved*'))) == 2


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signals_are_passed_on_so_that_all_save(number, code, local, tmp_path):
    process = local('--processes=2', '--', 'wait,wait')
    wait_for_all(tmp_path, 2)
    process.send_signal(number)
    process.send_signal(number)  # like `timeout`, to the process and to its group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert 'failed' not in errors
    assert len(list(tmp_path.glob('saved*'))) == 2


def test_a_second_ctrl_c_kills(local, tmp_path):
    process = local('--processes=2', '--', 'stay,stay')
    wait_for_all(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    while len(list(tmp_path.glob('saved*'))) < 2:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, 'failed' in errors) == (130, False)


@pytest.mark.skipif(sys.platform != 'linux', reason='tells processes of the end of their parent')
def test_when_it_is_killed_the_run_is_saved(local, tmp_path):
    process = local('--processes=2', '--', 'wait,wait')
    wait_for_all(tmp_path, 2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob('saved*'))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for ready in tmp_path.glob('ready*'):  # they end in a moment
        while Path('/proc', ready.read_text()).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    """Paths are the same here and in the processes, and these find cls, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'python').write_text(
        '#!/bin/sh\nexec "' + sys.executable + '" -c "import os, cls; print(os.getcwd())"\n'
    )
    (tmp_path / 'python').chmod(0o755)
    command = [sys.executable, ROOT / 'launch/local.py', '--processes=2', '--logs=logs']
    done = subprocess.run(
        command, env=os.environ | {'PYTHON': './python'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path)
    assert (tmp_path / 'logs/process-1.log').read_text().strip() == str(tmp_path)


def test_the_dry_run_is_what_a_shell_can_run(local, tmp_path):
    process = local('--processes=2', '--devices=2', '--dry_run', '--', "--x=it's", '0,0')
    lines = process.communicate(timeout=60)[0].splitlines()
    assert not list(tmp_path.glob('ready*'))
    for index, line in enumerate(lines):
        start, _, rest = line.partition(' -m cls.main --coordinator 127.0.0.1:')
        path, _, start = start.partition(' ')
        assert path.split(':')[0] == f'PYTHONPATH={ROOT}'
        assert start == f'JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 {tmp_path}/python'
        port, _, rest = rest.partition(' ')
        assert 0 < int(port) < 2**16
        assert rest == f"--process_count 2 --process_index {index} '--x=it'\"'\"'s' 0,0"
    assert len(lines) == 2


@pytest.mark.parametrize('flag', ['--procesess=2', '--processes=0', '--devices=two'])
def test_wrong_flags_are_one_line_and_code_2(flag, local):
    process = local(flag)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, '')
    assert len(errors.splitlines()) == 1
    assert errors.startswith('error: ')


@pytest.mark.sweep
def test_the_program_itself(tmp_path):
    """Two processes of two devices learn the same as one of four."""
    flags = [
        '--config',
        'configs/resnet.py',
        '--config.duration=6 steps',
        '--config.schedule.warmup=100 percent',
        '--config.log_every=1 steps',
    ]
    one = [sys.executable, '-m', 'cls.main', *flags, '--workdir', tmp_path / 'one']
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    environment |= {'JAX_PLATFORMS': 'cpu'}
    subprocess.run(one, env=environment | {'JAX_NUM_CPU_DEVICES': '4'}, cwd=ROOT, check=True)
    two = [
        sys.executable,
        'launch/local.py',
        '--processes=2',
        '--devices=2',
        '--logs',
        tmp_path,
        '--',
    ]
    subprocess.run(
        [*two, *flags, '--workdir', tmp_path / 'two'], env=environment, cwd=ROOT, check=True
    )
    losses = []
    for name in ('one', 'two'):
        lines = map(json.loads, (tmp_path / name / 'metrics.jsonl').read_text().splitlines())
        losses.append([line['train/loss'] for line in lines if 'train/loss' in line])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert json.loads((tmp_path / 'two/environment.json').read_text())['process_count'] == 2
