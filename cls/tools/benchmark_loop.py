"""Compares the training loop on images of CIFAR's size with a loop in PyTorch.

  cls benchmark loop --torch PYTHON                    ResNet-20 and WRN-16-4
  cls benchmark loop resnet20_cifar --torch PYTHON --quick

50,000 random images of 32 pixels are in memory. They are padded by 4, cropped, mirrored and
normalized. Our side is the training loop of the trainer, with its data pipeline, metrics and logs;
PyTorch's is a DataLoader with the transforms of torchvision, in the fastest of its memory formats
and numbers of workers. Prints images per second of both, their ratio, and the part of our bare
step's speed that our loop reaches. The processes take turns.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cls import huge_pages
from cls.cli import Parser
from cls.data.sources import InMemory
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.programs import compile_train_steps
from cls.run import environment
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import TimeLedger
from cls.run.telemetry import Metrics, Progress
from cls.setup import Setup, set_up
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_turns import (
    PEERS,
    Process,
    compared,
    disturbance,
    process,
    summary,
    take_turns,
)
from cls.tools.benchmark_worker import Training, config_of, versions
from cls.tools.peers.answering import answer
from cls.train import batches
from cls.trainer import Trainer

BATCH, PIXELS, IMAGES = 128, 32, 50_000
NETWORKS = {  # name -> (variant, fields of config.model)
    'resnet20_cifar': ('resnet20_cifar', {}),
    'wrn16_4_cifar': ('wrn16_8_cifar', {'k': 4}),
}
LOG_EVERY = 5  # steps
FORMATS, WORKERS = ('channels_last', 'contiguous'), (0, 2)
SERVE = 'import sys; from cls.tools.benchmark_loop import serve; serve(*sys.argv[1:])'


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    names = ' | '.join(NETWORKS)
    flags.add_argument('networks', nargs='*', metavar='NAME', help=f'{names}; default: all')
    flags.add_argument('--torch', required=True, metavar='PYTHON', help='a Python with torchvision')
    flags.add_argument('--rounds', type=int, default=5, help='default: 5')
    flags.add_argument('--quick', action='store_true', help='shorter rounds')
    flags.add_argument('--threads', type=int, default=0, help='cores of each side; default: all')
    benchmark_record.add_flags(flags)


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    if args.rounds < 1:
        raise UserError(f'--rounds is {args.rounds}: expected 1 or more.')
    names = args.networks or list(NETWORKS)
    for name in names:
        if name not in NETWORKS:
            raise UserError(f'{name!r}: expected {" or ".join(NETWORKS)}.')
    if args.quick and args.write:
        raise UserError('--quick measures less exactly: not for --write.')
    if args.check:
        benchmark_record.recorded('loop', names)
    seconds = 2 if args.quick else 8
    with benchmark_machine.cores(args.threads) as threads:
        result = benchmark_machine.record(threads)
        rows = result['rows'] = {}
        for name in names:
            rows[name] = row = measure(name, args.torch, threads, args.rounds, seconds)
            result['versions'] |= row.pop('versions')
            print(
                f'{name}: {row["ours"]:,.1f} images/s, PyTorch ({row["format"]}, {row["workers"]} '
                f'workers) {row["peer"]:,.1f}, ratio {row["ratio"]:.2f}; loop / bare step '
                f'{row["of_bare"]["ratio"]:.3f}{disturbance(row["others"])}',
                flush=True,
            )
            benchmark_record.save(result, args)
    result['summary'] = {'loop': summary({name: row['ratio'] for name, row in rows.items()})}
    return benchmark_record.finish('loop', result, args)


def measure(name: str, python: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns the measurements of a network, for JSON. Raises UserError for a failing peer."""
    script = str(PEERS / 'loop_with_torch.py')
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(
            process([sys.executable, '-c', SERVE, name], **huge_pages.setting())
        )
        peers: dict[tuple[str, int], Process] = {}
        for way in ((layout, workers) for layout in FORMATS for workers in WORKERS):
            sizes = map(str, (BATCH, PIXELS, IMAGES, threads, *way))
            peers[way] = stack.enter_context(process([python, script, f'plain:{name}', *sizes]))
        way = min(peers, key=lambda way: peers[way].timed('loop', 2, 5))
        sides = {'ours': (ours, 'loop'), 'bare': (ours, 'bare'), 'peer': (peers[way], 'loop')}
        rates, others = take_turns(sides, BATCH, rounds, seconds)
        both = ours.about['versions'] | peers[way].about['versions']
    of_bare = compared(rates['ours'], rates['bare'])
    row = compared(rates['ours'], rates['peer'])
    row['of_bare'] = {'bare': of_bare['peer'], 'ratio': of_bare['ratio']}
    return row | {'others': others, 'format': way[0], 'workers': way[1], 'versions': both}


