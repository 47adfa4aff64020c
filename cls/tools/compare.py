"""Compares runs: differing fields, results over seeds, paired tests, learning curves.

  cls compare runs/a runs/b runs/c
  cls compare runs/sweep --png curves.png --html comparison.html --csv runs.csv
  cls compare --config resnet:imagenet2012 --config resnet:cifar10

Runs whose configs are equal up to the seed are one group, whose result is shown as
88.54 ± 7.92 (3 seeds): the mean and the sample standard deviation. The interval is that of the mean
over seeds, by Student's t. Groups are compared with the first one over the seeds that both have, by
a paired t test. With --config only the differing fields of the configs are shown.
"""

import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from cls import __version__
from cls.cli import Parser, run
from cls.config import load as configs
from cls.errors import UserError, require
from cls.experiments import compare, figures
from cls.experiments.runs import SweepData, read, runs_of
from cls.storage import paths
from cls.tools.markdown import table

PROG = 'python -m cls.tools.compare'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument(
        'folders', nargs='*', type=paths.path, metavar='FOLDER', help='run and sweep folders'
    )
    flags.add_argument(
        '--config', action='append', default=[], metavar='RECIPE[:ARM]', help='configs to compare'
    )
    flags.add_argument(
        '--metric', action='append', default=[], metavar='NAME', help='default: top-1 accuracies'
    )
    for kind, text in (('csv', 'a row for each run'), ('png', 'curves'), ('html', 'a page')):
        flags.add_argument(f'--{kind}', type=paths.checked, metavar='FILE', help=f'write {text}')
    return flags


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Prints the comparison; returns the exit code. Raises UserError for mistakes."""
    args = parser(prog).parse_args(sys.argv[1:] if argv is None else list(argv))
    if bool(args.config) == bool(args.folders):
        raise UserError('give run folders or sweep folders, or --config RECIPE:ARM twice.')
    outputs = {kind: file for kind in ('csv', 'png', 'html') if (file := getattr(args, kind))}
    if args.config:
        return _compare_configs(args.config, outputs)
    for kind, file in outputs.items():
        paths.check_file(file)
        if kind == 'png':
            require('matplotlib', 'sweep')
    data = [read(folder) for folder in args.folders]
    varied = [name for one in data if isinstance(one, SweepData) for name in one.varied]
    comparison = compare.compare(runs_of(args.folders), [*dict.fromkeys(varied)])
    tables = described(comparison, args.metric)
    print_tables(tables)
    for data in comparison.unfinished:
        print(f'{data.folder} is not finished and does not count.')
    _write(comparison, tables, outputs, ' '.join(map(str, args.folders)))
    return 0


def _compare_configs(specs: Sequence[str], outputs: Any) -> int:
    """Prints the differing fields of configs."""
    if len(specs) < 2:
        raise UserError('--config is given once: expected two or more to compare.')
    if outputs:
        raise UserError(f'--{next(iter(outputs))} is for runs, not for --config.')
    fields = [dict(configs.flatten(configs.load(spec))) for spec in specs]
    rows = compare.fields_table(specs, fields)
    print(table(rows) if rows[1:] else 'the configs are equal')
    return 0


def described(
    comparison: compare.Comparison, metrics: Sequence[str] = ()
) -> list[tuple[str, list[list[str]]]]:
    """Returns (heading, table) of the differing fields and of each metric.

    Raises UserError for a metric that no run has.
    """
    wanted, result = compare.chosen_metrics(comparison, metrics), []
    names = compare.short_names(comparison)
    if names[0] != comparison.groups[0].label:
        rows = compare.fields_table(names, [group.fields for group in comparison.groups])
        result.append(('differing fields', rows))
    result += [(metric, compare.results_table(comparison, metric, names)) for metric in wanted]
    return result


def print_tables(tables: Sequence[tuple[str, list[list[str]]]]) -> None:
    """Prints tables, and a remark if there are results of one seed only."""
    for number, (_, rows) in enumerate(tables):
        print(('\n' if number else '') + table(rows))
    if any(row[1].endswith('(1 seed)') for _, rows in tables for row in rows):
        print(f'\n{compare.NO_SPREAD}')


def _write(comparison: compare.Comparison, tables: Any, outputs: Any, title: str) -> None:
    if 'csv' in outputs:
        paths.write_whole(outputs['csv'], compare.by_run(comparison).encode())
    if 'png' in outputs:
        figures.save(figures.draw(comparison), outputs['png'])
    if 'html' in outputs:
        from cls.experiments.report.comparison import of_tables  # it imports JAX

        name = PurePath(title).name or title
        page = of_tables(f'Comparison of {name}', tables, comparison, f'cls {__version__}')
        paths.write_whole(outputs['html'], page)
    for file in outputs.values():
        print(file)


if __name__ == '__main__':
    run(main)
