"""Our side of `benchmark networks`: a process that takes steps on request.

See cls/tools/peers/answering.py for its input and output.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cls import models
from cls.data.sources import InMemory
from cls.nn import folding
from cls.onednn.load import load
from cls.programs import compile_train_step
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run import environment, executables
from cls.setup import Setup, abstract_state, set_up
from cls.steps import sharding as meshes
from cls.steps.state import TrainState
from cls.tools.peers.answering import answer
from cls.trainer import TrainStep


def config_of(name: str, batch: int, size: int = 0, dtype: str = 'float32') -> ConfigDict:
    """Returns a config that trains a variant on synthetic images, without augmentation.

    Args:
      name: the variant.
      batch: images in a step.
      size: pixels; 0: the variant's.
      dtype: type of the computation.
    """
    config = common.base()
    config.model.name, config.model.dtype = name, dtype
    config.data.name = 'synthetic'
    config.data.image_size = size or models.variant(name).input_size
    config.data.num_classes = models.create(name).num_classes
    config.data.mean, config.data.std = (127.5,) * 3, (127.5,) * 3
    config.batch, config.optim.lr = batch, 0.01
    config.duration = config.checkpoint.every = f'{10**6} steps'  # neither is reached
    return config


def first_batch(setup: Setup) -> dict[str, np.ndarray]:
    """Returns the first images of a source in memory as a batch, without the package Grain."""
    assert isinstance(setup.train, InMemory)
    images, labels = setup.train.take(np.arange(setup.batch))
    return {'image': images, 'label': labels, 'mask': np.ones(setup.batch, bool)}


class Training:
    """A train step, its newest state, and a batch, all on the devices."""

    def __init__(self, setup: Setup):
        """Initializes the state."""
        self.setup = setup
        state, self.optimizer = setup.new_state()
        self.where = abstract_state(state, setup.mesh)
        self.state: TrainState = meshes.put(state, jax.tree.map(lambda x: x.sharding, self.where))
        self.batch = meshes.put_batch(first_batch(setup), meshes.batch_sharding(setup.mesh))

    def compile(self) -> None:
        """Compiles the train step."""
        phase = self.setup.phases.at(0)
        self.train_step: TrainStep = compile_train_step(
            self.setup, self.optimizer, self.where, phase
        )

    def steps(self, count: int) -> None:
        """Takes training steps."""
        metrics: Any = None
        for _ in range(count):
            self.state, metrics = self.train_step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))

    def inference(self) -> Callable[[int], None]:
        """Returns a function that computes the logits of the batch a number of times."""
        forward = folding.folded(functools.partial(self.setup.model.apply, train=False))
        normalize = self.setup.recipe.normalize

        @jax.jit
        def logits(variables: Any, images: jax.Array) -> Any:
            return forward(variables, normalize(images))

        def steps(count: int) -> None:
            state = self.state
            variables = {'params': state.params, 'batch_stats': state.batch_stats}
            for _ in range(count):
                jax.block_until_ready(logits(variables, self.batch['image']))

        return steps


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that compute."""
    return {'jax': jax.__version__, 'oneDNN': load() or 'not built'}


def serve(name: str, batch: str, size: str, dtype: str = 'float32', head: str = '') -> None:
    """Takes a training step, and answers requests until the input ends.

    With `head` 'main' the network has no auxiliary head, as the networks of PyTorch's packages.
    """
    clock, parts = time.perf_counter(), {}

    def note(part: str) -> None:
        nonlocal clock
        parts[part], clock = time.perf_counter() - clock, time.perf_counter()

    environment.start()
    executables.enable(())  # as a run does
    config = config_of(name, int(batch), int(size), dtype)
    if head == 'main' and hasattr(models.create(name), 'aux_head'):
        config.model.aux_head = False
    training = Training(set_up(config))
    note('set-up')
    training.compile()
    note('compilation')
    training.steps(1)
    note('step')
    params = sum(x.size for x in jax.tree.leaves(training.state.params))
    works = {'train': training.steps, 'infer': training.inference()}
    device = jax.devices()[0].device_kind
    answer(works, params=params, versions=versions(), device=device, parts=parts)
