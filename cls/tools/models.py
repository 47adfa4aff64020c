"""Lists the registered models: python -m cls.tools.models [PATTERN] [--recipes] [--json].

Parameters and multiply-adds are counted in a trace of each network. Counts are kept per system in
cls/tools/counts.json. After a change of a system's code they are counted again, and --recount
writes that file, and the shapes of tensors in cls/weights/tensors. --write rewrites the table of
systems between the two marks of a file, from the registry and the last recorded results of the
tests (tests/results.json).
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cls import models
from cls.cli import Parser, run
from cls.config.load import ROOT
from cls.errors import UserError, nearest
from cls.models.registry import System, Variant
from cls.models.registry.complexity import Complexity
from cls.tools import counts, markdown, recipes, tensors

PROG = 'python -m cls.tools.models'

MANY = 40  # from this number of models on, a line says that counting takes long
COLUMNS = (
    'name',
    'system',
    'input_size',
    'num_classes',
    'params',
    'macs',
    'paper_top1',
    'paper_top5',
    'reference',
)
BEGIN = '<!-- table of systems, by python -m cls.tools.models --write cls/models/README.md -->'
END = markdown.END
RESULTS = ROOT / 'tests' / 'results.json'
HEADER = (
    'system',
    'venue',
    'top-1',
    'top-5',
    'variants',
    'parameters, M: paper / ours',
    'MACs, M: paper / ours',
    'compared with',
    'largest difference',
    'imports weights of',
    'digits',
)


def row(name: str, cost: Complexity) -> dict[str, Any]:
    """Returns {column: value} for a variant and its cost; unknown values are None."""
    variant = models.variant(name)
    values = (
        name,
        variant.system.name,
        variant.input_size,
        models.create(name).num_classes,
        cost.params,
        cost.macs,
        variant.top1,
        variant.top5,
        variant.reference,
    )
    return dict(zip(COLUMNS, values, strict=True))


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    flags.add_argument('pattern', nargs='?', default='*', help='pattern of names, as resnet*')
    flags.add_argument('--json', action='store_true', help='one JSON list')
    flags.add_argument('--write', type=Path, metavar='FILE', help='rewrite the table of systems')
    flags.add_argument('--recipes', action='store_true', help='list the recipes of the models')
    flags.add_argument(
        '--recount', action='store_true', help=f'rewrite {counts.FILE.name} and tensors/'
    )
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints or writes the table; returns the exit code."""
    args = parser(prog).parse_args(argv)
    if args.recount:
        _say_that_it_takes_long(models.names())
        counts.write(counts.FILE)
        tensors.write()
        return 0
    if args.write and (args.pattern != '*' or args.json or args.recipes):
        raise UserError('--write rewrites the table of all systems: expected no other argument.')
    if args.write:
        markdown.write(args.write, renewed(markdown.text_of(args.write)))
        return 0
    names = models.names(args.pattern)
    if not names:
        hint = nearest(args.pattern, models.names())
        raise UserError(
            f'no model matches {args.pattern!r}.{hint} Without a pattern all are listed.'
        )
    if args.recipes:
        _print_recipes(args.pattern, args.json)
        return 0
    stored = counts.read(counts.FILE)
    _say_that_it_takes_long([name for name in names if name not in stored])
    rows = [row(name, cost) for name, cost in counts.costs(names, stored).items()]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    _print_table([COLUMNS, *([_text(r[c]) for c in COLUMNS] for r in rows)])
    return 0


