"""Ensembles: several runs as one classifier, by the mean of their softmax.

A config of an ensemble has `members`, each a whole config, and `loaded`, a folder for each member
that is not to be trained. Its run folder has a run folder for each member that is.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cls import losses, train
from cls import mesh as meshes
from cls.errors import UserError
from cls.evaluate import restore
from cls.runtime import check_folder, claim, load_config, load_result
from cls.setup import Setup
from cls.step import make_predict_step
from cls.telemetry import write_json


def is_ensemble(config: ConfigDict) -> bool:
    """Whether a config is of several nets."""
    return 'members' in config


def members(config: ConfigDict, workdir: Path) -> list[tuple[ConfigDict, Path]]:
    """Returns each member's config and run folder; of one that is loaded, the folder's config."""
    found = []
    for name, member in config.members.items():
        folder = config.loaded[name]
        found.append(
            (load_config(Path(folder)), Path(folder)) if folder else (member, workdir / name)
        )
    return found


def job(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """Trains the members that are not loaded, one after the other, and evaluates all together.

    Every member continues where it was; the ensemble's own files are config.json and result.json.
    Returns the result, or None when told to stop before the end.
    """
    check_folder(workdir, config)
    if (result := load_result(workdir)) is not None:
        return result
    runs = members(config, workdir)
    began = time.perf_counter()
    with claim(workdir, config):
        for name, (member, folder) in zip(config.members, runs, strict=True):
            if config.loaded[name]:
                continue
            print(f'member {name}:', flush=True)
            if train.in_folder(member, folder) is None:
                return None
        result = evaluate(runs)
        result['seconds'] = round(time.perf_counter() - began, 2)
        if jax.process_index() == 0:
            write_json(workdir / 'result.json', result)
    return result


def evaluate(runs: Sequence[tuple[ConfigDict, Path]]) -> dict[str, float | int]:
    """Returns test/top1, test/top5 (percent), test/loss (nats) and params of runs taken together.

    Each run prepares the images in its own way. Of a run that keeps an average of its weights, the
    average is taken.

    Args:
      runs: configs, and folders with a checkpoint.

    Raises:
      UserError: a folder without one, or runs that are of different data or classes.
    """
    total, params = 0.0, 0
    for i, (config, run) in enumerate(runs):
        setup, state = restore(config, run)
        probabilities, labels = predict(setup, state.ema or state.variables())
        if i == 0:
            seen = labels
        if probabilities.shape[1] != getattr(total, 'shape', probabilities.shape)[1]:
            raise UserError(f'{run} tells {probabilities.shape[1]} classes, {runs[0][1]} others.')
        if not np.array_equal(labels, seen):
            raise UserError(f'{run} is evaluated on other images than {runs[0][1]}.')
        total = total + probabilities
        params += sum(x.size for x in jax.tree.leaves(state.params))
    return {**metrics(total / len(runs), seen), 'params': params}


def predict(setup: Setup, variables: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 probabilities (N, K) of all test images in order, and their labels (N,)."""
    step = jax.jit(
        make_predict_step(setup.model, setup.recipe), out_shardings=meshes.replicated(setup.mesh)
    )
    sharding = meshes.batch_sharding(setup.mesh)
    found = [
        jax.device_get(step(variables, meshes.put_batch(batch, sharding)))
        for batch in setup.test_batches()
    ]
    probabilities, labels, mask = map(np.concatenate, zip(*found, strict=True))
    return np.float64(probabilities[mask]), labels[mask]


def metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns top-1 and top-5 in percent and the mean loss in nats of (N, K) probabilities."""
    scores = jnp.log(probabilities)
    own = probabilities[np.arange(len(labels)), labels]
    return {
        'test/top1': 100 * float(losses.topk_correct(scores, labels, 1).mean()),
        'test/top5': 100 * float(losses.topk_correct(scores, labels, 5).mean()),
        'test/loss': float(-np.log(own).mean()),
    }