def serve(name: str) -> None:
    """Answers requests for the works 'loop' and 'bare' until the input ends."""
    environment.start()
    training = Training(cifar_like(name))
    training.compile()
    loop = Loop(training)
    loop.run(1)
    works = {'loop': loop.run, 'bare': training.steps}
    answer(works, versions=versions())


def cifar_like(name: str, images: int = IMAGES) -> Setup:
    """Returns the setup of a network on random images of CIFAR's size, augmented as usual."""
    variant, fields = NETWORKS[name]
    config = config_of(variant, BATCH, PIXELS)
    config.model.update(fields)
    config.data.train_crop, config.data.pad, config.data.flip = 'pad', 4, True
    setup, rng = set_up(config), np.random.default_rng(0)
    pixels = rng.integers(256, size=(images, PIXELS, PIXELS, 3), dtype=np.uint8)
    train = InMemory(pixels, rng.integers(10, size=images, dtype=np.int32), 10)
    train.split = 'train'
    info = dataclasses.replace(setup.info, num_train=images)
    return dataclasses.replace(setup, train=train, info=info)


class _Clock(Metrics):
    """Metrics of a run that also store the time of each log event."""

    def __init__(self, workdir: Path) -> None:
        """Starts at step 0."""
        super().__init__(workdir, 0)
        self.events: list[tuple[int, float]] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        super().write(step, values)
        self.events.append((step, time.perf_counter()))


class Loop:
    """The trainer's own loop around the training of a benchmark, with compiled steps."""

    def __init__(self, training: Training, log_every: int = LOG_EVERY) -> None:
        """Opens the data pipeline and compiles the steps."""
        setup = training.setup
        spec = dataclasses.replace(setup.run, log_every=log_every)
        self.training, self.setup = training, dataclasses.replace(setup, run=spec)
        self.iterator = batches(self.setup)
        self.train_steps = compile_train_steps(
            self.setup, training.optimizer, training.where, 0, self.iterator
        )

    def run(self, steps: int) -> float:
        """Trains; returns the seconds of `steps` steps, from the time between two log events.

        The steps before the first log event are not timed, nor is the save at the end.
        """
        training, every = self.training, self.setup.run.log_every
        step = int(training.state.step)
        first = (step // every + 1) * every
        setup = dataclasses.replace(self.setup, total_steps=first + -(-steps // every) * every)
        with tempfile.TemporaryDirectory() as folder, Preemption() as preemption:
            workdir = Path(folder)
            clock = _Clock(workdir)
            trainer = Trainer(
                setup=setup,
                ledger=TimeLedger(),
                checkpoints=Checkpoints(workdir / 'checkpoints', keep=1),
                metrics=clock,
                progress=Progress(step, setup.total_steps, show=False),
                preemption=preemption,
                eval_step=setup.eval_step(),
                workdir=workdir,
            )
            training.state = trainer.loop(self.train_steps, training.state, self.iterator)
            trainer.close()
        (begin, began), *_, (end, ended) = clock.events
        return steps * (ended - began) / (end - begin)
