"""Where evaluations run: in this process, in processes of this machine, on a cluster of Ray.

An engine is entered with what evaluates a trial, and then takes trials. A process that dies takes
no more than its own trial with it, which is evaluated again, up to TRIES times in all: memory runs
out, machines are taken away.
"""

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ml_collections import ConfigDict

from cls import signals
from cls.errors import UserError, nearest
from cls.search.loop import Failed, Metrics, Submit, failure, max_concurrent
from cls.search.searcher import Trial

TRIES = 3  # processes that one trial may bring down before it has failed
_SPAWN = multiprocessing.get_context('spawn')  # JAX has threads, which a fork would not copy

Evaluate = Callable[[Trial], Metrics]


@contextlib.contextmanager
def started(config: ConfigDict, evaluate: Evaluate) -> Iterator[Submit]:
    """Yields what starts evaluations; those that still run at the end are given up.

    Args:
      config: config.search.
      evaluate: can be pickled, unless the engine is 'local'.

    Raises UserError for an engine that is unknown or not installed.
    """
    if config.engine not in ENGINES:
        hint = nearest(config.engine, ENGINES) or f' Known: {", ".join(ENGINES)}.'
        raise UserError(f'config.search.engine is {config.engine!r}.{hint}')
    with ENGINES[config.engine](config, evaluate) as submit:
        yield submit


@contextlib.contextmanager
def _local(config: ConfigDict, evaluate: Evaluate) -> Iterator[Submit]:
    yield max_concurrent(evaluate)


@contextlib.contextmanager
def _processes(config: ConfigDict, evaluate: Evaluate) -> Iterator[Submit]:
    workers = [
        _Worker(evaluate, cores) for cores in _shares(config.workers or config.max_concurrent)
    ]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(trial: Trial) -> Metrics:
        worker = idle.get()
        try:
            return worker(trial)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(len(workers))  # each waits for a worker's answer
    try:
        yield lambda trial: threads.submit(run, trial)
    finally:
        for worker in workers:
            worker.stop()
        threads.shutdown(cancel_futures=True)


class _Worker:
    """A process that evaluates one trial after the other, and is made anew when it dies."""

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
            self._connection, theirs = _SPAWN.Pipe()
            arguments = theirs, self._evaluate, self._cores
            self._process = _SPAWN.Process(target=_work, args=arguments)
            with signals.withheld():
                self._process.start()
            theirs.close()  # so that the end of the process is the end of what it sends

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        with self._lock:
            self._stopped = True
            self._process.kill()
            self._process.join()


def _work(connection: Any, evaluate: Evaluate, cores: set[int]) -> None:
    """What a process of `_processes` does until the one that made it is gone."""
    signals.serve()
    if cores:
        os.sched_setaffinity(0, cores)  # before XLA makes a thread for each core it sees
    while True:
        connection.send(_answer(evaluate, connection.recv()))


def _shares(workers: int) -> list[set[int]]:
    """Returns the cores of each worker; none where there are fewer than workers, or no way to."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    if len(cores) < workers:
        return [set() for _ in range(workers)]
    return [set(cores[i::workers]) for i in range(workers)]


@contextlib.contextmanager
def _ray(config: ConfigDict, evaluate: Evaluate) -> Iterator[Submit]:
    try:
        import ray
    except ImportError:
        raise UserError(
            "config.search.engine is 'ray', which is not installed: pip install 'ray>=2.40,<3', "
            "or choose 'processes'."
        ) from None
    quiet = {'include_dashboard': False, 'log_to_driver': False, 'logging_level': 'error'}
    try:
        ray.init('auto', **quiet)  # the cluster of this machine, or of RAY_ADDRESS
    except ConnectionError:
        ray.init(num_cpus=config.workers or config.max_concurrent, **quiet)
    options = {'num_cpus': 1, 'num_gpus': config.gpus, 'max_retries': TRIES - 1}
    answer, shared = ray.remote(**options)(_answer), ray.put(evaluate)
    threads = ThreadPoolExecutor(config.max_concurrent)  # each waits for an answer
    try:
        yield lambda trial: threads.submit(lambda: _result(ray.get(answer.remote(shared, trial))))
    finally:
        ray.shutdown()
        threads.shutdown(cancel_futures=True)


def _answer(evaluate: Evaluate, trial: Trial) -> Metrics | Exception:
    """Evaluates; what is raised is returned, in a form that goes from process to process."""
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
