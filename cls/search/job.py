"""The job of a config that has `search`: runs the search in a run folder, or continues it.

The folder has, beside the files of every run,

  history.jsonl   all that was asked and told; from it a search continues, see cls.search.history
  result.json     at the end: fitness, trial, genotype and metrics of the best, evaluations, ...
  genotype.json   the best, for --config.model.genotype=FILE, where trials are trained
  curve.png       the best so far against evaluations
  cell.png        draws the best

Nothing is ever left to save: a search may be stopped or killed at any moment, and the same command
goes on with the evaluations that were out.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cls.config import defaults, genotype_files
from cls.data import datasets
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.models.registry import genotypes
from cls.run import same_data
from cls.run.goodput import FILE as LEDGER
from cls.run.goodput import TimeLedger, load_record, written
from cls.run.telemetry import write_json
from cls.run.workdir import finished_result, open_run
from cls.search import engines, history, loop, registry
from cls.search.history import FILE, History, Result
from cls.search.searcher import FAILED
from cls.search.space import Space
from cls.storage import paths

GENOTYPE = 'genotype.json'
PAUSE = 10.0  # seconds between lines of progress that tell of nothing better


def is_search(config: ConfigDict) -> bool:
    """Whether a config is of a search by trials; one that trains a supernet is a training."""
    return 'search' in config and 'supernet' not in config.search


def refuse(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError for a config of a search, which has nothing to evaluate."""
    if is_search(config):
        raise UserError(
            f'{workdir} is of a search, which keeps no weights: train the net that it found'
            f'{_how(config, workdir)}, then evaluate the folder of that run.'
        )


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any]:
    """Searches to the end and returns the result; time counts from `began`, as in cls.train.

    Raises UserError, before anything is written, for mistakes in the config and for a folder that
    holds something else; and when none of the trials could be evaluated.
    """
    ledger = TimeLedger(began)
    if jax.process_count() > 1:
        raise UserError(
            f'a search is one process, not {jax.process_count()}: run the command once, and for '
            "many machines with --config.search.engine=ray on a cluster of Ray's."
        )
    if paths.is_remote(workdir):
        raise UserError(f'{workdir} is in a store: expected a folder for the history to grow in.')
    result = finished_result(workdir, config)
    if result is not None:
        print(
            f'{workdir} holds the finished search of this config: nothing was evaluated.',
            flush=True,
        )
        return result
    settings = config.search
    defaults.check(config)
    space = registry.create('space', settings.space)
    searcher = registry.create('searcher', settings.searcher, space, config.seed)
    objective = registry.create('objective', settings.objective)
    evaluate = registry.create('evaluator', settings.evaluator, space, config)
    data = _same_data(config, workdir)
    with (
        open_run(workdir, config),
        Preemption() as preemption,
        _continued(ledger, workdir / LEDGER),
    ):
        preemption.guard(False)  # the history has all there is
        if data:
            write_json(workdir / same_data.FILE, data)
        print(f'run folder: {workdir}', flush=True)
        told = History(workdir / FILE, lambda code: genotypes.plain(space.genotype(code)))
        if told.known:
            print(
                f'continuing after {told.known} of {settings.evaluations} evaluations', flush=True
            )
        with engines.started(settings, evaluate) as submit, ledger.spend('eval'):
            loop.search(
                searcher,
                submit,
                objective,
                told,
                evaluations=settings.evaluations,
                max_concurrent=settings.max_concurrent,
                in_order=settings.synchronous,
                told=Progress(told, settings.evaluations, ledger),
            )
        return finish(config, workdir, space, told, ledger)


def _same_data(config: ConfigDict, workdir: Path) -> same_data.Data | None:
    """Returns what tells the data that trials are trained on; None if they are not trained.

    Raises UserError if a history that continues is of other data.
    """
    if 'proxy' not in config:
        return None
    fields = config.proxy.data
    data = datasets.identity(datasets.load(fields, 'train'), datasets.load(fields, 'eval'))
    begun = (workdir / FILE).exists() and (workdir / FILE).stat().st_size > 0
    same_data.check(workdir, data, begun, fields.allow_changed)
    return data


@contextlib.contextmanager
def _continued(ledger: TimeLedger, file: Path) -> Iterator[None]:
    """Adds what earlier processes spent, none of it lost, and keeps the file up to date."""
    spent = load_record(file)  # before it is written
    ledger.continue_from(spent, spent)
    with written(ledger, file):
        yield


def finish(
    config: ConfigDict, workdir: Path, space: Space, told: History, ledger: TimeLedger
) -> dict[str, Any]:
    """Writes figures, genotype.json and result.json of a search that has ended; returns the last.

    Raises UserError when none of the trials could be evaluated.
    """
    from cls.search import figures  # matplotlib is slow to import

    best, results = told.best(), told.results
    if best is None:
        why = results[-1].metrics['error'] if results else 'there are none'
        raise UserError(f'none of the {len(results)} trials could be evaluated, the last: {why}.')
    genotype = space.genotype(best.trial.code)
    figures.curve(results, workdir / 'curve.png')
    figures.draw(genotype, workdir / 'cell.png')
    if 'proxy' in config:
        genotype_files.save(genotype, workdir / GENOTYPE)
    report = ledger.report()
    result = {
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
    write_json(workdir / 'result.json', result)
    return result


def summary(result: dict[str, Any], config: ConfigDict, workdir: Path) -> str:
    """Returns a search's result in words, and how to train what it found."""
    text = f'best {result["fitness"]:.4f} (trial {result["trial"]}'
    if 'truth' in result['metrics']:
        text += f', in truth {result["metrics"]["truth"]:.4f}'
    text += f') of {result["evaluations"]} evaluations, {result["distinct"]} distinct nets'
    text += f', {result["failed"]} failed' if result['failed'] else ''
    text += f', {result["seconds"]:.1f} s; run folder: {workdir}'
    return text + (f'\nto train it{_how(config, workdir)}' if 'proxy' in config else '')


def _how(config: ConfigDict, workdir: Path) -> str:
    if 'proxy' not in config:
        return ''
    return (
        f': python -m cls.main --config {config.search.system} '
        f'--config.model.genotype={workdir / GENOTYPE}'
    )


class Progress:
    """Prints a line when there is something better, something failed, or some time has passed."""

    def __init__(self, told: History, total: int, ledger: TimeLedger) -> None:
        self._told, self._total, self._ledger = told, total, ledger
        self._best: Result | None = None
        self._printed = time.monotonic()

    def __call__(self, result: Result) -> None:
        """Takes note of a trial that was told."""
        if result.fitness == FAILED:
            print(f'trial {result.trial.number} failed: {result.metrics["error"]}', flush=True)
        count, now = len(self._told.results), time.monotonic()
        before = self._best
        best = self._best = history.best([before, result]) if before else self._told.best()
        if best is None:
            return
        better = before is None or best is result
        if better or now - self._printed > PAUSE or count == self._total:
            self._printed = now
            print(
                f'{count}/{self._total} evaluations: best {best.fitness:.4f} '
                f'(trial {best.trial.number}), {self._ledger.report()["seconds"]:.0f} s',
                flush=True,
            )