def _print_table(cells: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print('  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def _print_recipes(pattern: str, as_json: bool) -> None:
    header, *rows = recipes.table(pattern)
    if not rows:
        raise UserError(
            f'no recipe trains a model that matches {pattern!r} by default: '
            '`cls summary NAME` lists those that can.'
        )
    if as_json:
        print(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=1))
    else:
        _print_table([header, *rows])


def _say_that_it_takes_long(names: Sequence[str]) -> None:
    if len(names) > MANY:
        print(f'counting {len(names)} models takes a minute or more', file=sys.stderr, flush=True)


def _text(value: object) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else str(value)


# ---------------------------------------------------------- the table of cls/models/README.md


def renewed(text: str) -> str:
    """Returns the text of a page with its table of systems renewed.

    Raises UserError if the text does not have the two marks.
    """
    return markdown.renewed(text, BEGIN, END, table())


def table() -> str:
    """Returns the table of systems in Markdown, followed by the last recorded measurements."""
    measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    of_system = {}
    for variant in map(models.variant, models.names()):
        of_system.setdefault(variant.system, []).append(variant)
    lines = [HEADER]
    rows = [(s.arxiv, _system_cells(s, variants, measured)) for s, variants in of_system.items()]
    rows += [(e.system.arxiv, _ensemble_cells(e, measured)) for e in models.ensembles()]
    lines += [cells for _, cells in sorted(rows)]  # in the order of publication
    text = markdown.table(lines) + _real(measured)
    if 'sweep' not in measured:
        return text
    run = measured['sweep']
    counted = ', '.join(f'{run[kind]} {kind}' for kind in ('passed', 'failed', 'skipped'))
    return (
        f'{text}\n\nThe last recorded `./launch/test.sh -m sweep`, on {run["date"]}: {counted}; '
        f'{run["minutes"]} minutes on two cores.'
    )


def _real(measured: dict) -> str:
    """Returns the table of the original weights on real images, '' without measurements."""
    if 'real' not in measured:
        return ''
    lines = [['weights of', 'images', 'top-1 here', "the original's", 'largest difference']]
    for name, (count, ours, theirs, difference) in measured['real'].items():
        net, images = name.split()
        lines.append(
            [net, f'{count:,} of {images}', f'{ours} %', f'{theirs} %', f'{difference:.0e}']
        )
    return (
        '\n\nReal weights on the real images that `./launch/test.sh -m realdata` finds, top-1 on '
        "these images alone (not ImageNet's validation set), and the largest difference of logits "
        f'in units of their spread:\n\n{markdown.table(lines)}'
    )


def _system_cells(system: System, variants: Sequence[Variant], measured: dict) -> list[str]:
    chosen = next((v for v in variants if v.name == system.headline), variants[-1])
    differences = [measured.get('agreement', {}).get(variant.name) for variant in variants]
    differences = [x for x in differences if x is not None]
    packages = sorted({v.reference.partition(':')[0] for v in variants if v.reference})
    restated = any(v.reference is None for v in variants)
    file = variants[0].module.__module__.rpartition('.')[2] + '.py'
    return [
        f'[{system.name}]({file})',
        _venue(system),
        _number(system.top1),
        _number(system.top5),
        _names([variant.name for variant in variants]),
        f'{_number(system.params)} / {_millions(chosen.params)} `{chosen.name}`',
        f'{_number(system.macs)} / {_millions(chosen.macs)}',
        ', '.join(packages + ['a restatement'] * restated),
        f'{max(differences):.0e} of {len(differences)}' if differences else '-',
        ', '.join(packages) or '-',
        _digits(file, measured),
    ]


def _ensemble_cells(ensemble: Any, measured: dict) -> list[str]:
    members = [models.variant(name) for name in ensemble.members]
    system, file = ensemble.system, f'{ensemble.name}.py'
    counted = {name: ensemble.members.count(name) for name in ensemble.members}
    return [
        f'[{system.name}](../../configs/{file})',
        _venue(system),
        _number(system.top1),
        _number(system.top5),
        ', '.join(f'{count} x {name}' for name, count in counted.items()),
        f'{_number(system.params)} / {_millions(sum(m.params for m in members))}',
        f'{_number(system.macs)} / {_millions(sum(m.macs for m in members))}',
        'as its members',
        '-',
        'as its members',
        _digits(file, measured),
    ]


def _venue(system: System) -> str:
    return f'[{system.venue}](https://arxiv.org/abs/{system.arxiv})'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:,g}'


def _millions(count: int) -> str:
    return f'{count / 1e6:,.2f}' if count < 1e9 else f'{count / 1e6:,.0f}'


def _names(names: list[str]) -> str:
    """Returns names with their common prefix first, as 'resnet: 18, 34, 50'."""
    common = os.path.commonprefix(names) if names[1:] else ''
    prefix = re.findall(r'.*_|[a-z]*', common)[0]
    shown = ', '.join(name.removeprefix(prefix) or name for name in names)
    return f'{prefix}: {shown}' if prefix else shown


def _digits(file: str, measured: dict) -> str:
    result = measured.get('digits', {}).get(f'configs/{file}')
    return f'{result[0]:.1f} % in {result[1]} s' if result else '-'


if __name__ == '__main__':
    run(main)
