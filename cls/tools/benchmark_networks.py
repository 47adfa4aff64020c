"""Compares training and inference steps with PyTorch's, in processes that take turns.

  cls benchmark networks --torch PYTHON                     the eleven networks of the table
  cls benchmark networks resnet50 --torch PYTHON --quick    one network, less exactly
  cls benchmark networks resnet50:8x64 --torch PYTHON       batch 8, 64 pixels

PYTHON is an interpreter with PyTorch and the package of the network's reference: timm, torchvision
or pytorchcv. Both sides take steps on uint8 images in memory: normalization, forward and backward
pass, SGD with momentum, loss and top-1, in float32; and the logits in evaluation mode. PyTorch runs
in the faster of its two memory formats, channels_last and contiguous. Both use the same cores.

For each network it prints images per second of both sides and their ratio, ours / PyTorch (medians
over the rounds, above 1 is faster), the peak of the memory of the training processes, and the
seconds from the start of a process to the end of its first step, with our persistent compilation
cache empty (cold) and filled (warm).
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from cls import models
from cls.cli import Parser
from cls.errors import UserError
from cls.run.telemetry import write_json
from cls.tools import benchmark_machine
from cls.tools.benchmark_turns import PEERS, Process, compare, process, repetitions, summary

NETWORKS = {  # variant -> (images in a step, pixels)
    'resnet50': (16, 160),
    'resnext50_32x4d': (16, 160),
    'densenet121': (16, 160),
    'mobilenetv2_100': (32, 160),
    'mobilenetv3_large_100': (32, 160),
    'efficientnet_b0': (32, 160),
    'shufflenetv2_1.0x': (32, 160),
    'seresnet50': (16, 160),
    'inception_v3': (16, 160),
    'resnet20_cifar': (128, 32),
    'vgg16_bn': (8, 160),
}
REFERENCES = {'resnet20_cifar': 'plain:resnet20_cifar'}  # of variants without one
FORMATS = ('channels_last', 'contiguous')
WORKS = {'train': 'training', 'infer': 'inference'}
RATIOS = (*WORKS, 'peak')
SERVE = 'import sys; from cls.tools.benchmark_worker import serve; serve(*sys.argv[1:])'


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the size of its steps."""

    name: str
    batch: int
    pixels: int

    @property
    def reference(self) -> str:
        """The network of the peer, as 'PACKAGE:NAME'."""
        return models.variant(self.name).reference or REFERENCES[self.name]


@dataclasses.dataclass(frozen=True)
class Effort:
    """The lengths of a measurement.

    Attributes:
      rounds: rounds of each work.
      seconds: of a process in a round.
      starts: whether starts with an empty cache are measured too.
    """

    rounds: int = 7
    seconds: float = 1.5
    starts: bool = True


QUICK = Effort(rounds=3, seconds=0.7, starts=False)


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('networks', nargs='*', metavar='NAME[:BATCHxPIXELS]', help='default: all')
    flags.add_argument('--torch', required=True, metavar='PYTHON', help='a Python with PyTorch')
    flags.add_argument('--rounds', type=int, default=0, help=f'default: {Effort.rounds}')
    flags.add_argument('--quick', action='store_true', help='few short rounds, no cold starts')
    flags.add_argument('--threads', type=int, default=0, help='cores of each side; default: all')
    flags.add_argument('--json', help='file for the results')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    cases = [case_of(text) for text in args.networks or NETWORKS]
    effort = QUICK if args.quick else Effort()
    if args.rounds:
        effort = dataclasses.replace(effort, rounds=args.rounds)
    if effort.rounds < 1:
        raise UserError(f'--rounds is {args.rounds}: expected 1 or more.')
    with benchmark_machine.cores(args.threads) as threads:
        result = benchmark_machine.record(threads)
        result['networks'] = {}
        for case in cases:
            result['networks'][case.name] = row = measure(case, args.torch, threads, effort)
            result['versions'] |= row.pop('versions')
            print(line(case, row), flush=True)
            result['summary'] = summarize(result['networks'])
            if args.json:  # after each network: a measurement of all takes half an hour
                write_json(Path(args.json), result)
    for work, values in result['summary'].items():
        print(
            f'{work}: geometric mean {values["geometric_mean"]:.2f}, '
            f'minimum {values["minimum"]:.2f} ({values["of"]})'
        )
    return 0


