"""launch/slurm.sh on a real Slurm with two nodes: two daemons on this machine.

  apt-get install slurm-wlm munge
  ./launch/test.sh tests/launch/test_slurm_real.py -m slurm -n 0

It takes some minutes, mostly of waiting in Slurm, and root for the daemons. The GPUs are plain
files, and the nodes have two of the machine's own names, so that processes find each other.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'sbatch')

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason='needs root and: apt-get install slurm-wlm munge',
    ),
]

CONFIG = """
ClusterName=test
SlurmctldHost={nodes[0]}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={here}/munge.socket
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool-%n
SlurmctldPort={ports[0]}
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd-%n.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
KillWait=30
SchedulerParameters=sched_interval=5,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Gres=gpu:1
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 Gres=gpu:1
PartitionName=low Nodes={nodes[0]},{nodes[1]} Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes={nodes[0]},{nodes[1]} PriorityTier=10
"""


class Cluster:
    """A Slurm of two nodes in a folder."""

    def __init__(self, here: Path) -> None:
        self.here, self.nodes = here, (socket.gethostname(), 'localhost')
        self.environment = os.environ | {'SLURM_CONF': str(here / 'slurm.conf')}
        self._daemons = {}
        probes = [socket.create_server(('127.0.0.1', 0)) for _ in range(3)]
        ports = [probe.getsockname()[1] for probe in probes]
        for probe in probes:
            probe.close()
        fields = {'here': here, 'nodes': self.nodes, 'host': self.nodes[0], 'ports': ports}
        (here / 'slurm.conf').write_text(CONFIG.format(**fields))
        (here / 'gpu').touch()
        gpus = [f'NodeName={node} Name=gpu File={here}/gpu\n' for node in self.nodes]
        (here / 'gres.conf').write_text(''.join(gpus))
        (here / 'state').mkdir()
        (here / 'munge.key').touch(mode=0o600)
        (here / 'munge.key').write_bytes(os.urandom(1024))
        munge = ['key-file=munge.key', 'socket=munge.socket', 'pid-file=munge.pid']
        munge += ['log-file=munge.log', 'seed-file=munge.seed']
        flags = [
            '--{}={}/{}'.format(*(flag.split('=')[0], here, flag.split('=')[1])) for flag in munge
        ]
        self._start('munged', '--foreground', '--force', *flags)
        wait_until((here / 'munge.socket').exists)
        self._start('slurmctld', '-D', '-i')
        for node in self.nodes:
            self.start(node)
        wait_until(lambda: self('sinfo', '-h', '-o', '%t').split() == ['idle'])

    def _start(self, *words: str) -> None:
        log = (self.here / f'{words[0]}.out').open('a')
        self._daemons[words[-1]] = subprocess.Popen(
            words, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )

    def start(self, node: str) -> None:
        """Starts the daemon of a node."""
        self._start('slurmd', '-D', '-N', node)

    def lose(self, node: str) -> None:
        """Kills a node: its daemon, and the step daemons and processes of this daemon."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        lost = {int(pid) for pid in tasks(node)}
        lost |= {parent(pid) for pid in lost}
        for pid in lost - {1, os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __call__(self, *words: str) -> str:
        """Runs a command of Slurm; returns its output."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    def state(self, job: str) -> str:
        return self('scontrol', '--oneliner', 'show', 'job', job).split('JobState=')[1].split()[0]

    def close(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self('scancel', '--user=root')
            wait_until(lambda: not self('squeue', '-h'))
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            daemon.wait()


def tasks(node: str) -> list[str]:
    """Returns the processes of jobs on a node."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if f'SLURMD_NODENAME={node}'.encode() in (process / 'environ').read_bytes().split(
                b'\0'
            ):
                found.append(process.name)
    return found


def parent(pid: int) -> int:
    try:
        return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
    except OSError:
        return 1


def wait_until(what: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope='module')
def cluster():
    with tempfile.TemporaryDirectory(prefix='slurm') as here:  # the path of a socket is short
        made = Cluster(Path(here))
        yield made
        made.close()


