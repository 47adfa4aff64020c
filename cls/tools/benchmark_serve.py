"""Compares `cls serve` with onnxruntime behind the same server.

  cls benchmark serve PHOTOS                          ResNet-50 and MobileNetV2 at 224 pixels
  cls benchmark serve PHOTOS resnet18 --at-once 1 8   another network, other numbers of requests

A client sends photographs over HTTP, some at once, each as soon as the answer to the one before is
there. Server, its memory pages, decoding and client are the same for both sides, on the same cores,
and so are the weights; only the program that computes the probabilities differs. onnxruntime runs
the file of `cls export --format onnx --pixels`, in its own numbers of threads, once on the images
that wait, as ours but without padding, and once on one image after another; the better of the two
at each number of requests is the peer.

Printed are requests per second, the median and the 99th percentile of the seconds of a request, and
their ratios, ours / onnxruntime. The processes take turns.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from cls import huge_pages
from cls.cli import Parser
from cls.errors import UserError, require
from cls.tools import benchmark_machine, benchmark_record
from cls.tools.benchmark_predict import NETWORKS, photos_of, repeat
from cls.tools.benchmark_server import KINDS, percentiles
from cls.tools.benchmark_turns import Process, Turn, compared, disturbance, in_turns, process

AT_ONCE = (1, 4, 16)
REQUESTS = 160  # of each side in a round
PHOTOS = 40  # of the client
SERVE = 'import sys; from cls.tools.benchmark_server import serve; serve(*sys.argv[1:])'


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    flags.add_argument('photos', metavar='PHOTOS', help='a folder of images')
    names, numbers = ' '.join(NETWORKS), ' '.join(map(str, AT_ONCE))
    flags.add_argument('networks', nargs='*', metavar='NAME', help=f'default: {names}')
    flags.add_argument(
        '--at-once', type=int, nargs='+', default=AT_ONCE, metavar='N', help=f'default: {numbers}'
    )
    flags.add_argument('--requests', type=int, default=REQUESTS, help='of each side in a round')
    flags.add_argument('--rounds', type=int, default=5, help='default: 5')
    flags.add_argument('--threads', type=int, default=0, help='cores of each side; default: all')
    benchmark_record.add_flags(flags)


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    for flag, values in (
        ('at-once', args.at_once),
        ('requests', [args.requests]),
        ('rounds', [args.rounds]),
    ):
        if min(values) < 1:
            raise UserError(f'--{flag} is {min(values)}: expected 1 or more.')
    for package in ('onnxruntime', 'onnx', 'uvicorn', 'fastapi'):
        require(package, 'serve' if package in ('uvicorn', 'fastapi') else 'onnx')
    photos, names = photos_of(Path(args.photos)), args.networks or list(NETWORKS)
    if args.check:
        rows = [row_name(name, number) for name in names for number in args.at_once]
        benchmark_record.recorded('serve', rows)
    with benchmark_machine.cores(args.threads) as threads, tempfile.TemporaryDirectory() as folder:
        result = benchmark_machine.record(threads)
        result['rows'] = {}
        repeat(photos, PHOTOS, Path(folder) / 'few')
        for name in names:
            rows = measure(name, args, Path(folder), result['versions'])
            result['rows'] |= rows
            benchmark_record.save(result, args)
    return benchmark_record.finish('serve', result, args)


def row_name(name: str, number: int) -> str:
    """Returns the name of the row of a network and a number of requests at once."""
    return f'{name} x {number}'


def measure(
    name: str, args: argparse.Namespace, folder: Path, versions: dict[str, str]
) -> dict[str, Any]:
    """Measures and prints the rows of a network; returns them, and adds versions of packages."""
    numbers, rows = sorted(set(args.at_once)), {}
    with contextlib.ExitStack() as stack:
        sides: dict[str, Process] = {}
        for kind in KINDS:
            command = [sys.executable, '-c', SERVE, kind, name, str(folder), *map(str, numbers)]
            sides[kind] = stack.enter_context(process(command, **huge_pages.setting()))
            versions |= sides[kind].about['versions']
        for number in numbers:
            turns = {
                kind: Turn(side, str(number), args.requests, 0, args.requests)
                for kind, side in sides.items()
            }
            rates, others = in_turns(turns, args.rounds)
            seconds = {kind: percentiles(folder / f'{kind} {number}.json') for kind in KINDS}
            row = rows[row_name(name, number)] = compare(rates, seconds)
            row |= {'others': others, 'pixels': sides['cls'].about['pixels']}
            print(line(name, number, row), flush=True)
    return rows


def compare(
    rates: dict[str, list[float]], seconds: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    """Returns rates, percentiles and their ratios for JSON, to the better one of onnxruntime.

    Args:
      rates: kind -> requests per second in each round.
      seconds: kind -> the median and the 99th percentile of a request.
    """
    peers = [kind for kind in rates if kind != 'cls']
    best = max(peers, key=lambda kind: sum(rates[kind]))
    row: dict[str, Any] = {'peer': best, 'throughput': compared(rates['cls'], rates[best])}
    for place, key in enumerate(('p50', 'p99')):
        both = seconds['cls'][place], seconds[best][place]
        row[key] = {
            'ours': round(both[0], 4),
            'peer': round(both[1], 4),
            'ratio': round(both[0] / both[1], 3),
        }
    return row


def line(name: str, number: int, row: dict[str, Any]) -> str:
    """Returns the printed lines of a row."""
    rate = row['throughput']
    lines = [
        f'{name}, {number} at once: {rate["ours"]:,.1f} requests/s, {row["peer"]} '
        f'{rate["peer"]:,.1f}, ratio {rate["ratio"]:.2f}{disturbance(row["others"])}'
    ]
    for key in ('p50', 'p99'):
        part = row[key]
        lines.append(
            f'  {key}: {1e3 * part["ours"]:,.0f} ms, {row["peer"]} {1e3 * part["peer"]:,.0f}, '
            f'ratio {part["ratio"]:.2f}'
        )
    return '\n'.join(lines)
