"""Whole runs in real processes: to the end, killed, stopped, damaged, resumed, evaluated."""

import fcntl
import importlib.metadata
import json
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from logs import all_logged, logged
from PIL import Image

from cls.run import goodput

ROOT = Path(__file__).parent.parent
# All kinds of state from step to step: momentum, mean squares, BN statistics, averages, random
# flips, the end of an epoch (the digits have 22.5 batches of 64).
RUN = (
    '--config=configs/resnet.py',
    '--config.duration=40 steps',
    '--config.schedule.warmup=100 percent',
    '--config.log_every=1 steps',
    '--config.checkpoint.every=8 steps',
    '--config.optim.name=rmsprop',
    '--config.optim.lr=0.003',
    '--config.optim.eps=0.001',
    '--config.data.flip=true',
    '--config.ema=0.9',
    '--config.eval.every=16 steps',
)
STEPS = 40


@pytest.fixture(scope='session')
def environment(tmp_path_factory):
    """The environment of a run: with its own cache, so that it does not depend on this machine."""
    cache = tmp_path_factory.mktemp('cache')
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return kept | {'CLS_CACHE_DIR': str(cache), 'PYTHONUNBUFFERED': '1'}


@pytest.fixture(scope='session')
def whole(environment, tmp_path_factory):
    """The folder of an undisturbed run, and its output.

    Its process was a shell for two seconds, as that of quickstart.sh during installation.
    """
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    script = ['bash', '-c', 'sleep 2; touch "$0"; exec "$@"', workdir.parent / 'began']
    output = subprocess.run(
        [*script, *command(workdir)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return workdir, output


def result_line(output):
    (line,) = (line for line in output.splitlines() if 'test top-1' in line and 'step' not in line)
    return line


def command(workdir, *more):
    return [sys.executable, '-m', 'cls.main', *RUN, f'--workdir={workdir}', *more]


def run(workdir, environment, *more):
    return subprocess.run(
        command(workdir, *more), env=environment, cwd=ROOT, capture_output=True, text=True
    )


def start(workdir, environment, *more):
    return subprocess.Popen(
        command(workdir, *more),
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process, text):
    """Returns a process's output up to a line with the text."""
    seen = ''
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f'{text!r} never came:\n{seen}')


def moment(line):
    """Returns the seconds from a run's first start to the logging of a line."""
    return sum(value for name, value in line.items() if name.startswith('time/'))


def total(record):
    return sum(record[bucket] for bucket in goodput.BUCKETS)


def accounts(workdir):
    """Returns the time ledger in each checkpoint."""
    files = (workdir / 'checkpoints').glob('[0-9]*/account/metadata')
    return {int(file.parts[-3]): json.loads(file.read_text()) for file in files}


def wait_until_known(workdir, step):
    """Waits until time.json has the ledger of a step: a thread writes it."""
    (line,) = (x for x in all_logged(workdir) if x['step'] == step and 'train/loss' in x)
    while total(json.loads((workdir / 'time.json').read_text())) < moment(line):
        time.sleep(0.01)


def saved_state(workdir, step=STEPS):
    """Returns the state in a checkpoint: a flat dict of NumPy arrays."""
    folder = workdir / 'checkpoints' / str(step) / 'state'
    restored = ocp.StandardCheckpointer().restore(folder.absolute())
    return {
        '/'.join(map(str, path)): np.asarray(leaf)
        for path, leaf in ocp.tree.to_flat_dict(restored).items()
        if leaf is not None
    }


def assert_same_run(one, other):
    """Checks that all logged numbers and all arrays of the final state are the same to the bit."""
    assert logged(one) == logged(other)
    ours, theirs = saved_state(one), saved_state(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 300  # parameters, statistics, two moments and the averages of 20 layers
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_run_writes_what_the_readme_says(whole):
    workdir, output = whole
    result = json.loads((workdir / 'result.json').read_text())
    assert {'test/top1', 'test/top5', 'test/loss', 'test_ema/top1', 'step', 'seconds'} <= set(
        result
    )
    assert result['step'] == STEPS
    assert result['params'] == 269_722 - 9 * 16 * 2  # one channel, not three, in the first layer
    spent = result['time']
    assert list(spent) == list(goodput.BUCKETS)
    assert min(spent.values()) >= 0
    assert min(spent[name] for name in ('start', 'compile', 'step', 'eval', 'checkpoint')) > 0
    assert spent['rework'] == spent['downtime'] == result['restarts'] == 0
    assert sum(spent.values()) == pytest.approx(result['seconds'], abs=0.1)
    assert result['goodput'] == result['goodput_with_downtime']
    assert result['goodput'] == pytest.approx(100 * spent['step'] / result['seconds'], rel=0.05)
    (line,) = (line for line in output.splitlines() if line.startswith('time: '))
    shown = float(re.search(r'goodput ([\d.]+) %', line)[1])  # a moment after the result
    assert shown == pytest.approx(result['goodput'], rel=0.05)
    config = json.loads((workdir / 'config.json').read_text())
    assert config['optim']['name'] == 'rmsprop'
    packages = json.loads((workdir / 'environment.json').read_text())['packages']
    assert packages['jax'] == importlib.metadata.version('jax')
    assert list((workdir / 'tensorboard').glob('events*'))
    assert sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir()) == [32, 40]
    lines = logged(workdir)
    evaluated = [line['step'] for line in lines if 'test/top1' in line]
    assert evaluated == [16, 32, STEPS]
    assert [line['step'] for line in lines if 'train/loss' in line] == [*range(1, STEPS + 1)]
    assert {'train/loss', 'train/top1', 'train/grad_norm', 'learning_rate'} <= set(lines[0])
    assert lines[-1]['test/top1'] == result['test/top1']
    # Lines for a log, not for a terminal; the last has the accuracy and the run folder.
    assert '\r' not in output
    last = result_line(output)
    assert f'test top-1 {result["test/top1"]:.2f} %' in last
    assert str(workdir) in last
    elapsed = (workdir / 'result.json').stat().st_mtime - (workdir.parent / 'began').stat().st_mtime
    assert result['seconds'] < elapsed + 0.1


def test_what_it_prints_on_the_way(whole):
    lines = whole[1].splitlines()
    compiling = next(i for i, line in enumerate(lines) if line.startswith('compiling the training'))
    first = next(i for i, line in enumerate(lines) if line.startswith(f'step 1/{STEPS}: '))
    assert compiling < first
    assert not any('continuing' in line for line in lines)
    # The metrics of an interval of one step are those of its batch; those of the test set come once
    # each evaluation.
    logged_first = logged(whole[0])[0]
    epoch = f'{64 / 1442:.2f}'  # of the digits
    shown = f'epoch {epoch}, last step: loss {logged_first["train/loss"]:.4g}, top-1'
    assert shown in lines[first]
    board = f'TensorBoard: tensorboard --logdir {whole[0] / "tensorboard"} '
    assert any(line.startswith(board) for line in lines[:compiling])
    assert [line.split(':')[0] for line in lines if 'test top-1' in line] == [
        f'step 16, epoch {16 * 64 / 1442:.2f}',
        f'step 32, epoch {32 * 64 / 1442:.2f}',
        result_line(whole[1]).split(':')[0],
    ]


def test_what_is_next_works(whole, environment, tmp_path):
    lines = whole[1].splitlines()
    commands = lines[lines.index('what next:') + 1 :]
    words = [shlex.split(line, comments=True) for line in commands]
    assert words[0][3:5] == ['--job', 'evaluate']
    shown = subprocess.run(words[-1], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)['optim']['name'] == 'rmsprop'
    for i in range(8):
        image = tmp_path / 'ab'[i % 2] / f'{i}.png'
        image.parent.mkdir(exist_ok=True)
        Image.new('RGB', (70, 80), (30 * i, 0, 0)).save(image)
    (images,) = (line for line in words if line[-1] == '--config.init=WEIGHTS')
    images = [word.replace('DIR', str(tmp_path)) for word in images[:-1]]
    shown = subprocess.run([*images, '--job=print'], cwd=ROOT, capture_output=True, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)['preset'] == 'finetune'


def test_it_learns(whole):
    lines = [line for line in logged(whole[0]) if 'train/loss' in line]
    assert np.mean([line['train/loss'] for line in lines[-5:]]) < 0.8 * lines[0]['train/loss']


def test_the_same_command_after_the_end_changes_nothing(whole, environment):
    workdir, output = whole
    before = (workdir / 'metrics.jsonl').read_bytes()
    again = run(workdir, environment)
    assert again.returncode == 0
    assert 'nothing was trained' in again.stdout.splitlines()[0]
    assert result_line(again.stdout) == result_line(output)
    # A compilation of minutes is announced, and only where there is one.
    assert 'compiling the training step: about a minute' in output
    assert 'compiling' not in again.stdout
    assert (workdir / 'metrics.jsonl').read_bytes() == before


# Before the first checkpoint; after two.
@pytest.mark.parametrize('at', [pytest.param(5, marks=pytest.mark.sweep), 19])
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(at, whole, environment, tmp_path):
    workdir, began = tmp_path / 'run', time.time()
    process = start(workdir, environment)
    wait_for(process, f'step {at}/{STEPS}')
    wait_until_known(workdir, at)
    process.kill()
    process.wait()
    killed = time.time()
    known = json.loads((workdir / 'time.json').read_text())
    saved = accounts(workdir)
    again = time.time()
    resumed = run(workdir, environment)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole[0], workdir)

    # The time of both processes, by clocks outside of them, without writing the result.
    result = json.loads((workdir / 'result.json').read_text())
    spent = result['time']
    elapsed = (workdir / 'result.json').stat().st_mtime - began
    assert 0.95 * elapsed - 1 < sum(spent.values()) < elapsed + 0.1
    assert again - killed < spent['downtime'] + 0.1
    assert result['restarts'] == 1
    assert result['goodput'] > result['goodput_with_downtime']

    # The rework: the difference of two records.
    said = re.search(rf'continuing from step (\d+) of {STEPS}', resumed.stdout)
    step = int(said[1]) if said else 0  # that of the checkpoint
    trained = re.search(r'^step (\d+)/', resumed.stdout, re.MULTILINE)
    assert (int(trained[1]) if trained else STEPS + 1) == step + 1
    before = saved[step] if step else dict.fromkeys(known, 0)
    newest = max(known, before, key=total)
    difference = sum(newest[name] - before[name] for name in ('data', 'step', 'eval'))
    assert spent['rework'] == pytest.approx(difference, abs=0.02)


