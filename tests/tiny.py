"""A network that compiles at once, for images of any size, and runs on the digits."""

import dataclasses

import flax.linen as nn
import jax
from compiling import FAST

from cls.config import load as configs
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.programs import compile_train_step
from cls.setup import abstract_state, set_up
from cls.steps import sharding as meshes
from cls.train import train_batches


class Tiny(nn.Module):
    """A linear layer on each pixel, two norms, a mean over the image, and a classifier."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        """Returns logits (N, num_classes) of images (N, H, W, C)."""
        x = BatchNorm(train, name='norm1')(images)
        x = nn.relu(Dense(6, name='body')(x))
        x = BatchNorm(train, name='norm2')(x)
        return Dense(self.num_classes, name='head')(x.mean((1, 2)))


FIELDS = (
    ('duration', '8 steps'),
    ('schedule.warmup', '100 percent'),
    ('batch', '16'),
    ('log_every', '1 steps'),
    ('checkpoint.every', '3 steps'),
    ('checkpoint.keep', '3'),
)


def setup(*overrides, devices=1):
    """Returns the setup of a config of the digits, with `Tiny` as its model."""
    config = configs.load('configs/resnet.py', (*FIELDS, *overrides))
    return dataclasses.replace(
        set_up(config, jax.devices()[:devices]), model=Tiny(config.model.get('num_classes', 10))
    )


def steps(setup, count):
    """Returns the losses of the first steps, the state after, its shapes before, and the step."""
    state, optimizer = setup.new_state()
    where = abstract_state(state, setup.mesh)
    state = meshes.put(state, jax.tree.map(lambda x: x.sharding, where))
    train_step = compile_train_step(
        setup, optimizer, where, setup.phases.at(0), compiler_options=FAST
    )
    batches, losses = train_batches(setup), []
    for _ in range(count):
        batch = meshes.put_batch(next(batches), meshes.batch_sharding(setup.mesh))
        state, metrics = train_step(state, batch)
        losses.append(float(metrics['loss']))
    return losses, state, where, train_step
