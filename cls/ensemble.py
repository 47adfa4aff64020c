"""Ensembles: several runs as one classifier, by the mean of their softmax.

The config of an ensemble has `members`, each a complete config, and `loaded`, a run folder for each
member that is already trained. The ensemble's run folder contains a run folder for each member that
it trains.

May import: anything but main, recipes, search, tools.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cls import train
from cls.config import runs
from cls.distributed import agreement
from cls.errors import UserError
from cls.evaluate import (
    plan,
    predict,
    restore,
    summary,
    write,
)
from cls.evaluation import average, tables
from cls.evaluation.measure import measure
from cls.evaluation.metrics import Tally
from cls.evaluation.plan import together
from cls.evaluation.protocols import EvalSpec
from cls.run import metric_names
from cls.run.reports import deliver, prepare
from cls.run.telemetry import write_json
from cls.run.workdir import finished_result, open_run

RESULT = ('top1', 'top5', 'loss')  # figures of result.json


def is_ensemble(config: ConfigDict) -> bool:
    """Whether a config describes an ensemble."""
    return 'members' in config


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any] | None:
    """Trains the members that are not loaded, one after another, and evaluates the ensemble.

    Every member continues from its newest checkpoint; the ensemble's own files are config.json and
    result.json. Its `seconds` are those of the members that it trained, including restarts, and of
    the evaluation. Returns the result, or None when stopped before the end. The time of the first
    member counts from `began`, see cls.train.job.
    """
    run_config = runs.run_config(config)
    result = agreement.on_first('folder', lambda: finished_result(workdir, run_config))
    if result is not None:
        agreement.print_once(train.FINISHED.format(workdir))
        return result
    parts, seconds = runs.members(config, workdir), 0.0
    _check_labels(parts)
    with open_run(workdir, run_config):
        for name, (member, folder) in zip(config.members, parts, strict=True):
            if config.loaded[name]:
                continue
            agreement.print_once(f'member {name}:')
            trained = train.job(member, folder, began)
            if trained is None:
                return None
            began, seconds = None, seconds + trained['seconds']
        evaluating = time.perf_counter()
        values, _ = evaluate_runs(parts, 'single')
        figures = [f'{kind}/{metric}' for kind in metric_names.KINDS for metric in RESULT]
        result = {name: values[name] for name in ('split', *figures, 'params') if name in values}
        result['seconds'] = round(seconds + time.perf_counter() - evaluating, 2)
        if agreement.is_main_process():
            write_json(workdir / 'result.json', result)
    return result


def evaluate_runs(
    parts: Sequence[tuple[ConfigDict, Path]], protocol: str = ''
) -> tuple[dict[str, Any], Tally]:
    """Returns the metrics of an ensemble of runs, and the sum of their parameter counts.

    They are validation/top1, validation/top5 (percent), validation/loss (nats), ..., or test/...

    Each run prepares the images in its own way. The average of the weights is used where a run
    keeps one. The weights of all runs are in memory together, the predictions of few images.

    Args:
      parts: configs, and folders with a checkpoint.
      protocol: the protocol of the evaluation; '': the config.eval.protocol of each run.

    Returns:
      (values, the metrics of the mean of the predictions).

    Raises:
      UserError: a folder without a checkpoint, runs of different data or classes, a config with a
        file of predictions, or images with several labels.
    """
    _check_labels(parts)
    for config, run in parts:
        if not protocol and config.eval.predictions:
            raise UserError(
                f'config.eval.predictions of {run} is {config.eval.predictions!r}, but predictions '
                "are written of one run: expected '' where several are taken together."
            )
    setups, weights, params, used = [], [], 0, []
    names = [str(run) for _, run in parts]
    for config, run in parts:
        setup, state = restore(config, run)
        used.append(protocol or EvalSpec.from_config(config).title)
        params += sum(x.size for x in jax.tree.leaves(state.params))
        setups.append(setup)
        weights.append(state.ema or state.variables())
        if len(setup.test) != len(setups[0].test):
            raise average.other_images(names[len(setups) - 1], names[0])
    plans = together(
        plan(setup, protocol or config.eval.protocol)
        for setup, (config, _) in zip(setups, parts, strict=True)
    )
    streams = [predict(*each) for each in zip(setups, weights, plans, strict=True)]
    source, first = setups[0].test, setups[0]
    predictions, classes = average.together(streams, names), first.model.num_classes
    tally = measure(predictions, source, classes, names=first.info.class_names)
    values = tables.values(tally, first.kind(final=True), source.files)
    conditions = {'protocol': ','.join(dict.fromkeys(used)), 'split': source.split}
    return conditions | values | {'params': params}, tally


def _check_labels(parts: Sequence[tuple[ConfigDict, Path]]) -> None:
    for config, run in parts:
        if config.data.multi_label:
            raise UserError(
                f'config.data.multi_label of {run} is True, and runs are evaluated together by one '
                'label for each image: evaluate this run by itself.'
            )


def evaluate_job(config: ConfigDict, workdir: Path, output: Path | None = None) -> dict[str, Any]:
    """Evaluates an ensemble's run folder by its members' protocols, as cls.evaluate.job does."""
    agreement.on_first('output', lambda: prepare(workdir, output))
    values, tally = evaluate_runs(runs.members(config, workdir))
    _print(values)

    def write_all(folder: Path) -> None:
        write(folder / runs.report_name(values['protocol'], config, workdir), values, tally)

    agreement.on_first('written', lambda: deliver(write_all, workdir, output))
    return values


def together_job(parts: Sequence[tuple[ConfigDict, Path]], output: Path | None) -> None:
    """Evaluates run folders as an ensemble; prints the result, and writes it to `output` if given.

    Raises UserError if `output` cannot be written to. Also raises the errors of `evaluate_runs`.
    """
    if output is not None:
        agreement.on_first('output', lambda: prepare(output, output))
    values, tally = evaluate_runs(parts)
    _print(values)

    def write_all(folder: Path) -> None:
        write(folder / 'evaluation', values, tally)

    if output is not None:
        agreement.on_first('written', lambda: deliver(write_all, output, output))


def _print(values: dict[str, Any]) -> None:
    """Prints the result of an evaluation, and its table of classes."""
    (name,) = (kind for kind in metric_names.KINDS if f'{kind}/top1' in values)
    agreement.print_once('\n'.join([summary(values), *tables.class_lines(values, name)]))
