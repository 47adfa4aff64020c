"""The search job: runs the search of a config in a run folder, or continues it.

In addition to the files of every run the folder has

  history.jsonl   all trials and results; a search continues from it, see cls.search.history
  result.json     at the end: fitness, trial, genotype and metrics of the best, evaluations, ...
  genotype.json   the best, for --config.model.genotype=FILE, if trials are trained
  curve.png       the best so far against evaluations
  cell.png        a drawing of the best

A search has nothing to save when it stops: it may be stopped or killed at any time, and the same
command continues with the evaluations that were running.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
from ml_collections import ConfigDict

from cls.config import defaults, genotype_files, runs
from cls.data import datasets
from cls.data.spec import DataSpec
from cls.distributed.preemption import Preemption
from cls.errors import Mistakes, UserError
from cls.models.registry import genotypes
from cls.run import same_data
from cls.run.goodput import FILE as LEDGER
from cls.run.goodput import TimeLedger, load_record, written
from cls.run.telemetry import write_json
from cls.run.workdir import finished_result, open_run
from cls.search import engines, history, loop, registry
from cls.search.engines import EngineSpec
from cls.search.history import FILE, History, Result
from cls.search.searcher import FAILED, Searcher
from cls.search.space import Space
from cls.storage import paths

log = logging.getLogger(__name__)

GENOTYPE = 'genotype.json'
PAUSE = 10.0  # seconds between lines of progress without a better trial


def is_search(config: ConfigDict) -> bool:
    """Whether a config describes a search by trials; training a supernet is a training."""
    return 'search' in config and 'supernet' not in config.search


def refuse(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError for the config of a search: it has no weights to evaluate."""
    if is_search(config):
        raise UserError(
            f'{workdir} is of a search, which keeps no weights: train the network that it found'
            f'{_training_command(config, workdir)}, then evaluate the folder of that run.'
        )


@dataclasses.dataclass(frozen=True)
class SearchSpec:
    """A search as its config describes it, with a fresh searcher."""

    space: Space
    searcher: Searcher
    objective: Callable[[loop.Metrics], float]
    evaluate: engines.Evaluate
    engine: EngineSpec
    evaluations: int  # trials in all
    synchronous: bool  # whether results are reported in the order of asking

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        """Returns the search of a config. Raises UserError for all its mistakes together."""
        search, mistakes = config.search, Mistakes()
        attempt, create = mistakes.attempt, registry.create
        attempt(defaults.check, config)
        space: Any = attempt(create, 'space', search.space)
        objective = attempt(create, 'objective', search.objective)
        engine = attempt(EngineSpec.from_config, search)
        searcher: Any = None
        evaluate: Any = None
        if space is not None:
            searcher = attempt(create, 'searcher', search.searcher, space, config.seed)
            evaluate = attempt(create, 'evaluator', search.evaluator, space, config)
        mistakes.refuse()
        return cls(
            space,  # pyright: ignore[reportArgumentType]
            searcher,
            objective,
            evaluate,
            engine,
            search.evaluations,
            search.synchronous,
        )


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any]:
    """Searches to the end and returns the result; time counts from `began`, as in cls.train.

    Raises UserError, before anything is written, for mistakes in the config and for a folder that
    holds something else; and if none of the trials could be evaluated.
    """
    ledger = TimeLedger(began)
    if jax.process_count() > 1:
        raise UserError(
            f'a search is one process, not {jax.process_count()}: run the command once, and for '
            "many machines with --config.search.engine=ray on a cluster of Ray's."
        )
    if paths.is_remote(workdir):
        raise UserError(f'{workdir} is in a store: expected a folder for the history to grow in.')
    run_config = runs.run_config(config)
    result = finished_result(workdir, run_config)
    if result is not None:
        log.info('%s holds the finished search of this config: nothing was evaluated.', workdir)
        return result
    spec = SearchSpec.from_config(config)
    space = spec.space
    data = _same_data(config, workdir)
    with (
        open_run(workdir, run_config),
        Preemption() as preemption,
        _continued(ledger, workdir / LEDGER),
    ):
        preemption.guard(False)  # the history has everything
        if data:
            write_json(workdir / same_data.FILE, data)
        log.info('run folder: %s', workdir)
        events = History(workdir / FILE, lambda code: genotypes.plain(space.genotype(code)))
        if events.recorded:
            log.info('continuing after %d of %d evaluations', events.recorded, spec.evaluations)
        with engines.started(spec.engine, spec.evaluate) as submit, ledger.spend('eval'):
            loop.search(
                spec.searcher,
                submit,
                spec.objective,
                events,
                evaluations=spec.evaluations,
                max_concurrent=spec.engine.max_concurrent,
                in_order=spec.synchronous,
                on_result=SearchProgress(events, spec.evaluations, ledger),
            )
        result = finish(workdir, space, events, ledger, trains='proxy' in config)
        write_json(workdir / 'result.json', result)
        return result


