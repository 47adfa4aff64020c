"""Lists the registered models: python -m cls.tools.models [PATTERN] [--json].

Parameters and multiply-adds are counted from each net's trace, not read from a table.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from cls import models
from cls.errors import UserError, run
from cls.models.complexity import complexity

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


def row(name: str) -> dict:
    """Returns what is known of a variant, by the names of COLUMNS; null where nothing is."""
    variant = models.variant(name)
    model = models.create(name)
    cost = complexity(model, variant.input_size)
    values = (
        name,
        variant.system.name,
        variant.input_size,
        model.num_classes,
        cost.params,
        cost.macs,
        variant.top1,
        variant.top5,
        variant.reference,
    )
    return dict(zip(COLUMNS, values, strict=True))


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m cls.tools.models', description=__doc__)
    parser.add_argument('pattern', nargs='?', default='*', help='of names, as resnet*')
    parser.add_argument('--json', action='store_true', help='one JSON list')
    args = parser.parse_args(argv)
    names = models.names(args.pattern)
    if not names:
        raise UserError(f'no model matches {args.pattern!r}; without a pattern all are listed.')
    rows = _rows(names)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    cells = [COLUMNS, *([_text(r[c]) for c in COLUMNS] for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        print('  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    return 0


def _rows(names: list[str]) -> list[dict]:
    """Returns the rows, from a process for each core where there are many to trace."""
    processes = min(os.cpu_count() or 1, len(names) // 4)
    if processes < 2:
        return [row(name) for name in names]
    context = multiprocessing.get_context('spawn')  # a fork of a process that uses JAX may hang
    with ProcessPoolExecutor(processes, context) as pool:
        return list(pool.map(row, names))


def _text(value: object) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else str(value)


if __name__ == '__main__':
    run(main)
