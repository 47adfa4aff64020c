"""Times the forward and backward passes of convolutions and pools.

  cls benchmark layers

Each layer is timed in our form and in XLA's own lowering. Our convolutions are those of oneDNN if
the extension was built (`cls build-onednn`).
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cls.cli import Parser
from cls.nn.conv import conv
from cls.nn.pool import max_pool
from cls.onednn.load import load


def add_flags(flags: Parser) -> None:
    """Adds no flags."""


def run_task(args: argparse.Namespace) -> int:
    """Prints the milliseconds of forward and backward passes; returns the exit code."""
    load()

    def grouped(x, kernel):
        return conv(x, kernel, groups=x.shape[-1] // kernel.shape[2])

    def xla_conv(x, kernel):
        pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
        groups = x.shape[-1] // kernel.shape[2]
        dims = ('NHWC', 'HWIO', 'NHWC')
        return lax.conv_general_dilated(
            x, kernel, (1, 1), pads, dimension_numbers=dims, feature_group_count=groups
        )

    def xla_pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME')

    layers = {
        'depthwise 3x3': (grouped, xla_conv, (8, 28, 28, 192), (3, 3, 1, 192)),
        'depthwise 7x7': (grouped, xla_conv, (32, 14, 14, 96), (7, 7, 1, 96)),
        '3x3, 32 groups of 4': (grouped, xla_conv, (8, 28, 28, 128), (3, 3, 4, 128)),
        '3x3, 32 groups of 16': (grouped, xla_conv, (8, 14, 14, 512), (3, 3, 16, 512)),
        '1x1, 3 groups of 80': (grouped, xla_conv, (8, 28, 28, 240), (1, 1, 80, 240)),
        '1x1': (conv, xla_conv, (8, 14, 14, 256), (1, 1, 256, 1024)),
        '3x3 on 2x2 pixels': (conv, xla_conv, (8, 2, 2, 512), (3, 3, 512, 512)),
        'max pool 3x3/2': (lambda x: max_pool(x, 3, 2, 'SAME'), xla_pool, (8, 56, 56, 64)),
    }
    for name, (ours, xla, *shapes) in layers.items():
        inputs = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
        times = [_milliseconds(f, inputs) for f in (ours, xla)]
        print(f'{name}, {shapes[0]}: {times[0]:.1f} ms; in XLA: {times[1]:.1f} ms')
    return 0


def _milliseconds(layer: Any, inputs: list[jax.Array]) -> float:
    """Returns the median time of ten forward and backward passes."""
    both = jax.jit(
        jax.grad(lambda *args: jnp.sum(layer(*args) ** 2), argnums=tuple(range(len(inputs))))
    )
    jax.block_until_ready(both(*inputs))
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(both(*inputs))
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)
