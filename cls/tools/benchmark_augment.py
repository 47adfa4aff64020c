"""Times the augmentations of the compiled step.

  cls benchmark augment

For each augmentation and size of batch, prints milliseconds and megabytes of temporary arrays for
an image. Images are random; the numbers are those of a program that augments and normalizes.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import numpy as np

from cls.augment.apply import apply
from cls.augment.spec import AugmentSpec
from cls.cli import Parser
from cls.errors import UserError
from cls.steps import sharding as meshes
from cls.steps.train_step import normalize

JITTER = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4}
AUGMENTATIONS = {  # name -> fields of AugmentSpec
    'none': {},
    'autoaugment': {'policy': 'autoaugment_imagenet'},
    'randaugment': {'policy': 'randaugment'},
    'jitter': JITTER,
    'jitter with hue': JITTER | {'hue': 0.1},
    'distortion': {'distortion': 'inception'},
    'hsl': {'hsl': (36.0, 50.0, 50.0)},
    'rotation': {'rotation': 10.0},
    'lighting': {'lighting': 0.1},
    'noise': {'noise': 20.0},
    'cutout': {'cutout': 16},
    'erasing': {'erasing': 0.25},
    'mixup': {'mixup': 0.2},
    'cutmix': {'cutmix': 1.0},
}
IMAGES = 64  # in each measurement, at least


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('--size', type=int, default=224, help='pixels; default: 224')
    flags.add_argument('--batches', type=int, nargs='+', default=[2, 8, 64], metavar='N')


def run_task(args: argparse.Namespace) -> int:
    """Prints a line for each augmentation; returns the exit code."""
    for flag, least in (('size', args.size), ('batches', min(args.batches))):
        if least < 1:
            raise UserError(f'--{flag} is {least}: expected 1 or more.')
    for name, fields in AUGMENTATIONS.items():
        costs = [cost(AugmentSpec(**fields), n, args.size) for n in args.batches]
        columns = [f'{ms:.2f} ms, {megabytes:.1f} MB' for ms, megabytes in costs]
        print(f'{name}: {"; ".join(columns)}', flush=True)
    return 0


def cost(augment: AugmentSpec, batch: int, size: int) -> tuple[float, float]:
    """Returns milliseconds and megabytes of temporary arrays for an image of a batch."""
    sharding = meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:1]))
    images = np.random.default_rng(0).integers(256, size=(batch, size, size, 3)).astype(np.uint8)
    inputs = jax.device_put((images, np.zeros(batch, np.int32)), sharding)

    def augmented(images, labels, key):
        scaled = lambda x: normalize(x, (120.0,) * 3, (60.0,) * 3)  # noqa: E731
        return apply(augment, images, labels, key, scaled, 10, sharding)

    program = jax.jit(augmented).lower(*inputs, jax.random.key(0)).compile()
    times = []
    for seed in range(-(-IMAGES // batch) + 1):
        key = jax.random.key(seed)
        begin = time.perf_counter()
        jax.block_until_ready(program(*inputs, key))
        times.append((time.perf_counter() - begin) / batch)
    memory: Any = program.memory_analysis()
    return 1e3 * statistics.mean(times[1:]), memory.temp_size_in_bytes / batch / 1e6
