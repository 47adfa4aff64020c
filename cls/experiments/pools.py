"""Places where the trials of a sweep run: processes of this machine, Slurm jobs, Ray tasks.

A pool starts commands and returns a handle for each. A command is that of cls.experiments.trial,
so its training saves and stops when the pool ends, however it ends; jobs of Slurm go on.
"""

import ast
import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cls import huge_pages
from cls.config.files import ROOT
from cls.errors import UserError, require
from cls.experiments import remote
from cls.experiments.plan import split_values
from cls.experiments.runs import load_json
from cls.run.telemetry import write_json
from cls.search.engines import core_shares

JOBS = 'jobs.json'  # the Slurm job of each trial
GOODBYE = 2.0  # seconds that the end of a pool waits for its trainings to save
_GPUS = Path('/proc/driver/nvidia/gpus')
_MEMORY = 0.9  # part of a GPU's memory that the processes on it share


class Handle(Protocol):
    """A running trial."""

    def code(self) -> int | None:
        """Returns the exit code; None while it runs, negative for a signal."""
        ...

    def stop(self) -> None:
        """Asks the training to save and stop."""
        ...


@dataclasses.dataclass(frozen=True)
class Work:
    """A trial for a pool.

    Attributes:
      name: the name of the trial.
      command: its command.
      log: the file for its output.
    """

    name: str
    command: Sequence[str]
    log: Path


