"""Evaluation by training: a whole training config, the proxy, with the genotype of a trial.

config.proxy.data names the images of the evaluation: a part of the training images, since a search
must not see the test images.
"""

import contextlib
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Self

import jax
import numpy as np
from ml_collections import ConfigDict

from cls import programs, train
from cls.config import load as configs
from cls.errors import UserError, refuse
from cls.evaluate import evaluate_state
from cls.feed import feed
from cls.models.registry import genotypes
from cls.models.registry.complexity import Complexity, complexity
from cls.nn.cpu import compact
from cls.run import environment, metric_names
from cls.search.loop import Failed
from cls.search.searcher import Trial
from cls.search.space import Space
from cls.setup import Setup, abstract_state, set_up
from cls.steps import sharding as meshes
from cls.steps.phases import Phase
from cls.steps.state import abstract
from cls.trainer import TrainStep

# XLA's compiler for CPUs takes longer for a small network than its training does. Measured on a
# network of AmoebaNet's cells: its newer fusion emitters take a third longer than the older ones.
QUICK = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
}
if jax.__version_info__ < (0, 11):  # JAX 0.11 has no other emitters, and refuses the option
    QUICK['xla_cpu_use_fusion_emitters'] = False
CHANCE = 1.5  # times the accuracy of a guess: 15 % for ten classes, as MetaQNN's authors have it
ABOVE = 5.0  # percentage points over a guess at most; 1.5 times is a lot with few classes
SLOWER = 0.4  # the learning rate of a restart over the one before


@dataclasses.dataclass(frozen=True)
class Training:
    """Training of a proxy with the genotype of a trial; its seed is of the search and the trial."""

    space: Space
    proxy: str  # a training config, as JSON
    seed: int
    quick: bool = False  # whether to compile with the least effort, on a CPU
    repeats: int = 1  # trainings, each with its own seed
    restarts: int = 0  # at most, of a training that begins no better than chance

    @classmethod
    def from_config(
        cls,
        space: Space,
        config: ConfigDict,
        quick: bool = False,
        repeats: int = 1,
        restarts: int = 0,
    ) -> Self:
        """Returns the training of config.proxy.

        Args:
          space: the space to search.
          config: the config of the search.
          quick: whether to compile with the least effort on CPUs, for networks that train in
            seconds.
          repeats: trainings of each trial, whose mean accuracy counts.
          restarts: how often a training may restart, each time with 0.4 times the rate, while its
            first epoch ends no better than chance (MetaQNN, section 4.2, and Block-QNN: 5).

        Raises UserError for mistakes in the proxy, and if there is none.
        """
        if 'proxy' not in config:
            raise UserError(
                'the config has no proxy to train: expected a training config as config.proxy, or '
                'another config.search.evaluator.name.'
            )
        evaluator = 'config.search.evaluator'
        mistakes = [f'{evaluator}.repeats is {repeats}: expected 1 or more.'] * (repeats < 1)
        mistakes += [f'{evaluator}.restarts is {restarts}: expected 0 or more.'] * (restarts < 0)
        refuse(mistakes)
        proxy = configs.to_json(config.proxy)
        if _proxy(proxy).time_limit is not None:
            raise UserError(
                f'config.proxy.duration is {config.proxy.duration!r}, and trials would train for '
                'different numbers of steps: expected epochs, steps or examples.'
            )
        return cls(space, proxy, config.seed, quick, repeats, restarts)

    def __call__(self, trial: Trial) -> dict[str, Any]:
        """Returns the metrics of complete trainings.

        accuracy         of the last weights, or of their average if kept, from 0 to 1; the mean of
                         all repeats
        seeds            of the trainings
        restarts         their number in all repeats, if any are allowed
        params, macs     see cls.models.registry.complexity
        seconds          in all
        compile_seconds  of them, until the first step: building, tracing and compiling the network

        Raises UserError if the proxy is wrong for any genotype; Failed and any other exception for
        a network that cannot be built or trained.
        """
        began = time.perf_counter()
        genotype = json.dumps(genotypes.plain(self.space.genotype(trial.code)))
        seeds = [seed(self.seed, trial, repeat) for repeat in range(self.repeats)]
        accuracies, restarts, compiling = [], 0, 0.0
        for of_training in seeds:
            for restart in range(self.restarts + 1):
                started = time.perf_counter()
                network = compiled(self.proxy, genotype, self.quick, restart)
                compiling += time.perf_counter() - started
                last = restart == self.restarts
                accuracy = network.trained(of_training, give_up=not last)
                if accuracy is not None:
                    break
            accuracies.append(accuracy)
            restarts += restart
        return {
            'accuracy': statistics.fmean(accuracies) / 100,
            'seeds': seeds,
            **({'restarts': restarts} if self.restarts else {}),
            **dataclasses.asdict(network.size),
            **self.space.measures(trial.code),
            'seconds': round(time.perf_counter() - began, 2),
            'compile_seconds': round(compiling, 2),
        }


