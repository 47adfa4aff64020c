"""Runs of several real processes over loopback, each with virtual CPU devices."""

import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from logs import logged

from cls import train
from cls.config import load as configs
from cls.run.checkpoint import Checkpoints
from cls.setup import abstract_state, set_up

ROOT = Path(__file__).parents[2]
STEPS = 12
GENOTYPE = {'layers': ['C(16,3,1)', 'P(2,2)', 'FC(512)']}  # compiles in a second; one kernel splits
FIELDS = {
    'duration': f'{STEPS} steps',
    'schedule.warmup': '0 steps',
    'log_every': '1 steps',
    'checkpoint.every': '4 steps',
    'eval.every': '8 steps',
    'batch': '64',
    'mesh.fsdp': '4',
    'ema': '0.9',
}


@pytest.fixture(scope='module')
def fields(tmp_path_factory):
    file = tmp_path_factory.mktemp('net') / 'chain.json'
    file.write_text(json.dumps(GENOTYPE))
    return FIELDS | {'model.genotype': str(file)}


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture
def launch(fields, cache):
    """Starts the processes of a run; in any case none is left at the end."""
    running = []

    def start(workdir, *more, processes=4, devices=2, config='metaqnn', workdirs=None):
        with socket.create_server(('', 0)) as server:
            port = server.getsockname()[1]
        environment = os.environ | {
            'CLS_CACHE_DIR': str(cache),
            'JAX_PLATFORMS': 'cpu',
            'PYTHONUNBUFFERED': '1',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
        }
        chosen = fields if config == 'metaqnn' else FIELDS
        command = [sys.executable, '-m', 'cls.main', f'--config=configs/{config}.py']
        command += [f'--config.{name}={value}' for name, value in chosen.items()]
        command += [*more, f'--coordinator=127.0.0.1:{port}', '--join_timeout=120']
        command += [f'--process_count={processes}']
        # Files, not pipes: nothing would read pipes while the processes run.
        found = []
        for index in range(processes):
            folder = workdirs[index] if workdirs else workdir
            log = workdir.parent / f'{workdir.name}-{len(running)}-{index}.log'
            process = subprocess.Popen(
                [*command, f'--process_index={index}', f'--workdir={folder}'],
                env=environment,
                cwd=ROOT,
                stdout=log.open('w'),
                stderr=subprocess.STDOUT,
            )
            process.log = log
            found.append(process)
        running.extend(found)
        return found

    try:
        yield start
    finally:
        stop(running)


def stop(processes):
    for process in processes:
        process.kill()
        process.wait()


def ends(processes, timeout=240):
    """Returns the exit codes of the processes, when all have ended."""
    return [process.wait(timeout=timeout) for process in processes]


# Gloo's messages about its connections, in the pieces in which its threads write them: the pieces
# of several lines may be mixed.
GLOO = re.compile(
    r'\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : '
)


def said(process):
    """Returns the output of a process, without Gloo's messages about its connections."""
    lines = process.log.read_text().splitlines()
    return [line for line in lines if not re.fullmatch(r'[\d\s]*', GLOO.sub('', line))]


def wait_for(process, text):
    while not any(text in line for line in said(process)):
        assert process.poll() is None, said(process)
        time.sleep(0.05)