class Job:
    """A training submitted by launch/slurm.sh, on both nodes."""

    def __init__(self, cluster: Cluster, project, *flags: str, steps: int = 10**6) -> None:
        self.cluster, self.workdir = cluster, project.root.parent / 'runs/a'
        self.log = self.workdir.with_name('a.log')
        for name in ('cls', 'configs'):
            (project.root / name).symlink_to(ROOT / name)
        python = project.root / '.venv/bin/python'  # executable already
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        chain = project.root / 'chain.json'
        chain.write_text(json.dumps({'layers': ['C(16,3,1)', 'P(2,2)', 'FC(32)']}))
        variables = {'JAX_PLATFORMS': 'cpu', 'CLS_CACHE_DIR': str(cluster.here / 'cache')}
        variables |= {'PYTHONUNBUFFERED': '1', 'XLA_FLAGS': ''}
        done = subprocess.run(
            [
                *('bash', project.root / 'launch/slurm.sh', '--workdir=runs/a', '--nodes=2'),
                *('--gpus=1', '--cpus=1', *flags, '--', '--config=configs/metaqnn.py'),
                *(f'--config.model.genotype={chain}', f'--config.duration={steps} steps'),
                *('--config.schedule.warmup=0 steps', '--config.checkpoint.every=2000000 steps'),
                '--config.log_every=50 steps',
            ],
            cwd=self.workdir.parents[1],
            env=cluster.environment | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        self.id, self._starts = done.stdout.split()[-1], 0

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ''

    def wait_for(self, words: str, times: int = 1) -> None:
        """Waits until the log has a text a number of times."""
        try:
            wait_until(lambda: self.text().count(words) >= times)
        except AssertionError:
            raise AssertionError(f'{words!r} {times} times in:\n{self.text()}') from None

    def saved(self) -> int:
        """Returns the step of the newest checkpoint."""
        names = [path.name for path in (self.workdir / 'checkpoints').iterdir()]
        return max(int(name) for name in names if name.isdigit())

    def runs_again(self) -> None:
        """Waits until a job that is queued again runs, without Slurm's delay of two minutes."""
        self._starts += 1

        def runs() -> bool:
            shown = self.cluster('scontrol', '--oneliner', 'show', 'job', self.id)
            if 'JobState=PENDING Reason=BeginTime' in shown:
                with contextlib.suppress(subprocess.CalledProcessError):  # it has just begun
                    self.cluster('scontrol', 'update', f'JobId={self.id}', 'StartTime=now')
                time.sleep(5)  # each request makes the scheduler start again
            return 'JobState=RUNNING' in shown and f'Restarts={self._starts} ' in shown

        wait_until(runs)

    def goes_on(self) -> None:
        """Waits until the job, queued again, has resumed from its checkpoint."""
        saved = self.saved()
        self.runs_again()
        self.wait_for(f'continuing from step {saved} of')
        self.cancel()

    def cancel(self) -> None:
        """Ends the job without queueing it again."""
        self.cluster('scancel', self.id)
        wait_until(lambda: self.id not in self.cluster('squeue', '-h', '-o', '%i').split())
        assert self.cluster.state(self.id) == 'CANCELLED'


@pytest.fixture
def submit(cluster, project):
    return functools.partial(Job, cluster, project)


def test_two_nodes_meet_and_finish(cluster, submit):
    job = submit(steps=200)
    job.wait_for('test top-1')
    assert '2 processes, found by Slurm, with 2 devices; coordinator' in job.text()
    wait_until(lambda: cluster.state(job.id) == 'COMPLETED')
    assert json.loads((job.workdir / 'result.json').read_text())['restarts'] == 0


def test_preempted_it_saves_and_goes_on_afterwards(cluster, submit):
    job = submit()
    job.wait_for('step 100/')
    other = cluster('sbatch', '--parsable', '--partition=high', '--nodes=2', '--exclusive',
                    '--output=/dev/null', '--wrap=sleep 3')  # fmt: skip
    job.wait_for('the same command continues')
    wait_until(lambda: cluster.state(other) == 'COMPLETED')
    job.goes_on()


def test_before_its_time_is_up_it_saves_and_goes_on(cluster, submit):
    job = submit('--time=3', '--sbatch_flags=--signal=TERM@80')
    job.wait_for('the same command continues')
    assert 'stopped before the end' in job.text()
    job.goes_on()


def test_when_a_node_is_lost_it_goes_on_when_there_is_one_again(cluster, submit):
    """It resumes from the last checkpoint, that of an earlier preemption."""
    job = submit()
    job.wait_for('step 100/')
    cluster('scontrol', 'requeue', job.id)
    job.wait_for('the same command continues')
    job.runs_again()
    job.wait_for('continuing from step')
    saved = job.saved()
    job.wait_for(f'step {saved // 50 * 50 + 100}/')
    cluster.lose(cluster.nodes[0])
    job.wait_for('disappeared')
    job.wait_for('a node was lost')
    cluster.start(cluster.nodes[0])
    wait_until(
        lambda: cluster('sinfo', '-h', '-n', cluster.nodes[0], '-o', '%t').split()[0] == 'idle'
    )
    time.sleep(10)  # Slurm loses count of the nodes of a job that starts as one comes back
    job.runs_again()
    job.wait_for(f'continuing from step {saved} of', times=2)
    job.cancel()
