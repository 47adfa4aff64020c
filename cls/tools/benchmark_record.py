"""The recorded ratios of benchmarks: written, shown in README.md, and compared with new ones.

`--write` stores the measured rows in benchmark.json next to this file and renews the table of
README.md; rows of other networks stay. `--check` compares ratios, never absolute times, with the
recorded ones: each may be worse by TOLERANCE. Ratios of speed are ours / peer, so smaller is worse;
of memory larger is worse.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cls.cli import Parser
from cls.errors import UserError
from cls.run.telemetry import write_json
from cls.storage import paths
from cls.tools import markdown

FILE = Path(__file__).with_name('benchmark.json')
PAGE = Path(__file__).with_name('README.md')
TOLERANCE = 0.15  # of a ratio: repeated measurements on an idle machine differ by up to 0.1
LOWER = ('peak', 'p50', 'p99')  # ratios that are better if they are smaller
TITLES = {
    'train': 'training',
    'infer': 'inference',
    'peak': 'peak memory',
    'loop': 'loop',
    'of_bare': 'loop / bare step',
    'of_step': 'predict / step',
    'of_parts': 'predict / (step + decoding)',
    'of_timm': 'predict / timm',
    'throughput': 'throughput',
    'p50': 'the median latency',
    'p99': 'the 99th percentile of latency',
}
RATIOS = {  # of each task; the host's memory says nothing of a GPU
    'networks': ('train', 'infer', 'peak'),
    'gpu': ('train',),
    'loop': ('loop', 'of_bare'),
    'predict': ('of_step', 'of_parts', 'of_timm'),
    'serve': ('throughput', 'p50', 'p99'),
}


def add_flags(flags: Parser) -> None:
    """Adds the flags that choose the output of a measurement."""
    flags.add_argument('--json', help='file for the results')
    also = flags.add_mutually_exclusive_group()
    also.add_argument('--check', action='store_true', help='compare with the recorded ratios')
    also.add_argument('--write', action='store_true', help='record the ratios, renew the table')


def check_targets(task: str, args: argparse.Namespace) -> None:
    """Raises UserError if results could not be written as the flags say, before hours of work."""
    if getattr(args, 'json', None):
        paths.check_file(Path(args.json))
    if getattr(args, 'write', False):
        paths.check_file(FILE)
        markdown.check(PAGE, _mark(task))
        _read()


def save(result: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Writes the results so far to the file of --json: the next row may take long, or fail."""
    if args.json:
        write_json(Path(args.json), dict(result))


