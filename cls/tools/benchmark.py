"""Measures the speed of training steps, layers and input pipelines.

python -m cls.tools.benchmark --model NAME --batch N [--loop], --layers, --input

Prints images per second of the jitted train step on a batch that stays on the devices. --loop
measures the training loop too, in rounds that alternate with those of the bare step: with its data
pipeline (synthetic images), metrics, logging and checkpoint bookkeeping. The ratio of the two
speeds is printed as well, and start-up times: setup, tracing, and compilation without the
persistent cache. --layers times the forward and backward passes of convolutions and pools, in our
forms and in XLA's own lowering. --input times the data pipeline, see cls.tools.benchmark_input.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from cls import models
from cls.cli import Parser, run
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.nn.conv import conv
from cls.nn.pool import max_pool
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import TimeLedger
from cls.run.telemetry import Metrics, Progress
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import Setup, abstract_state, set_up
from cls.steps import sharding as meshes
from cls.tools import benchmark_input
from cls.train import compile_train_step, train_batches
from cls.trainer import Trainer

PROG = 'python -m cls.tools.benchmark'

ROUNDS = 5


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    flags.add_argument('--model', help='a registered variant')
    flags.add_argument('--batch', type=int, help='images in a step')
    flags.add_argument('--layers', action='store_true', help='time layers, not a model')
    flags.add_argument('--size', type=int, default=0, help="pixels; default: the variant's")
    flags.add_argument('--steps', type=int, default=20, help='steps in each of five rounds')
    flags.add_argument('--dtype', default='float32', help='type of the computation')
    flags.add_argument('--loop', action='store_true', help='measure the training loop too')
    flags.add_argument('--input', help='time the input instead: FOLDER, digits or cifar-like')
    flags.add_argument('--tensorflow', help='--input: a Python with TensorFlow, to compare')
    flags.add_argument('--torch', help='--input: a Python with torchvision, to compare')
    flags.add_argument('--rounds', type=int, default=ROUNDS, help='--input: rounds')
    flags.add_argument('--json', help='--input: file for the results')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints the measurements; returns the exit code."""
    args = parser(prog).parse_args(argv)
    if args.input:
        if args.rounds < 1:
            raise UserError(f'--rounds is {args.rounds}: expected 1 or more.')
        benchmark_input.measure(args)
        return 0
    if args.layers:
        _layers()
        return 0
    if not args.model or min(args.steps, args.batch or 0) < 1:
        raise UserError('--model NAME and --batch N are needed; --batch and --steps at least 1.')
    _model(args)
    return 0


def _model(args: argparse.Namespace) -> None:
    begin = time.perf_counter()
    setup = set_up(_config(args))
    state, optimizer = setup.new_state()
    where = abstract_state(state, setup.mesh)
    state = meshes.put(state, jax.tree.map(lambda x: x.sharding, where))
    print(f'setup and initialization: {time.perf_counter() - begin:.1f} s')
    begin = time.perf_counter()
    train_step = compile_train_step(setup, optimizer, where, setup.phases.at(0))
    print(f'tracing and compilation of the train step: {time.perf_counter() - begin:.1f} s')

    bare, looped = [], []
    resident = meshes.put_batch(next(train_batches(setup)), meshes.batch_sharding(setup.mesh))
    state, _ = _bare(train_step, state, resident, args.steps)  # warm up
    for _ in range(ROUNDS):
        state, seconds = _bare(train_step, state, resident, args.steps)
        bare.append(args.steps * args.batch / seconds)
        if args.loop:
            state, seconds = _loop(setup, train_step, state, args.steps)
            looped.append(args.steps * args.batch / seconds)
    _report('bare step', bare)
    if looped:
        _report('training loop', looped)
        part = statistics.median(looped) / statistics.median(bare)
        print(f'loop / bare step: {100 * part:.1f} %')


def _config(args: argparse.Namespace) -> ConfigDict:
    config = common.base()
    config.model.name, config.model.dtype = args.model, args.dtype
    config.data.name = 'synthetic'
    config.data.image_size = args.size or models.variant(args.model).input_size
    config.data.num_classes = models.create(args.model).num_classes
    config.data.mean, config.data.std = (127.5,) * 3, (127.5,) * 3
    config.batch = args.batch
    config.duration = config.checkpoint.every = f'{10**6} steps'  # neither is reached
    return config


def _bare(train_step: Any, state: Any, batch: Any, steps: int) -> tuple[Any, float]:
    begin = time.perf_counter()
    for _ in range(steps):
        state, metrics = train_step(state, batch)
    jax.block_until_ready((state, metrics))
    return state, time.perf_counter() - begin


def _loop(setup: Setup, train_step: Any, state: Any, steps: int) -> tuple[Any, float]:
    """Runs the trainer's own loop for some steps; the final save is not counted."""
    setup = dataclasses.replace(setup, total_steps=int(state.step) + steps)
    ledger, iterator = TimeLedger(), train_batches(setup)
    with tempfile.TemporaryDirectory() as folder, Preemption() as preemption:
        workdir = Path(folder)
        loop = Trainer(
            setup=setup,
            ledger=ledger,
            checkpoints=Checkpoints(workdir / 'checkpoints', keep=1),
            metrics=Metrics(workdir, 0),
            progress=Progress(0, setup.total_steps, show=False),
            preemption=preemption,
            eval_step=setup.eval_step(),
            workdir=workdir,
        )
        begin = time.perf_counter()
        state = loop.loop({setup.phases.at(0): train_step}, state, iterator)
        seconds = time.perf_counter() - begin - ledger.seconds['checkpoint']
        iterator.close()
        loop.close()
    return state, seconds


def _layers() -> None:
    """Prints the milliseconds of forward and backward passes, for our layers and XLA's."""

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


def _report(what: str, rates: list[float]) -> None:
    middle = statistics.median(rates)
    print(f'{what}: {middle:,.1f} images/s (from {min(rates):,.1f} to {max(rates):,.1f})')


if __name__ == '__main__':
    run(main)
