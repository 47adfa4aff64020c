"""Training trials with this project's own trainer: a whole training config, with their genotypes.

What a trial is evaluated on is what config.proxy.data says: in a search, which must not see the
test images, a part of those for training.
"""

import contextlib
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cls import train
from cls.config import load as configs
from cls.data import transforms
from cls.errors import UserError
from cls.evaluate import evaluate_state
from cls.models.registry import genotypes
from cls.models.registry.complexity import Complexity, complexity
from cls.nn.cpu import compact
from cls.run import metric_names, workdir
from cls.search.loop import Failed
from cls.search.searcher import Trial
from cls.search.space import Space
from cls.setup import Phase, Setup, abstract_state, set_up
from cls.steps import sharding as meshes
from cls.steps.state import abstract

# XLA's compiler for CPUs takes longer over a small net than its training does. Measured on a net of
# AmoebaNet's cells: its newer emitters of fused operations take a third longer than the older ones.
QUICK = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_use_fusion_emitters': False,
}
CHANCE = 1.5  # times a guess's accuracy, of ten classes 15 %, as the authors of MetaQNN have it
ABOVE = 5.0  # percent; with few classes half as much again would be a lot
SLOWER = 0.4  # the rate of a restart, by that before


@dataclasses.dataclass(frozen=True)
class Training:
    """Trains a proxy with the genotype of a trial; seeds are of the search's and its number."""

    space: Space
    proxy: str  # a training config, as JSON
    seed: int
    quick: bool = False  # whether to compile with the least effort, on a CPU
    repeats: int = 1  # trainings, each with a seed of its own
    restarts: int = 0  # of a training that begins no better than chance, at most

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Returns what training to the end gives.

        accuracy         of the last weights, or of their average if kept, from 0 to 1; the mean of
                         all repeats
        seeds            of the trainings
        restarts         if there may be any: how many there were, in all repeats
        params, macs     see cls.models.registry.complexity
        seconds          in all
        compile_seconds  of them, until the first step: building, tracing and compiling the net

        Raises UserError when the proxy itself is wrong, with whatever genotype; Failed and anything
        else for a net that cannot be built or trained.
        """
        began = time.perf_counter()
        genotype = json.dumps(genotypes.plain(self.space.genotype(trial.code)))
        seeds = [seed(self.seed, trial, repeat) for repeat in range(self.repeats)]
        accuracies, restarts, compiling = [], 0, 0.0
        for of_training in seeds:
            for restart in range(self.restarts + 1):
                asked = time.perf_counter()
                net = compiled(_slower(self.proxy, restart), genotype, self.quick)
                compiling += time.perf_counter() - asked
                last = restart == self.restarts
                accuracy = net.trained(of_training, give_up=not last)
                if accuracy is not None:
                    break
            accuracies.append(accuracy)
            restarts += restart
        return {
            'accuracy': statistics.fmean(accuracies) / 100,
            'seeds': seeds,
            **({'restarts': restarts} if self.restarts else {}),
            **dataclasses.asdict(net.size),
            **self.space.measures(trial.code),
            'seconds': round(time.perf_counter() - began, 2),
            'compile_seconds': round(compiling, 2),
        }


def of(
    space: Space, config: ConfigDict, quick: bool = False, repeats: int = 1, restarts: int = 0
) -> Training:
    """Returns what trains config.proxy.

    Args:
      space: to search.
      config: of the search.
      quick: whether to compile with the least effort on CPUs, for nets that train in seconds.
      repeats: trainings of each trial, whose mean accuracy counts.
      restarts: how often at most a training begins anew, each time with 0.4 times the rate, while
        its first epoch ends no better than chance (MetaQNN, section 4.2, and Block-QNN: 5).

    Raises UserError for mistakes in it, and where there is none.
    """
    if 'proxy' not in config:
        raise UserError(
            'the config has no proxy to train: expected a training config as config.proxy, or '
            'another config.search.evaluator.name.'
        )
    if repeats < 1:
        raise UserError(f'config.search.evaluator.repeats is {repeats}: expected 1 or more.')
    if restarts < 0:
        raise UserError(f'config.search.evaluator.restarts is {restarts}: expected 0 or more.')
    proxy = configs.to_json(config.proxy)
    _check(proxy)
    return Training(space, proxy, config.seed, quick, repeats, restarts)


def seed(of_search: int, trial: Trial, repeat: int = 0) -> int:
    """Returns the seed of a trial's training, below 2^31."""
    drawn = np.random.SeedSequence([of_search, trial.number, 3, repeat]).generate_state(1)
    return int(drawn[0] >> 1)