Start = Callable[[Work], Handle]


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """The pool of a sweep.

    Attributes:
      kind: 'local', 'slurm' or 'ray'.
      jobs: trials at the same time.
      options: parameters of submitit's executor, or of Ray's tasks.
    """

    kind: str = 'local'
    jobs: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raises UserError for packages that are not installed, and for unknown options."""
        if self.jobs < 1:
            raise UserError(f'--jobs is {self.jobs}: expected 1 or more.')
        if self.kind == 'slurm':
            require('submitit', 'sweep')
            if 'timeout_min' not in self.options and self.options.get('cluster') != 'local':
                raise UserError(
                    '--slurm: expected timeout_min=MINUTES, the most for a job; a training that '
                    'does not end in time is queued again and continues.'
                )
        if self.kind == 'ray':
            require('ray', 'ray')
            known = ('num_cpus', 'num_gpus', 'resources')
            for name in self.options:
                if name not in known:
                    raise UserError(f'--ray {name}: known are {", ".join(known)}.')


def parse_options(text: str, flag: str) -> dict[str, Any]:
    """Returns the values of 'NAME=VALUE,NAME=VALUE'. Raises UserError for other text."""
    options = {}
    for part in split_values(text) if text else ():
        name, equals, value = part.partition('=')
        if not equals or not name.isidentifier():
            raise UserError(f'{flag} {text!r}: expected NAME=VALUE,NAME=VALUE,...')
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


@contextlib.contextmanager
def started(spec: PoolSpec, folder: Path) -> Iterator[Start]:
    """Yields the function that starts a trial; at the end, running trials are asked to stop.

    Args:
      spec: the pool.
      folder: the sweep folder.
    """
    os.environ['PYTHONPATH'] = _python_path()
    with {'local': _local, 'slurm': _slurm, 'ray': _ray}[spec.kind](spec, folder) as start:
        yield start


def _python_path() -> str:
    """Returns PYTHONPATH with the folder of this package, for processes with other folders."""
    paths = [str(ROOT), *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys(filter(None, paths)))


# ------------------------------------------------------------------------------------------------
# Processes of this machine
# ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Process:
    process: subprocess.Popen
    slot: int

    def code(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]


@contextlib.contextmanager
def _local(spec: PoolSpec, folder: Path) -> Iterator[Start]:
    del folder
    cores, running = core_shares(spec.jobs), []

    def start(work: Work) -> Handle:
        running[:] = [handle for handle in running if handle.code() is None]
        slot = min(set(range(spec.jobs)) - {handle.slot for handle in running})
        env = os.environ | huge_pages.setting() | gpu_share(slot, spec.jobs, os.environ)
        with work.log.open('ab') as log, _on(cores[slot]):
            process = subprocess.Popen(
                work.command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=env,
                start_new_session=True,  # Ctrl-C is for this process, and reaches the others by it
            )  # fmt: skip
        running.append(_Process(process, slot))
        return running[-1]

    try:
        yield start
    finally:
        for handle in running:
            handle.stop()
        deadline = time.monotonic() + GOODBYE
        while any(h.code() is None for h in running) and time.monotonic() < deadline:
            time.sleep(0.05)


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """A context whose child processes run on some cores; empty: on all."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def gpu_share(slot: int, jobs: int, env: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables that limit a process to its share of the GPUs.

    Args:
      slot: the number of the process, from 0.
      jobs: the number of processes at the same time.
      env: the variables of this process; CUDA_VISIBLE_DEVICES names the GPUs.
    """
    visible = env.get('CUDA_VISIBLE_DEVICES')
    if visible is None:
        count = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
        gpus = [str(i) for i in range(count)]
    else:
        gpus = [gpu for gpu in visible.split(',') if gpu]
    if not gpus or jobs == 1:
        return {}
    share = {'CUDA_VISIBLE_DEVICES': ','.join(gpus[slot::jobs] or [gpus[slot % len(gpus)]])}
    if jobs > len(gpus):
        on_one = -(-jobs // len(gpus))
        share['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{_MEMORY / on_one:.3f}'
    return share


@dataclasses.dataclass
class _Remote:
    """A trial on another machine, which looks for a file that asks it to stop.

    Attributes:
      done: whether it has ended.
      result: returns its exit code, or raises an error of the library that runs it.
      stop_file: the file that asks it to stop.
      log: the file with its output.
    """

    done: Callable[[], bool]
    result: Callable[[], int]
    stop_file: Path
    log: Path

    def code(self) -> int | None:
        if not self.done():
            return None
        try:
            return self.result()
        except Exception as error:  # the job was killed, its time was over, a machine was lost
            with self.log.open('a') as log:
                log.write(f'{(str(error).splitlines() or [type(error).__name__])[0]}\n')
            return 1

    def stop(self) -> None:
        self.stop_file.touch()


# ------------------------------------------------------------------------------------------------
# Slurm, through submitit
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _slurm(spec: PoolSpec, folder: Path) -> Iterator[Start]:
    import submitit  # pyright: ignore[reportMissingImports]

    options = dict(spec.options)
    cluster, files = options.pop('cluster', 'slurm'), folder / 'slurm'
    files.mkdir(exist_ok=True)
    try:
        executor = submitit.AutoExecutor(files, cluster=cluster)
        executor.update_parameters(name=folder.name, **options)
    except (ValueError, TypeError, NameError, RuntimeError) as error:
        first = (str(error).splitlines() or [''])[0]
        raise UserError(f'--slurm: submitit refuses it ({first[:300]}).') from error
    former = load_json(folder / JOBS) or {}

    def start(work: Work) -> Handle:
        stop_file = files / f'{work.name}.stop'
        job = _former_job(submitit, former.get(work.name), files, cluster)
        if job is None:
            stop_file.unlink(missing_ok=True)
            work.log.parent.mkdir(exist_ok=True)
            job = executor.submit(remote.Command(list(work.command), str(work.log), str(stop_file)))
            former[work.name] = job.job_id
            write_json(folder / JOBS, former)
        return _Remote(job.done, job.result, stop_file, work.log)

    yield start


def _former_job(submitit: Any, job_id: str | None, files: Path, cluster: str) -> Any:
    """Returns the job that an earlier process has submitted, if it still waits or runs."""
    if job_id is None or cluster != 'slurm':
        return None
    job = submitit.SlurmJob(files, job_id, [0])
    job.watcher.update()
    waiting = ('PENDING', 'RUNNING', 'REQUEUED', 'COMPLETING', 'CONFIGURING', 'SUSPENDED')
    return job if job.state.upper() in waiting else None


# ------------------------------------------------------------------------------------------------
# Ray
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ray(spec: PoolSpec, folder: Path) -> Iterator[Start]:
    import ray  # pyright: ignore[reportMissingImports]

    quiet = {'include_dashboard': False, 'log_to_driver': False, 'logging_level': 'error'}
    quiet['runtime_env'] = {'env_vars': {'PYTHONPATH': os.environ['PYTHONPATH']}}
    try:
        ray.init('auto', **quiet)  # the cluster of this machine, or of RAY_ADDRESS
    except ConnectionError:
        ray.init(num_cpus=spec.jobs, **quiet)
    task = ray.remote(**{'num_cpus': 1, 'max_retries': 2, **spec.options})(remote.run)
    files = folder / 'ray'
    files.mkdir(exist_ok=True)

    def start(work: Work) -> Handle:
        stop_file = files / f'{work.name}.stop'
        stop_file.unlink(missing_ok=True)
        answer = task.remote(list(work.command), str(work.log), str(stop_file))
        return _Remote(
            lambda: bool(ray.wait([answer], timeout=0)[0]),
            lambda: ray.get(answer),
            stop_file,
            work.log,
        )

    try:
        yield start
    finally:
        ray.shutdown()