def recorded(
    task: str, names: Sequence[str], sizes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns the recorded rows of networks.

    Raises UserError for a network without one, and for one of another size.

    Args:
      task: the name of the record.
      names: the networks.
      sizes: network -> 'BATCH x PIXELS', of those that are measured with a size.
    """
    rows = _read().get(task, {})
    missing = [name for name in names if name not in rows]
    if missing:
        raise UserError(
            f'{FILE.name} has no ratios of {", ".join(missing)}: measure with --write first.'
        )
    for name, size in (sizes or {}).items():
        before = rows[name].get('size')
        if before != size:
            raise UserError(
                f'{name} is recorded with {before}, and this is {size}: expected the same, or '
                '--write first.'
            )
    return {name: rows[name] for name in names}


def finish(task: str, result: Mapping[str, Any], args: argparse.Namespace) -> int:
    """Writes or compares the result of a task, as the flags say; returns the exit code.

    Args:
      task: the name of the record and of the table in README.md, one of RATIOS.
      result: has `date`, `machine`, `versions` and `rows`: network -> row.
      args: the flags of `add_flags`.
    """
    save(result, args)
    rows = {name: _ratios(task, row) for name, row in result['rows'].items()}
    if args.write:
        store(task, result, rows, lambda rows: table(task, rows))
    if not args.check:
        return 0
    sizes = {name: row['size'] for name, row in rows.items() if 'size' in row}
    before = recorded(task, list(rows), sizes)
    for other in sorted({_of_machine(row) for row in before.values()} - {_of_machine(result)}):
        print(f'recorded on {other}, and this is {_of_machine(result)}: ratios may differ')
    worse = regressions(before, rows)
    for line in worse:
        print(line)
    if not worse:
        print(f'all ratios are within {100 * TOLERANCE:.0f} % of the recorded ones, or better')
    return 1 if worse else 0


def store(
    task: str,
    result: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    made: Callable[[Mapping[str, Any]], str],
) -> None:
    """Records rows of a task with their machine, and renews the table of README.md.

    Args:
      task: the name of the record and of the table.
      result: has `date`, `machine` and `versions`.
      rows: name -> row.
      made: all recorded rows -> the table in Markdown.
    """
    about = {key: result[key] for key in ('date', 'machine', 'versions')}
    record = _read()
    record.setdefault(task, {}).update({name: {**row, **about} for name, row in rows.items()})
    text = markdown.renewed(
        markdown.text_of(PAGE), _mark(task), markdown.END, made(record[task])
    )  # may fail, so before anything is written
    write_json(FILE, record)
    markdown.write(PAGE, text)


def _mark(task: str) -> str:
    return f'<!-- cls benchmark {task} --write -->'


def regressions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each ratio that is worse than the recorded one by more than TOLERANCE.

    Raises UserError for a ratio that only one of them has.

    Args:
      before: network -> recorded ratios.
      now: network -> measured ratios.
    """
    lines = []
    for name, row in now.items():
        for key in TITLES:
            here, there = key in row, key in before[name]
            if here != there:
                raise UserError(
                    f'{name}: the ratio of {TITLES[key]} is '
                    f'{"not recorded" if here else "recorded and was not measured"}: expected the '
                    'peers of the record, or --write first.'
                )
            if not here:
                continue
            old, new = before[name][key], row[key]
            worse = new > old * (1 + TOLERANCE) if key in LOWER else new < old * (1 - TOLERANCE)
            if worse:
                lines.append(f'{name}: the ratio of {TITLES[key]} was {old:.2f} and is {new:.2f}')
    return lines


def table(task: str, rows: Mapping[str, Any]) -> str:
    """Returns the table of a task in Markdown, with a line on machines and versions below."""
    first = next(iter(rows.values()))
    columns = {
        'networks': _network_cells,
        'gpu': _gpu_cells,
        'loop': _loop_cells,
        'predict': _predict_cells,
        'serve': _serve_cells,
    }[task]
    cells = [[f'`{name}`', *columns(row).values(), row['date']] for name, row in rows.items()]
    lines = [['network', *columns(first), 'date'], *cells]
    return markdown.table(lines) + '\n\n' + machines(rows)


def machines(rows: Mapping[str, Any]) -> str:
    """Returns a sentence with the machines and the versions of recorded rows."""
    return '; '.join(dict.fromkeys(_machine(row) for row in rows.values())) + '.'


def _network_cells(row: Mapping[str, Any]) -> dict[str, str]:
    starts = row.get('start', {})
    seconds = ' / '.join(f'{starts[key]:.1f}' for key in ('cold', 'warm', 'peer') if key in starts)
    return {
        'step': row['size'],
        'training': f'{row["train"]:.2f}',
        'inference': f'{row["infer"]:.2f}',
        'peak memory': f'{row["peak"]:.2f}',
        'first step: cold / warm / PyTorch, s': seconds,
    }


def _gpu_cells(row: Mapping[str, Any]) -> dict[str, str]:
    parts = row.get('of_peak')
    shown = f'{100 * parts["ours"]:.0f} % / {100 * parts["peer"]:.0f} %' if parts else '-'
    return {'step': row['size'], 'training': f'{row["train"]:.2f}', 'of the peak': shown}


def _loop_cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {'loop': f'{row["loop"]:.2f}', 'loop / bare step': f'{row["of_bare"]:.3f}'}


def _predict_cells(row: Mapping[str, Any]) -> dict[str, str]:
    keys = ('of_step', 'of_parts', 'of_timm')
    shown = {TITLES[key]: f'{row[key]:.3f}' if key in row else '-' for key in keys}
    return {'batch': row['size'], 'images/s': f'{row["rate"]:,.1f}', **shown}


def _serve_cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        'requests/s': f'{row["rate"]:,.1f}',
        'p50, p99, ms': ', '.join(f'{1e3 * seconds:,.0f}' for seconds in row['latency']),
        'throughput': f'{row["throughput"]:.2f}',
        'p50': f'{row["p50"]:.2f}',
        'p99': f'{row["p99"]:.2f}',
    }


def _machine(row: Mapping[str, Any]) -> str:
    packages = ', '.join(f'{name} {version}' for name, version in row['versions'].items())
    device = f'{row["device"]}, ' if row.get('device', 'cpu') != 'cpu' else ''
    return f'{device}{_of_machine(row)}; {packages}'


def _of_machine(row: Mapping[str, Any]) -> str:
    machine = row['machine']
    return f'{machine["threads"]} cores of {machine["processor"]}, {machine["memory_gib"]} GiB'


def _ratios(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parts of a row that are recorded."""
    kept = {key: row[key] for key in ('start', 'of_peak', 'device') if key in row}
    if 'batch' in row:
        kept['size'] = f'{row["batch"]} x {row["pixels"]}'
    if 'of_bare' in row:
        return kept | {'loop': row['ratio'], 'of_bare': row['of_bare']['ratio']}
    if 'of_step' in row:
        kept['rate'] = row['of_step']['ours']
    if 'throughput' in row:
        kept['rate'] = row['throughput']['ours']
        kept['latency'] = [row[key]['ours'] for key in ('p50', 'p99')]
    return kept | {key: row[key]['ratio'] for key in RATIOS[task] if key in row}


def _read() -> dict[str, Any]:
    """Returns task -> name -> row. Raises UserError for a damaged file."""
    if not FILE.is_file():
        return {}
    try:
        record = paths.parse_json(FILE.read_text())
        if all(row['machine'] for rows in record.values() for row in rows.values()):
            return record
    except (ValueError, AttributeError, TypeError, KeyError):
        pass
    raise UserError(f'{FILE} is damaged: restore it, as from git, or delete it.')
