"""Ensembles: several runs as one classifier, by the mean of their softmax.

A config of an ensemble has `members`, each a whole config, and `loaded`, a folder for each member
that is not to be trained. Its run folder has a run folder for each member that is.

May import: anything but main, search, tools.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cls import train
from cls.distributed import agreement
from cls.errors import UserError
from cls.evaluate import (
    deliver,
    predict,
    prepare,
    report,
    restore,
    scored,
    stem,
    summary,
    write,
)
from cls.evaluation import protocols
from cls.evaluation.metrics import Predictions
from cls.run import metric_names
from cls.run.telemetry import write_json
from cls.run.workdir import finished_result, load_config, open_run
from cls.storage import paths

RESULT = ('top1', 'top5', 'loss')  # figures of result.json


def is_ensemble(config: ConfigDict) -> bool:
    """Whether a config is of several nets."""
    return 'members' in config


def members(config: ConfigDict, workdir: Path) -> list[tuple[ConfigDict, Path]]:
    """Returns each member's config and run folder; of one that is loaded, the folder's config."""
    found = []
    for name, member in config.members.items():
        if config.loaded[name]:
            folder = paths.path(config.loaded[name])
            found.append((load_config(folder), folder))
        else:
            found.append((member, workdir / name))
    return found


def job(config: ConfigDict, workdir: Path, began: float | None = None) -> dict[str, Any] | None:
    """Trains the members that are not loaded, one after the other, and evaluates all together.

    Every member continues where it was; the ensemble's own files are config.json and result.json.
    Its `seconds` are those of the members that it trained, restarts included, and of evaluating.
    Returns the result, or None when told to stop before the end. The time of the first member
    counts from `began`, see cls.train.in_folder.
    """
    result = agreement.on_first('folder', lambda: finished_result(workdir, config))
    if result is not None:
        agreement.print_once(train.FINISHED.format(workdir))
        return result
    runs, seconds = members(config, workdir), 0.0
    with open_run(workdir, config):
        for name, (member, folder) in zip(config.members, runs, strict=True):
            if config.loaded[name]:
                continue
            agreement.print_once(f'member {name}:')
            trained = train.in_folder(member, folder, began)
            if trained is None:
                return None
            began, seconds = None, seconds + trained['seconds']
        evaluating = time.perf_counter()
        values, _ = evaluate(runs, 'single')
        figures = [f'{kind}/{metric}' for kind in metric_names.KINDS for metric in RESULT]
        result = {name: values[name] for name in ('split', *figures, 'params') if name in values}
        result['seconds'] = round(seconds + time.perf_counter() - evaluating, 2)
        if agreement.is_main_process():
            write_json(workdir / 'result.json', result)
    return result


def evaluate(
    runs: Sequence[tuple[ConfigDict, Path]], protocol: str = ''
) -> tuple[dict[str, Any], Predictions]:
    """Returns the figures of runs together, and the sum of their params.

    They are validation/top1, validation/top5 (percent), validation/loss (nats), ..., or test/...

    Each run prepares the images in its own way. Of a run that keeps an average of its weights, the
    average is taken.

    Args:
      runs: configs, and folders with a checkpoint.
      protocol: what each sees of an image; '': what its config.eval.protocol says.

    Returns:
      (values, the mean of the predictions).

    Raises:
      UserError: a folder without a checkpoint, runs that are of different data or classes, or a
        file of predictions that a config asks for.
    """
    for config, run in runs:
        if not protocol and config.eval.predictions:
            raise UserError(
                f'config.eval.predictions of {run} is {config.eval.predictions!r}, but predictions '
                "are written of one run: expected '' where several are taken together."
            )
    total, params, used = 0.0, 0, []
    for i, (config, run) in enumerate(runs):
        setup, state = restore(config, run)
        used.append(protocol or protocols.title(config))
        one = predict(setup, state.ema or state.variables(), protocol or config.eval.protocol)
        if i == 0:
            labels, classes, names = one.labels, one.probabilities.shape[1], setup.info.class_names
            source = setup.test
        if one.probabilities.shape[1] != classes:
            raise UserError(
                f'{run} tells {one.probabilities.shape[1]} classes, {runs[0][1]} tells {classes}.'
            )
        if not np.array_equal(one.labels, labels):
            raise UserError(f'{run} is evaluated on other images than {runs[0][1]}.')
        total = total + one.probabilities
        params += sum(x.size for x in jax.tree.leaves(state.params))
    found = scored(Predictions(total / len(runs), labels), source)
    values = report(found, source.split_kind, names)
    conditions = {'protocol': ','.join(dict.fromkeys(used)), 'split': source.split}
    return conditions | values | {'params': params}, found


def evaluate_job(config: ConfigDict, workdir: Path, output: Path | None = None) -> dict[str, Any]:
    """Evaluates an ensemble's run folder by its members' protocols, as cls.evaluate.job does."""
    agreement.on_first('output', lambda: prepare(workdir, output))
    values, found = evaluate(members(config, workdir))
    agreement.print_once(summary(values))

    def write_all(folder: Path) -> None:
        write(folder / stem(values['protocol'], config, workdir), values, found)

    agreement.on_first('written', lambda: deliver(write_all, workdir, output))
    return values


def together_job(runs: Sequence[tuple[ConfigDict, Path]], output: Path | None) -> None:
    """Evaluates run folders as an ensemble and prints the result; writes it to `output` if given.

    Raises UserError as `evaluate`, and when `output` cannot be written to.
    """
    if output is not None:
        agreement.on_first('output', lambda: prepare(output, output))
    values, found = evaluate(runs)
    agreement.print_once(summary(values))
    if output is not None:
        agreement.on_first(
            'written',
            lambda: deliver(lambda to: write(to / 'evaluation', values, found), output, output),
        )
