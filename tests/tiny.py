"""A net that compiles at once, for images of any size, and a run of it on the digits."""

import dataclasses

import flax.linen as nn
import jax

from cls import config as configs
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.setup import set_up


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
    ('batch', '16'),
    ('log_every', '1 steps'),
    ('checkpoint.every', '3 steps'),
    ('checkpoint.keep', '3'),
)


def setup(*overrides, devices=1):
    """What a config of the digits sets up, with `Tiny` as its net."""
    config = configs.load('configs/resnet.py', (*FIELDS, *overrides))
    return dataclasses.replace(
        set_up(config, jax.devices()[:devices]), model=Tiny(config.model.get('num_classes', 10))
    )
