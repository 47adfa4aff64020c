"""Measures seeds that are trained together against separate runs one after the other.

  cls benchmark seeds                                   8 seeds of ResNet-20 on the digits
  cls benchmark seeds --seeds 4 --set data.name=synthetic --set data.image_size=32
      --set duration='100 steps' --set schedule.warmup='5 percent'       on images of CIFAR's size

Both sides are whole programs, with their starts, evaluations and checkpoints, on all cores that
this process may use, and with a filled compilation cache. They take turns; each round gives a ratio
of times, and more than 1 is faster together.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cls import huge_pages, signals
from cls.cli import Parser
from cls.errors import UserError
from cls.run.telemetry import write_json
from cls.tools import benchmark_machine
from cls.tools.benchmark_turns import failure


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('--config', default='resnet', metavar='RECIPE[:ARM]')
    flags.add_argument('--seeds', type=int, default=8, metavar='N', help='default: 8')
    flags.add_argument('--rounds', type=int, default=3, metavar='N', help='default: 3')
    flags.add_argument(
        '--set', action='append', default=[], metavar='FIELD=VALUE', help='a field of the config'
    )
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    for name in ('seeds', 'rounds'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name} is {getattr(args, name)}: expected 1 or more.')
    flags = ['--config', args.config, *(f'--config.{text}' for text in args.set)]
    seeds = range(args.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        rounds = []
        for number in range(args.rounds + 1):
            folder = Path(scratch) / str(number)
            if number == 0:  # fills the compilation cache
                _separate(flags, seeds[:1], folder)
                _together(flags, seeds, folder)
                continue
            seconds = [_timed(side, flags, seeds, folder) for side in (_separate, _together)]
            rounds.append(seconds)
            one, other = seconds
            print(
                f'{args.seeds} runs {one:.1f} s, together {other:.1f} s, ratio {one / other:.2f}',
                flush=True,
            )
    ratio = statistics.median(one / other for one, other in rounds)
    print(f'median of {args.rounds} rounds: {ratio:.2f} times as fast together')
    if args.json:
        result = benchmark_machine.record(len(os.sched_getaffinity(0)))
        write_json(Path(args.json), result | {'rounds': rounds, 'ratio': ratio, 'flags': flags})
    return 0


def _timed(side: Callable[..., None], *args: object) -> float:
    began = time.perf_counter()
    side(*args)
    return time.perf_counter() - began


def _separate(flags: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    for seed in seeds:
        workdir = str(folder / f'separate-{seed}')
        _run(['cls.main', *flags, f'--config.seed={seed}', '--workdir', workdir])


def _together(flags: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    workdirs = [f'--workdir={folder / f"together-{seed}"}' for seed in seeds]
    _run([signals.TOGETHER, *flags, '--seeds', ','.join(map(str, seeds)), *workdirs])


def _run(arguments: Sequence[str]) -> None:
    """Runs a module of cls to its end. Raises UserError if it fails."""
    command = [sys.executable, '-m', *arguments]
    with tempfile.TemporaryFile('w+') as said:
        result = subprocess.run(
            command,
            env=os.environ | huge_pages.setting(),
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode:
            raise failure(command, said)