def listening_at(port):
    """Returns the addresses with a listener at a port, from Linux's tables."""
    addresses = set()
    for name in ('tcp', 'tcp6'):
        for line in Path('/proc/net', name).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, hexadecimal = local.partition(':')
            if state == '0A' and int(hexadecimal, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found = ipaddress.ip_address(b''.join(words))
                addresses.add(str(getattr(found, 'ipv4_mapped', None) or found))
    return addresses


def load(fields):
    return configs.load(str(ROOT / 'configs/metaqnn.py'), list(fields.items()))


def whole_run(fields, workdir):
    """Runs a training in this process, on its eight devices."""
    train.job(load(fields), workdir)
    return workdir


@pytest.fixture(scope='module')
def alone(fields, tmp_path_factory):
    """A run of one process with eight devices."""
    assert jax.device_count() == 8
    return whole_run(fields, tmp_path_factory.mktemp('runs') / 'alone')


def events(workdir):
    """Returns the logged metrics without speed and time; checks that no step is repeated."""
    lines = logged(workdir)
    steps = [line['step'] for line in lines if 'train/loss' in line]
    assert steps == [*range(1, STEPS + 1)]
    return lines


def saved(workdir, step=STEPS):
    """Returns the state in a checkpoint of any devices: a flat dict of NumPy arrays."""
    reader = ocp.PyTreeCheckpointer()
    folder = workdir / 'checkpoints' / str(step) / 'state'
    described = reader.metadata(folder).item_metadata.tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described)
    restored = reader.restore(folder, restore_args=arguments)
    return {
        '/'.join(map(str, path)): np.asarray(leaf)
        for path, leaf in ocp.tree.to_flat_dict(restored).items()
        if leaf is not None
    }


def assert_near(one, other):
    """Checks that events and numbers are the same, up to the rounding of another order of sums."""
    ours, theirs = events(one), events(other)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert b == pytest.approx(a, rel=2e-4, abs=1e-6), (a, b)


