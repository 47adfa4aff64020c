"""The loop of a search: ask, evaluate, tell.

Evaluations run wherever `submit` sends them. With one order of telling, that of asking, the course
of a search is a function of its seed, of what evaluations return and of how many of them are out at
once: neither the number of workers nor their speed changes it. With the other a trial is told as
soon as it is done, which keeps all workers busy.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from cls.errors import UserError
from cls.search.history import History, Result
from cls.search.searcher import FAILED, Searcher, Trial

Metrics = Mapping[str, Any]
Submit = Callable[[Trial], 'Future[Metrics]']


class Failed(Exception):
    """Raised by an evaluation of a net that cannot be built or trained; the message says why."""


def failure(error: Exception) -> Failed:
    """Returns what an evaluation raised as what failed."""
    return error if isinstance(error, Failed) else Failed(f'{type(error).__name__}: {error}'[:300])


def search(
    searcher: Searcher,
    submit: Submit,
    objective: Callable[[Metrics], float],
    history: History,
    *,
    evaluations: int,
    max_concurrent: int = 1,
    in_order: bool = True,
    told: Callable[[Result], None] = lambda result: None,
) -> None:
    """Runs a search, or what is left of it, until so many trials are told or none is left to ask.

    An evaluation that raises is a trial that failed, and its metrics say why. Only a UserError is
    raised again: it is a mistake in the config, with which no trial could be evaluated.

    Args:
      searcher: a fresh one; it is brought to where the history ends.
      submit: starts an evaluation.
      objective: what metrics are worth.
      history: of this search; all is noted there.
      evaluations: trials in all, those of the history included.
      max_concurrent: evaluations that are out at the same time.
      in_order: whether trials are told in the order in which they were asked.
      told: called after each trial is told.
    """
    history.replay(searcher)
    running = {trial: submit(trial) for trial in history.pending.values()}
    while True:
        while len(running) < max_concurrent and searcher.asked < evaluations:
            trial = searcher.ask()
            if trial is None:
                break
            history.ask(trial)
            running[trial] = submit(trial)
        if not running:
            return
        trial = _next(running, in_order)
        result = _result(trial, running.pop(trial), objective)
        history.tell(result)
        searcher.tell(trial, result.fitness)
        told(result)


def _next(running: Mapping[Trial, 'Future[Metrics]'], in_order: bool) -> Trial:
    if in_order:
        return min(running, key=lambda trial: trial.number)
    done = wait(running.values(), return_when=FIRST_COMPLETED).done
    return min((t for t, future in running.items() if future in done), key=lambda t: t.number)


def _result(
    trial: Trial, future: 'Future[Metrics]', objective: Callable[[Metrics], float]
) -> Result:
    try:
        metrics = future.result()
        return Result(trial, objective(metrics), metrics)
    except UserError:
        raise
    except Exception as error:  # of whatever kind: one net that fails does not end a search
        return Result(trial, FAILED, {'error': str(failure(error))})


def max_concurrent(evaluate: Callable[[Trial], Metrics]) -> Submit:
    """Returns a `submit` that evaluates right away, in this process."""

    def submit(trial: Trial) -> 'Future[Metrics]':
        future: Future[Metrics] = Future()
        try:
            future.set_result(evaluate(trial))
        except Exception as error:
            future.set_exception(error)
        return future

    return submit
