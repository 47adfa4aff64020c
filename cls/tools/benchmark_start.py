"""Measures the time from the start of a process to the end of its first training step.

  cls benchmark start                      the networks of the table, and a large one
  cls benchmark start resnet50:16x160      batch 16, 160 pixels

Each network starts twice, with the persistent compilation cache empty (cold) and then filled
(warm). Printed are the seconds of each start and of its parts, and the peak of the memory. The
process of a run does more, for example opens its data and its run folder.
"""

import argparse
import os
import sys
import tempfile
from typing import Any

from cls import huge_pages, models
from cls.cli import Parser
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_networks import NETWORKS, SERVE, once, sizes_of
from cls.tools.benchmark_turns import process

SIZES = NETWORKS | {'amoebanet_a_n6_f36_cifar': (8, 32)}
DEFAULT = ('resnet50', 'densenet121', 'efficientnet_b0', 'amoebanet_a_n6_f36_cifar')


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    names = ', '.join(DEFAULT)
    flags.add_argument(
        'networks', nargs='*', metavar='NAME[:BATCHxPIXELS]', help=f'default: {names}'
    )
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    cases = {}
    for text in once(args.networks) or DEFAULT:
        name = text.partition(':')[0]
        models.variant(name)
        cases[name] = sizes_of(text, SIZES)
    result = benchmark_machine.record(len(os.sched_getaffinity(0)))
    rows = result['rows'] = {}
    for name, (batch, pixels) in cases.items():
        rows[name] = measure(name, batch, pixels)
        print(f'{name} {batch}x{pixels}', flush=True)
        for kind, row in rows[name].items():
            parts = ', '.join(f'{part} {seconds:.1f}' for part, seconds in row['parts'].items())
            print(
                f'  {kind}: {row["seconds"]:.1f} s ({parts}), {row["peak"] / 2**30:.2f} GiB',
                flush=True,
            )
        benchmark_record.save(result, args)
    return 0


def measure(name: str, batch: int, pixels: int) -> dict[str, Any]:
    """Returns {'cold': ..., 'warm': ...}: seconds, their parts, and the peak memory in bytes."""
    command, result = [sys.executable, '-c', SERVE, name, str(batch), str(pixels)], {}
    with tempfile.TemporaryDirectory() as cache:
        for kind in ('cold', 'warm'):
            with process(command, JAX_COMPILATION_CACHE_DIR=cache, **huge_pages.setting()) as side:
                parts = side.about['parts']
                start = {'start': max(0.0, side.start - sum(parts.values()))}
                result[kind] = {'seconds': round(side.start, 2), 'peak': side.peak()}
                result[kind]['parts'] = {k: round(v, 2) for k, v in (start | parts).items()}
    return result