def _slower(proxy: str, restart: int) -> str:
    """Returns a proxy with the rate of a restart; 0: its own."""
    if not restart:
        return proxy
    fields = json.loads(proxy)
    fields['optim']['lr'] *= SLOWER**restart
    return json.dumps(fields)


@functools.cache
def _check(proxy: str) -> None:
    """Raises UserError for a proxy that could not be trained with any genotype."""
    workdir.start()
    set_up(configs.from_json(proxy), complete=False)


@dataclasses.dataclass(frozen=True)
class Net:
    """A net of a proxy, compiled: trainings with any seed use it."""

    setup: Setup
    train_steps: Mapping[Phase, train.TrainStep]
    eval_step: Any
    size: Complexity

    def trained(self, seed: int, give_up: bool = False) -> float | None:
        """Returns the accuracy in percent after training with a seed.

        Args:
          seed: of all randomness.
          give_up: whether to return None when the first epoch ends no better than chance.

        Raises Failed when the loss does not stay finite.
        """
        config = self.setup.config.copy_and_resolve_references()
        config.seed = seed
        setup = dataclasses.replace(self.setup, config=config)
        state, _ = setup.new_state()
        state = meshes.put(state, meshes.state_shardings(state, setup.mesh))
        first = setup.steps('1 epochs') if give_up else -1
        chance = chance_level(setup.info.num_classes)
        with (
            closing(train.train_batches(setup)) as iterator,
            closing(train.feed(iterator, setup)) as batches,
        ):
            for step in range(setup.total_steps):
                batch, _ = next(batches)
                state, _ = jax.block_until_ready(self.train_steps[setup.phase(step)](state, batch))
                if step + 1 == first:
                    values = evaluate_state(setup, self.eval_step, state)
                    if not metric_names.figure(values, 'top1') > chance:
                        return None
        values = evaluate_state(setup, self.eval_step, state)
        if not np.isfinite(metric_names.figure(values, 'loss')):
            raise Failed('the loss is not finite')
        average = metric_names.figure(values, 'top1', ema=True)
        return metric_names.figure(values, 'top1') if average is None else average


def chance_level(num_classes: int) -> float:
    """Returns the top-1 accuracy, in percent, up to which a training is no better than chance."""
    guess = 100 / num_classes
    return min(CHANCE * guess, guess + ABOVE)


@functools.lru_cache(maxsize=16)
def compiled(proxy: str, genotype: str, quick: bool) -> Net:
    """Returns the net of a proxy with a genotype, both as JSON.

    Raises Failed for a genotype that does not fit, and UserError for such a proxy.
    """
    _check(proxy)
    fields = json.loads(proxy)
    fields['model']['genotype'] = json.loads(genotype)
    options = QUICK if quick and jax.default_backend() == 'cpu' else None
    try:
        setup = set_up(configs.from_json(json.dumps(fields)))
    except UserError as error:  # of the net: without a genotype there was none
        raise Failed(str(error)) from error
    with compact.few_operations() if options else contextlib.nullcontext():
        return _compile(setup, options)


def _compile(setup: Setup, options: Mapping[str, Any] | None) -> Net:
    shapes, optimizer = setup.new_state_shapes()
    where = abstract_state(shapes, setup.mesh)
    pixels = transforms.eval_size(setup.config.data)
    batch = {
        name: jax.ShapeDtypeStruct((setup.eval_batch(), *x.shape[1:]), x.dtype, sharding=x.sharding)
        for name, x in train.abstract_batch(setup, pixels).items()
    }
    whole = jax.tree.map(lambda _: meshes.replicated(setup.mesh), where.variables())
    variables = abstract(where.variables(), whole)
    return Net(
        setup,
        train.compile_train_steps(
            setup, optimizer, where, 0, metrics=False, compiler_options=options
        ),
        setup.eval_step().lower(variables, batch).compile(compiler_options=options),
        complexity(setup.model, pixels, setup.info.image_shape[2]),
    )