def assert_same(one, other):
    """Checks that events and numbers are the same to the bit."""
    assert events(one) == events(other)
    ours, theirs = saved(one), saved(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def stopped_at(processes, workdir):
    """Checks that all processes stopped and saved at the same step, and one reported it."""
    assert ends(processes) == [0] * len(processes)
    assert 'the same command continues' in said(processes[0])[-1]
    assert [said(process) for process in processes[1:]] == [[]] * (len(processes) - 1)
    steps = [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').open()]
    stopped = max(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())
    assert stopped == steps[-1] < STEPS
    return stopped


def test_a_signal_to_one_of_several_and_the_checkpoint_on_other_devices(
    launch, alone, fields, tmp_path
):
    """2 processes with 4 devices each, SIGTERM to the second; until then they log as one process.

    Their checkpoint, of 8 devices in groups of 4, is the same to the bit on 1, 2, 4 and 8 devices.
    """
    workdir = tmp_path / 'run'
    processes = launch(workdir, processes=2, devices=4)
    wait_for(processes[0], f'step 2/{STEPS}')
    first = said(processes[0])[0]
    assert first.startswith('2 processes, found by flags, with 8 devices; coordinator 127.0.0.1:')
    if sys.platform == 'linux':
        assert listening_at(int(first.rpartition(':')[2])) == {'127.0.0.1'}
    processes[1].send_signal(signal.SIGTERM)
    stopped = stopped_at(processes, workdir)
    assert stopped >= 2
    losses = [json.loads(line)['train/loss'] for line in (workdir / 'metrics.jsonl').open()]
    expected = [line['train/loss'] for line in events(alone) if 'train/loss' in line]
    assert losses == pytest.approx(expected[:stopped], rel=1e-5)

    config = load(fields)
    files = saved(workdir, stopped)
    for devices, fsdp in ((1, 1), (2, 2), (4, 2), (8, 8)):
        with config.unlocked():
            config.mesh.fsdp = fsdp
        setup = set_up(config, jax.devices()[:devices])
        abstract = abstract_state(setup.new_state()[0], setup.mesh)
        checkpoints = Checkpoints(workdir / 'checkpoints', keep=2)
        state, position, _ = checkpoints.restore(abstract)
        checkpoints.close()
        assert position == {'step': stopped}
        for leaf, there in zip(*map(jax.tree.leaves, (state, abstract)), strict=True):
            assert leaf.sharding == there.sharding
        restored = sorted(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
        assert restored == sorted(array.tobytes() for array in files.values())


@pytest.mark.sweep
def test_four_processes_stopped_by_a_signal_to_one_and_continued_by_one(
    launch, alone, fields, tmp_path
):
    """4 x 2 devices, SIGTERM to one of the four; then one process with 8 resumes to the end.

    Together, the logs of the four processes and of the one equal that of one process.
    """
    workdir = tmp_path / 'run'
    processes = launch(workdir)
    wait_for(processes[0], f'step 2/{STEPS}')
    processes[2].send_signal(signal.SIGTERM)
    stopped_at(processes, workdir)
    whole_run(fields, workdir)
    assert_near(alone, workdir)


@pytest.fixture(scope='module')
def four(fields, cache, tmp_path_factory):
    """An undisturbed run of four processes, and their output."""
    workdir = tmp_path_factory.mktemp('runs') / 'four'
    with contextlib.closing(launch.__wrapped__(fields, cache)) as starter:
        processes = next(starter)(workdir)
        assert ends(processes) == [0, 0, 0, 0]
    return workdir, [said(process) for process in processes]


@pytest.mark.sweep
def test_four_processes_write_once_what_one_writes(four, alone):
    workdir, lines = four
    assert_near(alone, workdir)
    assert lines[1:] == [[], [], []]
    result, expected = (json.loads((d / 'result.json').read_text()) for d in (workdir, alone))
    assert result.keys() == expected.keys()
    assert result['params'] == expected['params']
    assert len(list((workdir / 'tensorboard').glob('events*'))) == 1
    environment = json.loads((workdir / 'environment.json').read_text())
    assert (environment['process_count'], environment['device_count']) == (4, 8)


@pytest.mark.sweep
@pytest.mark.parametrize('victim', [3, 0])
def test_one_killed_the_others_stop_and_the_same_command_continues(victim, launch, four, tmp_path):
    workdir = tmp_path / 'run'
    processes = launch(workdir)
    wait_for(processes[0], f'step 6/{STEPS}')
    processes[victim].kill()
    codes = ends(processes, timeout=60)
    assert codes.pop(victim) == -signal.SIGKILL
    assert 0 not in codes
    if victim:
        assert codes == [1, 1, 1]
        assert f'process {victim} of 4 disappeared' in said(processes[0])[-1]
    assert ends(launch(workdir)) == [0, 0, 0, 0]
    assert_same(four[0], workdir)


@pytest.mark.sweep
def test_every_process_gets_the_signal(launch, four, tmp_path):
    workdir = tmp_path / 'run'
    processes = launch(workdir)
    wait_for(processes[0], f'step 3/{STEPS}')
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert ends(processes) == [0, 0, 0, 0]
    assert ends(launch(workdir)) == [0, 0, 0, 0]
    assert_same(four[0], workdir)


@pytest.mark.sweep
@pytest.mark.parametrize('processes, devices, fsdp', [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 1)])
def test_a_run_continues_on_fewer_devices(processes, devices, fsdp, launch, alone, tmp_path):
    """The checkpoint is of 8 devices with fsdp; fewer devices continue with the next batches."""
    workdir = tmp_path / 'run'
    shutil.copytree(alone, workdir)
    for path in (workdir / 'checkpoints' / str(STEPS), workdir / 'result.json'):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    newest = max(int(p.name) for p in (workdir / 'checkpoints').iterdir())
    assert newest < STEPS
    running = launch(workdir, f'--config.mesh.fsdp={fsdp}', processes=processes, devices=devices)
    assert ends(running) == [0] * processes, [said(process) for process in running]
    assert_near(alone, workdir)


@pytest.mark.sweep
def test_a_network_with_batch_norm(launch, tmp_path):
    """The groups of batch norm have four devices each, of two processes.

    The network is shallow: ResNet-20 amplifies rounding from 1e-7 to 3e-3 of the loss in these
    twelve steps, also between one and eight devices of one process.
    """
    runs = [tmp_path / 'one', tmp_path / 'four']
    small = ('--config.model.stage_sizes=(1, 1, 1)', '--config.model.bn_group=32')
    assert ends(launch(runs[0], *small, processes=1, devices=8, config='resnet')) == [0]
    assert ends(launch(runs[1], *small, config='resnet')) == [0, 0, 0, 0]
    assert_near(*runs)


@pytest.mark.sweep
def test_a_damaged_checkpoint_is_set_aside_by_all(launch, four, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(four[0], workdir)
    (workdir / 'result.json').unlink()
    files = (workdir / 'checkpoints' / str(STEPS) / 'state').rglob('*')
    largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    processes = launch(workdir)
    assert ends(processes) == [0, 0, 0, 0]
    assert sum('is damaged' in line for p in processes for line in said(p)) == 1
    assert_same(four[0], workdir)


@pytest.mark.sweep
def test_the_end_of_a_run_is_known_to_all(launch, four, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(four[0], workdir)
    processes = launch(workdir)
    assert ends(processes) == [0, 0, 0, 0]
    lines = said(processes[0])
    assert 'nothing was trained' in lines[1]
    assert lines[2].startswith('test top-1')
    assert [said(process) for process in processes[1:]] == [[], [], []]


@pytest.mark.sweep
def test_evaluation_on_several_processes(launch, four, alone, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(four[0], workdir)
    processes = launch(workdir, '--job=evaluate', '--config.eval.predictions=all.csv')
    assert ends(processes) == [0, 0, 0, 0]
    result = json.loads((workdir / 'result.json').read_text())
    evaluation = json.loads((workdir / 'evaluation.json').read_text())
    repeated = {k: v for k, v in result.items() if k.startswith('test') or k == 'step'}
    assert {k: evaluation[k] for k in repeated} == pytest.approx(repeated, rel=1e-5)
    assert evaluation['test/images'] == len((workdir / 'all.csv').read_text().splitlines()) - 1
    assert len([line for process in processes for line in said(process) if 'top-1' in line]) == 1


@pytest.mark.sweep
@pytest.mark.parametrize(
    'more, words',
    [
        (('--config.batch=60',), 'config.batch is 60: expected a multiple of 8'),
        (('--config.optim.lrr=1',), 'lrr'),
        (('--config.optim.lr=1e30',), 'not finite at step'),
    ],
)
def test_a_mistake_is_said_once(more, words, launch, tmp_path):
    processes = launch(tmp_path / 'run', *more)
    assert ends(processes) == [2, 2, 2, 2]
    lines = [line for process in processes for line in said(process) if 'error: ' in line]
    assert len(lines) == 1, lines
    assert words in lines[0]


@pytest.mark.sweep
def test_folders_that_are_not_shared(launch, tmp_path):
    workdirs = [tmp_path / 'one', tmp_path / 'two']
    processes = launch(tmp_path / 'log', processes=2, workdirs=workdirs)
    assert ends(processes) == [2, 2]
    (line,) = [line for process in processes for line in said(process) if 'error: ' in line]
    assert 'is not the same folder everywhere: process 1 on' in line


@pytest.mark.sweep
def test_slurm_as_it_starts_processes(fields, cache, tmp_path):
    """Three tasks with the environment that srun sets, without flags."""
    with socket.create_server(('', 0)) as server:
        port = server.getsockname()[1]
    slurm = {
        'SLURM_JOB_ID': '4711',
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_NUM_NODES': '1',
        'SLURM_STEP_TASKS_PER_NODE': '2',
        'SLURM_NTASKS': '2',
        'SLURM_NODEID': '0',
        'JAX_COORDINATOR_PORT': str(port),
        'CLS_CACHE_DIR': str(cache),
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '',
    }
    command = [sys.executable, '-m', 'cls.main', '--config=configs/metaqnn.py']
    command += [f'--config.{name}={value}' for name, value in fields.items()]
    command += ['--config.mesh.fsdp=1', f'--workdir={tmp_path / "run"}']
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | slurm | {'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        stop(processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert '2 processes, found by Slurm, with 2 devices; coordinator 127.0.0.1:' in outputs[0]
    events(tmp_path / 'run')