def test_sigterm_saves_and_exits_0_and_the_run_continues(whole, environment, tmp_path):
    process = start(tmp_path / 'run', environment)
    wait_for(process, f'step 11/{STEPS}')
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert 'the same command continues' in output.splitlines()[-1]
    assert 'goodput' in output.splitlines()[-2]
    newest = max(int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir())
    assert newest >= 11
    assert newest == logged(tmp_path / 'run')[-1]['step']  # it saved the step at which it stopped
    assert run(tmp_path / 'run', environment).returncode == 0
    assert_same_run(whole[0], tmp_path / 'run')
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['restarts'] == 1
    if newest % 16:  # it was not stopped in an evaluation, which would start again
        assert result['time']['rework'] == 0


def test_sigterm_while_compiling_does_not_wait_for_the_compiler(environment, tmp_path):
    """The network takes half a minute to compile; the signal comes in the middle."""
    process = start(
        tmp_path / 'run',
        environment | {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'empty')},
        '--config.model.name=resnet110_cifar',
    )
    wait_for(process, 'run folder')
    while not (tmp_path / 'run' / 'checkpoints').exists():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1] == 'stopped by SIGTERM; nothing to save yet.'


@pytest.mark.parametrize(
    'harm', ['flip', *(pytest.param(harm, marks=pytest.mark.sweep) for harm in ('cut', 'remove'))]
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(harm, whole, environment, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    (tmp_path / 'run' / 'result.json').unlink()
    newest = tmp_path / 'run' / 'checkpoints' / str(STEPS) / 'state'
    largest = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    if harm == 'flip':  # one bit of one number: Orbax does not notice
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif harm == 'cut':
        largest.write_bytes(content[: len(content) // 2])
    else:
        largest.unlink()
    resumed = run(tmp_path / 'run', environment)
    assert resumed.returncode == 0, resumed.stderr
    assert f'checkpoint {STEPS} is damaged' in resumed.stderr
    assert 'step 33/' in resumed.stdout  # went on from step 32
    assert_same_run(whole[0], tmp_path / 'run')


def test_evaluate_repeats_the_result(whole, environment, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    done = subprocess.run(
        [sys.executable, '-m', 'cls.main', '--job=evaluate', f'--workdir={tmp_path / "run"}'],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    evaluation = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
    repeated = {k: v for k, v in result.items() if k.startswith('test') or k == 'step'}
    assert {k: evaluation[k] for k in repeated} == pytest.approx(repeated, rel=1e-5)
    assert f'{result["test/top1"]:.2f} %' in done.stdout


@pytest.mark.sweep  # two runs
def test_two_processes_do_not_share_a_run_folder(environment, tmp_path):
    first = start(tmp_path / 'run', environment)
    wait_for(first, f'step 2/{STEPS}')
    first.send_signal(signal.SIGSTOP)  # or it would end before the other has imported JAX
    second = run(tmp_path / 'run', environment)
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert 'another process is running' in second.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_state(
    environment, tmp_path
):
    done = run(
        tmp_path / 'run',
        environment,
        '--config.optim.name=sgd',
        '--config.model.stage_sizes=(1, 1, 1)',
        '--config.optim.lr=1e6',
        '--config.log_every=10 steps',
        '--config.checkpoint.every=1 steps',
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'not finite at step' in line
    step = int(line.split('at step ')[1].split(';')[0])
    good = Path(line.split('checkpoint is ')[1].split('. Lower')[0])
    assert int(good.name) == step - 1
    assert all(
        np.isfinite(array).all() for array in saved_state(tmp_path / 'run', good.name).values()
    )


@pytest.mark.sweep
def test_a_profile_is_written(environment, tmp_path):
    done = run(tmp_path / 'run', environment, '--config.profile=2:4', '--config.duration=6 steps')
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / 'run' / 'profile').rglob('*.xplane.pb'))


@pytest.mark.sweep
def test_a_terminal_gets_one_live_line(environment, tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 120, 0, 0))
    chunks = []

    def read():
        while True:
            try:
                chunks.append(os.read(master, 4096))
            except OSError:  # the other side is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    process = subprocess.Popen(
        command(tmp_path / 'run'), env=environment, cwd=ROOT, stdout=slave, stderr=slave
    )
    os.close(slave)
    assert process.wait() == 0
    reader.join(timeout=10)
    os.close(master)
    shown = b''.join(chunks).decode()
    assert '\r  ' in shown
    assert f'{STEPS}/{STEPS}' in shown
    assert 'images/s' in shown
    assert f'step 7/{STEPS}' not in shown


@pytest.mark.sweep
def test_tensorflow_is_not_imported(environment, tmp_path):
    arguments = [*RUN, f'--workdir={tmp_path / "run"}', '--config.duration=2 steps']
    script = (
        f'import sys; from cls.main import main; main({arguments!r}); '
        'sys.exit("tensorflow" in sys.modules or "torch" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', script], env=environment, cwd=ROOT, text=True)
    assert done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason='mounts a small disk, which only root may')
def test_a_full_disk_is_one_line(environment, tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', disk]).returncode:
        pytest.skip('this machine lets nobody mount')
    try:
        done = run(disk / 'run', environment)
    finally:
        subprocess.run(['umount', '-l', disk], check=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'no space left' in line
