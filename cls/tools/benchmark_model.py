"""Measures the train step of a network, and the training loop around it.

  cls benchmark model resnet50 --batch 8
  cls benchmark model resnet20_cifar --batch 64 --steps 100 --loop

Prints images per second of the jitted train step on a batch that stays on the devices. --loop
measures the training loop too, in rounds that alternate with those of the bare step: with its data
pipeline (synthetic images), metrics, logging and checkpoint bookkeeping. The ratio of the two
speeds is printed as well, and start-up times: setup, tracing, and compilation without the
persistent cache.
"""

import argparse
import statistics
import time

from cls.cli import Parser
from cls.errors import UserError
from cls.onednn.load import load
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import set_up
from cls.tools.benchmark_loop import run_loop
from cls.tools.benchmark_worker import Training, config_of

ROUNDS = 5


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('model', help='a registered variant')
    flags.add_argument('--batch', type=int, required=True, help='images in a step')
    flags.add_argument('--size', type=int, default=0, help="pixels; default: the variant's")
    flags.add_argument('--steps', type=int, default=20, help='steps in each of five rounds')
    flags.add_argument('--dtype', default='float32', help='type of the computation')
    flags.add_argument('--loop', action='store_true', help='measure the training loop too')


def run_task(args: argparse.Namespace) -> int:
    """Prints the measurements; returns the exit code."""
    if min(args.steps, args.batch) < 1:
        raise UserError('--batch and --steps: expected 1 or more.')
    load()
    begin = time.perf_counter()
    training = Training(set_up(config_of(args.model, args.batch, args.size, args.dtype)))
    print(f'setup and initialization: {time.perf_counter() - begin:.1f} s')
    begin = time.perf_counter()
    training.compile()
    print(f'tracing and compilation of the train step: {time.perf_counter() - begin:.1f} s')

    bare, looped = [], []
    images = args.steps * args.batch
    training.steps(args.steps)  # warm up
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        training.steps(args.steps)
        bare.append(images / (time.perf_counter() - begin))
        if args.loop:
            looped.append(images / run_loop(training, args.steps))
    _report('bare step', bare)
    if looped:
        _report('training loop', looped)
        part = statistics.median(looped) / statistics.median(bare)
        print(f'loop / bare step: {100 * part:.1f} %')
    return 0


def _report(what: str, rates: list[float]) -> None:
    middle = statistics.median(rates)
    print(f'{what}: {middle:,.1f} images/s (from {min(rates):,.1f} to {max(rates):,.1f})')
