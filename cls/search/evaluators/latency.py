"""The latency of a network on this machine, as MnasNet measures it on a phone.

Measured times differ from run to run: a search for them cannot be repeated exactly, and other work
on the machine disturbs them. The multiply-adds that training reports are the alternative.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cls.models.registry import abstract_variables, genotypes
from cls.search.evaluators import train
from cls.search.searcher import Trial
from cls.search.space import Space


def milliseconds(model: nn.Module, size: int, channels: int, batch: int, passes: int) -> float:
    """Returns the median time of compiled forward passes, with variables that are all 0.

    Args:
      model: a network.
      size: height and width of the images.
      channels: channels of the images.
      batch: images of a pass.
      passes: timed passes, after three for warm-up.
    """
    shapes = abstract_variables(model, size, channels)
    # Made on the host: JAX would compile a program for each shape.
    zeros = jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)
    variables = jax.device_put(zeros)
    images = jnp.zeros((batch, size, size, channels))
    forward = jax.jit(model.apply).lower(variables, images).compile()
    return median(lambda: jax.block_until_ready(forward(variables, images)), passes)


def median(
    call: Callable[[], Any], passes: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Returns the median milliseconds of a call, after three calls for warm-up."""
    times = []
    for _ in range(3 + passes):
        began = clock()
        call()
        times.append(clock() - began)
    return 1000 * statistics.median(times[3:])


@dataclasses.dataclass(frozen=True)
class Timed:
    """Training of trials, and the latency of their networks on the machine that trains them."""

    training: train.Training
    batch: int
    passes: int

    @classmethod
    def from_config(
        cls,
        space: Space,
        config: ConfigDict,
        quick: bool = False,
        repeats: int = 1,
        restarts: int = 0,
        batch: int = 1,
        passes: int = 30,
    ) -> Self:
        """Returns the training of config.proxy, with latencies.

        Args:
          space: the space to search.
          config: the config of the search.
          quick: see cls.search.evaluators.train.
          repeats: likewise.
          restarts: likewise.
          batch: images of a forward pass; the paper has 1.
          passes: timed forward passes.

        Raises UserError as cls.search.evaluators.train.
        """
        training = train.Training.from_config(space, config, quick, repeats, restarts)
        return cls(training, batch, passes)

    def __call__(self, trial: Trial) -> dict[str, float]:
        """Returns the metrics of the training and `latency`: milliseconds of a forward pass."""
        metrics, training = self.training(trial), self.training
        genotype = json.dumps(genotypes.plain(training.space.genotype(trial.code)))
        setup = train.compiled(training.proxy, genotype, training.quick).setup
        size, _, channels = setup.info.image_shape
        latency = milliseconds(setup.model, size, channels, self.batch, self.passes)
        return {**metrics, 'latency': latency}