def seed(of_search: int, trial: Trial, repeat: int = 0) -> int:
    """Returns the seed of a trial's training, below 2^31."""
    drawn = np.random.SeedSequence([of_search, trial.number, 3, repeat]).generate_state(1)
    return int(drawn[0] >> 1)


@functools.cache
def _proxy(proxy: str) -> Setup:
    """Returns the setup of a proxy without a genotype, whose data all trials of a process share.

    Raises UserError for a proxy that cannot be trained with any genotype.
    """
    environment.start()
    return set_up(configs.from_json(proxy), complete=False)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiled network of a proxy and a genotype: trainings with any seed use it."""

    setup: Setup
    train_steps: Mapping[Phase, TrainStep]
    eval_step: Any
    size: Complexity

    def trained(self, seed: int, give_up: bool = False) -> float | None:
        """Returns the accuracy in percent after training with a seed.

        Args:
          seed: the seed of all randomness.
          give_up: whether to return None if the first epoch ends no better than chance.

        Raises Failed if the loss does not stay finite.
        """
        setup = dataclasses.replace(self.setup, seed=seed)
        state, _ = setup.new_state()
        state = meshes.put(state, meshes.state_shardings(state, setup.mesh))
        first = setup.steps('1 epochs') if give_up else -1
        chance = chance_level(setup.info.num_classes)
        with (
            closing(train.batches(setup)) as iterator,
            closing(feed(iterator, setup)) as batches,
        ):
            step = 0
            while step < setup.total_steps:
                ends = (setup.phases.end(step), first, setup.total_steps)
                fed = batches.take(min(end - step for end in ends if end > step))
                train_step = self.train_steps[setup.phases.at(step)]
                state, _ = jax.block_until_ready(train_step(state, fed.batch))
                step += fed.count
                if step == first:
                    values = evaluate_state(setup, self.eval_step, state)
                    if not metric_names.figure(values, 'top1') > chance:
                        return None
        values = evaluate_state(setup, self.eval_step, state)
        if not np.isfinite(metric_names.figure(values, 'loss')):
            raise Failed('the loss is not finite')
        average = metric_names.figure(values, 'top1', ema=True)
        return metric_names.figure(values, 'top1') if average is None else average


def chance_level(num_classes: int) -> float:
    """Returns the highest top-1 accuracy, in percent, that is no better than chance."""
    guess = 100 / num_classes
    return min(CHANCE * guess, guess + ABOVE)


@functools.lru_cache(maxsize=16)
def compiled(proxy: str, genotype: str, quick: bool, restart: int = 0) -> Compiled:
    """Returns the network of a proxy with a genotype, both as JSON.

    Args:
      proxy: a training config.
      genotype: the genotype of a trial.
      quick: whether to compile with the least effort, on a CPU.
      restart: the number of restarts, each with 0.4 times the learning rate.

    Raises Failed for a genotype that does not fit, and UserError for a proxy that does not.
    """
    shared = _proxy(proxy)
    fields = json.loads(proxy)
    fields['model']['genotype'] = json.loads(genotype)
    fields['optim']['lr'] *= SLOWER**restart
    options = QUICK if quick and jax.default_backend() == 'cpu' else None
    try:
        setup = set_up(configs.from_json(json.dumps(fields)), data_of=shared)
    except UserError as error:  # of the network: without a genotype the proxy passed
        raise Failed(str(error)) from error
    with compact.few_operations() if options else contextlib.nullcontext():
        return _compile(setup, options)


def _compile(setup: Setup, options: Mapping[str, Any] | None) -> Compiled:
    shapes, optimizer = setup.new_state_shapes()
    where = abstract_state(shapes, setup.mesh)
    pixels = setup.data.eval_pixels
    batch = {
        name: jax.ShapeDtypeStruct((setup.eval_batch(), *x.shape[1:]), x.dtype, sharding=x.sharding)
        for name, x in programs.abstract_batch(setup, pixels).items()
    }
    replicated = jax.tree.map(lambda _: meshes.replicated(setup.mesh), where.variables())
    variables = abstract(where.variables(), replicated)
    with closing(train.batches(setup)) as iterator:
        choices: dict[str, Any] = {'metrics': False, 'compiler_options': options, 'keep': False}
        train_steps = programs.compile_train_steps(setup, optimizer, where, 0, iterator, **choices)
    return Compiled(
        setup,
        train_steps,
        setup.eval_step().lower(variables, batch).compile(compiler_options=options),
        complexity(setup.model, pixels, setup.info.image_shape[2]),
    )
