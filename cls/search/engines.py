"""Engines that run evaluations: this process, processes of this machine, or a Ray cluster.

An engine is started with a function that evaluates a trial, and then accepts trials. If a process
dies, only its own trial is lost. The engine evaluates it again, up to TRIES times in total, because
memory may run out, and machines may be preempted.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from ml_collections import ConfigDict

from cls import signals
from cls.errors import UserError
from cls.search.loop import Failed, Metrics, Submit, failure, submit_inline
from cls.search.searcher import Trial

TRIES = 3  # number of processes that may die of one trial until it counts as failed
_SPAWN = multiprocessing.get_context('spawn')  # JAX has threads, which a fork would not copy

Evaluate = Callable[[Trial], Metrics]


@dataclasses.dataclass(frozen=True)
class EngineSpec:
    """The engine of a search, as config.search describes it."""

    name: str = 'local'
    max_concurrent: int = 1  # evaluations at the same time
    workers: int = 0  # processes; 0: max_concurrent
    gpus: float = 0.0  # of each evaluation on Ray

    @classmethod
    def from_config(cls, search: ConfigDict) -> Self:
        """Returns the engine of config.search, whose values cls.config.defaults has checked."""
        return cls(search.engine, search.max_concurrent, search.workers, search.gpus)


@contextlib.contextmanager
def started(spec: EngineSpec, evaluate: Evaluate) -> Iterator[Submit]:
    """Yields the function that starts an evaluation; evaluations running at the end are dropped.

    Args:
      spec: the engine.
      evaluate: a function that can be pickled, unless the engine is 'local'.

    Raises UserError for an engine that is not installed.
    """
    with ENGINES[spec.name](spec, evaluate) as submit:
        yield submit


@contextlib.contextmanager
def _local(spec: EngineSpec, evaluate: Evaluate) -> Iterator[Submit]:
    yield submit_inline(evaluate)


@contextlib.contextmanager
def _processes(spec: EngineSpec, evaluate: Evaluate) -> Iterator[Submit]:
    shares = core_shares(spec.workers or spec.max_concurrent)
    workers = [_Worker(evaluate, cores) for cores in shares]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(trial: Trial) -> Metrics:
        worker = idle.get()
        try:
            return worker(trial)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(len(workers))  # each waits for the answer of a worker
    try:
        yield lambda trial: threads.submit(run, trial)
    finally:
        for worker in workers:
            worker.stop()
        threads.shutdown(cancel_futures=True)


class _Worker:
    """A process that evaluates one trial after the other, and is replaced when it dies."""

    def __init__(self, evaluate: Evaluate, cores: set[int]) -> None:
        self._evaluate, self._cores = evaluate, cores
        self._stopped, self._lock = False, threading.Lock()
        self._start()

    def __call__(self, trial: Trial) -> Metrics:
        for _ in range(TRIES):
            with contextlib.suppress(EOFError, OSError):  # it died
                self._connection.send(trial)
                return _result(self._connection.recv())
            self._start()
        raise Failed(f'{TRIES} processes died of it')

    def _start(self) -> None:
        with self._lock:
            if self._stopped:
                raise Failed('stopped')
            self._connection, remote = _SPAWN.Pipe()
            arguments = remote, self._evaluate, self._cores
            self._process = _SPAWN.Process(target=_work, args=arguments)
            with signals.withheld():
                self._process.start()
            remote.close()  # so that the death of the process closes the connection

    def stop(self) -> None:
        """Kills the process, even during an evaluation."""
        with self._lock:
            self._stopped = True
            self._process.kill()
            self._process.join()


def _work(connection: Any, evaluate: Evaluate, cores: set[int]) -> None:
    """Evaluates trials in a process of `_processes` until its parent is gone."""
    signals.serve()
    if cores:
        os.sched_setaffinity(0, cores)  # before XLA makes a thread for each core it sees
    while True:
        connection.send(_answer(evaluate, connection.recv()))


def core_shares(workers: int) -> list[set[int]]:
    """Returns the cores of each worker; empty sets with fewer cores than workers, or on macOS."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    if len(cores) < workers:
        return [set() for _ in range(workers)]
    return [set(cores[i::workers]) for i in range(workers)]


@contextlib.contextmanager
def _ray(spec: EngineSpec, evaluate: Evaluate) -> Iterator[Submit]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "config.search.engine is 'ray', which is not installed: pip install 'ray>=2.40,<3', "
            "or choose 'processes'."
        ) from None
    quiet = {'include_dashboard': False, 'log_to_driver': False, 'logging_level': 'error'}
    try:
        ray.init('auto', **quiet)  # the cluster of this machine, or of RAY_ADDRESS
    except ConnectionError:
        ray.init(num_cpus=spec.workers or spec.max_concurrent, **quiet)
    options = {'num_cpus': 1, 'num_gpus': spec.gpus, 'max_retries': TRIES - 1}
    answer, shared = ray.remote(**options)(_answer), ray.put(evaluate)
    threads = ThreadPoolExecutor(spec.max_concurrent)  # each waits for an answer
    try:
        yield lambda trial: threads.submit(lambda: _result(ray.get(answer.remote(shared, trial))))
    finally:
        ray.shutdown()
        threads.shutdown(cancel_futures=True)


def _answer(evaluate: Evaluate, trial: Trial) -> Metrics | Exception:
    """Returns the metrics of a trial, or the exception in a form that can be pickled."""
    try:
        return evaluate(trial)
    except UserError as error:
        return error
    except Exception as error:
        return failure(error)


def _result(answer: Metrics | Exception) -> Metrics:
    if isinstance(answer, Exception):
        raise answer
    return answer


ENGINES = {'local': _local, 'processes': _processes, 'ray': _ray}
