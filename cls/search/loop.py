"""The loop of a search: ask for a trial, evaluate it, report its fitness.

Evaluations run where `submit` sends them. If results are reported in the order of asking, a search
is a function of its seed, of the results and of the number of concurrent evaluations: neither the
number of workers nor their speed changes it. Otherwise each result is reported as soon as it is
available, to keep all workers busy.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from cls.errors import UserError
from cls.search.history import History, Result
from cls.search.searcher import FAILED, Searcher, Trial

Metrics = Mapping[str, Any]
Submit = Callable[[Trial], Future[Metrics]]


class Failed(Exception):
    """The failure to build or train one network; the message says why."""


def failure(error: Exception) -> Failed:
    """Returns the exception of an evaluation as a `Failed`."""
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
    on_result: Callable[[Result], None] = lambda result: None,
) -> None:
    """Runs a search, or the rest of it, to its number of evaluations or the end of its space.

    An evaluation that raises gives a failed trial, whose metrics have the reason. Only a UserError
    is re-raised: with a mistake in the config no trial can be evaluated.

    Args:
      searcher: a new searcher, to which the history is replayed.
      submit: starts an evaluation.
      objective: metrics -> fitness.
      history: the history of this search; all events are added to it.
      evaluations: total number of trials, including those in the history.
      max_concurrent: number of concurrent evaluations.
      in_order: whether results are reported in the order of asking.
      on_result: called after each result is reported.
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
        on_result(result)


def _next(running: Mapping[Trial, Future[Metrics]], in_order: bool) -> Trial:
    if in_order:
        return min(running, key=lambda trial: trial.number)
    done = wait(running.values(), return_when=FIRST_COMPLETED).done
    return min((t for t, future in running.items() if future in done), key=lambda t: t.number)


def _result(trial: Trial, future: Future[Metrics], objective: Callable[[Metrics], float]) -> Result:
    try:
        metrics = future.result()
        return Result(trial, objective(metrics), metrics)
    except UserError:
        raise
    except Exception as error:  # of any kind: one network that fails does not end a search
        return Result(trial, FAILED, {'error': str(failure(error))})


def submit_inline(evaluate: Callable[[Trial], Metrics]) -> Submit:
    """Returns a `submit` that evaluates synchronously, in this thread."""

    def submit(trial: Trial) -> Future[Metrics]:
        future: Future[Metrics] = Future()
        try:
            future.set_result(evaluate(trial))
        except Exception as error:
            future.set_exception(error)
        return future

    return submit