def _same_data(config: ConfigDict, workdir: Path) -> same_data.Data | None:
    """Returns the identity of the data that trials are trained on; None if they are not trained.

    Raises UserError if a history that continues is of other data.
    """
    if 'proxy' not in config:
        return None
    spec = DataSpec.from_config(config.proxy)
    data = datasets.identity(datasets.load(spec, 'train'), datasets.load(spec, 'eval'))
    begun = (workdir / FILE).exists() and (workdir / FILE).stat().st_size > 0
    same_data.check(workdir, data, begun, spec.allow_changed)
    return data


@contextlib.contextmanager
def _continued(ledger: TimeLedger, file: Path) -> Iterator[None]:
    """Adds the time of earlier processes, without rework, and keeps the file up to date."""
    spent = load_record(file)  # before it is written
    ledger.continue_from(spent, spent)
    with written(ledger, file):
        yield


def finish(
    workdir: Path, space: Space, events: History, ledger: TimeLedger, trains: bool
) -> dict[str, Any]:
    """Writes the figures, and genotype.json, of a search that has ended; returns its result.

    Args:
      workdir: the run folder.
      space: the space that was searched.
      events: the history of the search.
      ledger: the ledger of its time.
      trains: whether trials were trained, as their best genotype can be.

    Raises UserError if none of the trials could be evaluated.
    """
    from cls.search import figures  # matplotlib is slow to import

    best, results = events.best(), events.results
    if best is None:
        why = results[-1].metrics['error'] if results else 'there are none'
        raise UserError(f'none of the {len(results)} trials could be evaluated, the last: {why}.')
    genotype = space.genotype(best.trial.code)
    figures.curve(results, workdir / 'curve.png')
    figures.draw(genotype, workdir / 'cell.png')
    if trains:
        genotype_files.save(genotype, workdir / GENOTYPE)
    report = ledger.report()
    return {
        'fitness': best.fitness,
        'trial': best.trial.number,
        'code': best.trial.code,
        'genotype': genotypes.plain(genotype),
        'metrics': dict(best.metrics),
        'evaluations': len(results),
        'failed': sum(result.fitness == FAILED for result in results),
        'distinct': len({space.key(result.trial.code) for result in results}),
        'seconds': report['seconds'],
        'compile_seconds': round(sum(r.metrics.get('compile_seconds', 0.0) for r in results), 2),
        'restarts': report['restarts'],
    }


def summary(result: Mapping[str, Any], config: ConfigDict, workdir: Path) -> str:
    """Returns a sentence on the result of a search, and the command that trains its genotype."""
    text = f'best {result["fitness"]:.4f} (trial {result["trial"]}'
    if 'truth' in result['metrics']:
        text += f', in truth {result["metrics"]["truth"]:.4f}'
    text += f') of {result["evaluations"]} evaluations, {result["distinct"]} distinct networks'
    text += f', {result["failed"]} failed' if result['failed'] else ''
    text += f', {result["seconds"]:.1f} s; run folder: {workdir}'
    command = _training_command(config, workdir)
    return f'{text}\nto train it{command}' if command else text


def _training_command(config: ConfigDict, workdir: Path) -> str:
    if 'proxy' not in config:
        return ''
    return (
        f': python -m cls.main --config {config.search.system} '
        f'--config.model.genotype={workdir / GENOTYPE}'
    )


class SearchProgress:
    """Logs a line for a better trial, for a failed one, and after some time without either."""

    def __init__(self, events: History, total: int, ledger: TimeLedger) -> None:
        self._events, self._total, self._ledger = events, total, ledger
        self._best: Result | None = None
        self._logged = time.monotonic()

    def __call__(self, result: Result) -> None:
        """Takes the result of a trial after the history has it."""
        if result.fitness == FAILED:
            log.info('trial %d failed: %s', result.trial.number, result.metrics['error'])
        count, now = len(self._events.results), time.monotonic()
        before = self._best
        best = self._best = history.best([before, result]) if before else self._events.best()
        if best is None:
            return
        better = before is None or best is result
        if better or now - self._logged > PAUSE or count == self._total:
            self._logged = now
            log.info(
                '%d/%d evaluations: best %.4f (trial %d), %.0f s',
                *(count, self._total, best.fitness, best.trial.number),
                self._ledger.report()['seconds'],
            )
