"""Measures how time and memory grow with the work.

  cls benchmark growth                     all cases, a few minutes
  cls benchmark growth classes images      some of them
  cls benchmark growth classes --base 200  classes 200, 2,000 and 20,000

Each case is measured at 1, 10 and 100 times its base, or at the sizes that its networks have, in a
new process each. Printed are the seconds, the growth of the peak memory, and the exponents of both
between the last two sizes: 1 is proportional to the work, 2 is quadratic. Fixed costs make
exponents small. The last line of a case has its targets and the missed ones.
cls/tools/growth_cases.py has the cases.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cls.cli import Parser
from cls.errors import UserError
from cls.run import environment
from cls.tools import benchmark_machine, benchmark_record, benchmark_turns, markdown
from cls.tools.growth_cases import CASES
from cls.tools.peers.answering import answer

SERVE = 'import sys; from cls.tools.benchmark_growth import serve; serve(*sys.argv[1:])'
SHORT = 0.5  # seconds; a shorter work is repeated
LEAST_BASE = 10  # for cases whose own is no smaller
LEAST = 2**20  # bytes; smaller growth of memory has no exponent


def add_flags(flags: Parser) -> None:
    """Adds the flags of the task."""
    about = '; '.join(f'{name}: {case.about}' for name, case in CASES.items())
    flags.add_argument('cases', nargs='*', metavar='CASE', help=f'default: all. {about}')
    flags.add_argument('--base', type=int, default=0, help='the smallest size of the cases')
    flags.add_argument('--json', help='file for the results')
    flags.add_argument('--write', action='store_true', help='record them, renew the table')


def run_task(args: argparse.Namespace) -> int:
    """Measures, prints and writes the results; returns the exit code."""
    for name in args.cases:
        if name not in CASES:
            raise UserError(f'{name!r}: expected {", ".join(CASES)}.')
    names = args.cases or list(CASES)
    _check_base(args, names)
    result = benchmark_machine.record(len(os.sched_getaffinity(0)))
    rows = result['rows'] = {}
    for name in names:
        rows[name] = measure(name, args.base or CASES[name].base)
        print(line(name, rows[name]), flush=True)
        benchmark_record.save(result, args)
    if args.write:
        sizes = {name: {'sizes': measured} for name, measured in rows.items()}
        benchmark_record.store('growth', result, sizes, table)
    return 0


def _check_base(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raises UserError for a smallest size that a case cannot have, or that is not the record's."""
    if not args.base:
        return
    least = max(min(LEAST_BASE, CASES[name].base) for name in names)
    if args.base < least:
        raise UserError(f'--base is {args.base}: expected {least} or more.')
    if fixed := [name for name in names if CASES[name].fixed]:
        raise UserError(f'the sizes of {", ".join(fixed)} are fixed: name other cases for --base.')
    if args.write:
        raise UserError('--base makes other sizes than those of the record: not for --write.')


def measure(name: str, base: int) -> list[dict[str, Any]]:
    """Returns size, seconds and bytes of a case at each of its sizes."""
    rows = []
    for factor in CASES[name].factors:
        size = factor * base
        with (
            tempfile.TemporaryDirectory() as folder,
            benchmark_turns.process([sys.executable, '-c', SERVE, name, str(size), folder]) as side,
        ):
            before = side.resident()
            side.forget_peak()  # that of the preparation
            seconds = side.timed('work', 0, 1)
            grown = max(0, side.peak() - before)
            if seconds < SHORT:
                seconds = min(seconds, *(side.timed('work', 0, 1) for _ in range(2)))
        rows.append({'size': size, 'seconds': float(f'{seconds:.4g}'), 'bytes': grown})
    return rows


def exponent(before: dict[str, Any], after: dict[str, Any], key: str) -> float:
    """Returns the power of the size with which a value grows between two sizes."""
    return math.log(after[key] / before[key]) / math.log(after['size'] / before['size'])


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """Returns the printed lines of a case."""
    lines = [f'{name}: {CASES[name].about}']
    for row in rows:
        mib = row['bytes'] / 2**20
        lines.append(f'  {row["size"]:>11,}  {row["seconds"]:8.3g} s  {mib:8.1f} MiB')
    time_, memory = exponents(rows)
    lines.append(f'  exponents: time {time_}, memory {memory}')
    return '\n'.join([*lines, f'  target: {CASES[name].target}: {verdict(name, rows)}'])


def exponents(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """Returns the exponents of time and memory between the last two sizes; '-': too little."""
    before, after = rows[-2:]
    grows = min(before['bytes'], after['bytes']) >= LEAST
    memory = f'{exponent(before, after, "bytes"):.2f}' if grows else '-'
    return f'{exponent(before, after, "seconds"):.2f}', memory


def verdict(name: str, rows: list[dict[str, Any]]) -> str:
    """Returns whether the target of a case is met, or its exceeded limits."""
    last, power = rows[-1], float(exponents(rows)[0])
    missed = CASES[name].target.missed(last['size'], last['seconds'], last['bytes'], power)
    return f'missed: {missed}' if missed else 'met'


def table(rows: Mapping[str, Any]) -> str:
    """Returns the table of all cases in Markdown."""
    head = ['case', 'sizes', 'seconds', 'MiB', 'exponents', 'target', '', 'date']
    lines = [head]
    for name, row in rows.items():
        if name not in CASES:
            raise UserError(f'{benchmark_record.FILE.name} has growth of {name}, that is no case.')
        sizes = row['sizes']
        shown = (
            [f'{one["size"]:,}' for one in sizes],
            [f'{one["seconds"]:.2g}' for one in sizes],
            [f'{one["bytes"] / 2**20:.0f}' for one in sizes],
            exponents(sizes),
        )
        cells = [' / '.join(values) for values in shown]
        about, target = CASES[name].about, str(CASES[name].target)
        lines.append([f'`{name}`: {about}', *cells, target, verdict(name, sizes), row['date']])
    return markdown.table(lines) + '\n\n' + benchmark_record.machines(rows)


def serve(name: str, size: str, folder: str) -> None:
    """Prepares a case and answers requests for its work until the input ends."""
    environment.start()
    with redirect_stdout(sys.stderr):  # stdout has the answers
        work = CASES[name].prepare(int(size), Path(folder))

    def timed(count: int) -> float:
        begin = time.perf_counter()
        with redirect_stdout(sys.stderr):
            for _ in range(count):
                work()
        return time.perf_counter() - begin

    answer({'work': timed})
