"""pytorchcv's networks for CIFAR at any depth, for tasks of networks too deep to compare in full.

Hundreds of layers amplify the rounding of float32.
"""

import functools
import importlib
from typing import Any

from golden.task import Task


def build(file: str, blocks: int, bottleneck: bool, stage_sizes: tuple[int, ...] = ()) -> Any:
    """Returns the network of a file of pytorchcv, or one with `stage_sizes` equal stages."""
    if stage_sizes:
        blocks = stage_sizes[0] * (9 if bottleneck else 6) + 2
    module = importlib.import_module(f'pytorchcv.models.{file}')
    return getattr(module, f'get_{file}')(10, blocks=blocks, bottleneck=bottleneck)


def task(family: str, blocks: int, bottleneck: bool) -> Task:
    """Returns the task of a network, shallow in place of one with more than 200 layers.

    Args:
      family: pytorchcv's name without the depth, as 'preresnet'.
      blocks: the depth.
      bottleneck: the kind of the units.
    """
    named = blocks if not bottleneck or blocks == 1001 else f'{blocks}bn'
    make = functools.partial(build, f'{family}_cifar', blocks, bottleneck)
    fields = {'stage_sizes': (2, 2, 2)} if blocks > 200 else {}
    return Task(f'pytorchcv:{family}{named}_cifar10', size=32, fields=fields, build=make)