def case_of(text: str) -> Case:
    """Returns the case of NAME or NAME:BATCHxPIXELS. Raises UserError for others."""
    name, _, sizes = text.partition(':')
    models.variant(name)
    try:
        batch, pixels = map(int, sizes.split('x')) if sizes else NETWORKS[name]
    except (ValueError, KeyError):
        raise UserError(f'{text!r}: expected {name}:BATCHxPIXELS, as in {name}:16x160.') from None
    case = Case(name, batch, pixels)
    if not models.variant(name).reference and name not in REFERENCES:
        raise UserError(f'{name} has no reference in PyTorch: choose another network.')
    return case


def measure(case: Case, python: str, threads: int, effort: Effort) -> dict[str, Any]:
    """Returns the measurements of a network, for JSON. Raises UserError for a failing peer."""
    ours_command = [sys.executable, '-c', SERVE, case.name, str(case.batch), str(case.pixels)]
    with contextlib.ExitStack() as stack:
        cache = {}
        row: dict[str, Any] = {'batch': case.batch, 'pixels': case.pixels, 'start': {}, 'peak': {}}
        if effort.starts:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            cache = {'JAX_COMPILATION_CACHE_DIR': folder}
            with process(ours_command, **cache) as cold:
                row['start']['cold'], row['peak']['cold'] = cold.start, cold.peak()
        ours = stack.enter_context(process(ours_command, **cache))
        peers = {
            layout: stack.enter_context(process(_peer_command(case, python, threads, layout)))
            for layout in FORMATS
        }
        for work in WORKS:
            layout = _faster(peers, work)
            peer = peers[layout]
            _check_same(ours, peer, case)
            compared = compare(ours, peer, work, case.batch, effort.rounds, effort.seconds)
            row[work] = compared.record() | {'format': layout}
            if work == 'train':
                row['start'] |= {'warm': ours.start, 'peer': peer.start}
                row['peak'] |= {'ours': ours.peak(), 'peer': peer.peak()}
                row['versions'] = ours.about['versions'] | peer.about['versions']
    row['peak']['ratio'] = round(row['peak']['ours'] / row['peak']['peer'], 3)
    row['start'] = {name: round(seconds, 2) for name, seconds in row['start'].items()}
    for name in {'cold', 'warm'} & row['start'].keys():
        row['start'][f'{name}_ratio'] = round(row['start'][name] / row['start']['peer'], 3)
    return row


def _peer_command(case: Case, python: str, threads: int, layout: str) -> list[str]:
    script = str(PEERS / 'networks_with_torch.py')
    return [python, script, case.reference, *map(str, (case.batch, case.pixels, threads)), layout]


def _faster(peers: dict[str, Process], work: str) -> str:
    """Returns the memory format in which the peer is faster."""
    seconds = {}
    for layout, peer in peers.items():
        count = repetitions(peer, work, 0.3)
        seconds[layout] = min(peer.timed(work, 0, count) / count for _ in range(2))
    return min(seconds, key=lambda layout: seconds[layout])


def _check_same(ours: Process, peer: Process, case: Case) -> None:
    counts = ours.about['params'], peer.about['params']
    if counts[0] != counts[1]:
        raise UserError(
            f'{case.name} has {counts[0]:,} parameters and {case.reference} {counts[1]:,}: '
            'expected the same network.'
        )


def line(case: Case, row: dict[str, Any]) -> str:
    """Returns the printed lines of a network."""
    lines = [f'{case.name} {case.batch}x{case.pixels}']
    for work, title in WORKS.items():
        one = row[work]
        lines.append(
            f'  {title}: {one["ours"]:,.1f} images/s, PyTorch ({one["format"]}) '
            f'{one["peer"]:,.1f}, ratio {one["ratio"]:.2f}'
        )
    gib = {side: bytes_ / 2**30 for side, bytes_ in row['peak'].items()}
    lines.append(
        f'  peak memory: {gib["ours"]:.2f} GiB, PyTorch {gib["peer"]:.2f}, '
        f'ratio {row["peak"]["ratio"]:.2f}'
    )
    starts = row['start']
    cold = f'{starts["cold"]:.1f} s cold, ' if 'cold' in starts else ''
    lines.append(f'  first step: {cold}{starts["warm"]:.1f} s warm, PyTorch {starts["peer"]:.1f} s')
    return '\n'.join(lines)


def summarize(rows: dict[str, Any]) -> dict[str, Any]:
    """Returns the geometric means and minima of the ratios of networks."""
    ratios = {key: {name: row[key]['ratio'] for name, row in rows.items()} for key in RATIOS}
    return {key: summary(values) for key, values in ratios.items()}
