"""Describes a network: its stages, the weights that are known, and the recipes that train it.

  cls summary resnet50
  cls summary resnet20_cifar --size 64 --json
  cls summary resnet50 --set stage_sizes='(2, 2, 2, 2)'

For each stage the table has the output for one image, the trainable parameters, the multiply-adds
of convolutions and matrix products (MACs), the values that these return (activations), and the
receptive field in pixels of the input. A field with * is also scaled by gates that see the whole
image, as in squeeze-and-excitation.

The weights are those that `cls.load` and `cls predict --from` take by name; x is the default.
"""

import ast
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from cls import models
from cls.cli import Parser, run
from cls.errors import UserError
from cls.inference import summarizing
from cls.tools import recipes
from cls.weights import published

PROG = 'python -m cls.tools.summary'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('variant', help='a name of `cls models`')
    flags.add_argument('--size', type=int, default=0, help='height and width of the images')
    flags.add_argument('--channels', type=int, default=3, help='channels of the images')
    flags.add_argument(
        '--set', action='append', default=[], metavar='FIELD=VALUE', help='a field of the module'
    )
    flags.add_argument('--json', action='store_true', help='one JSON object')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints the summary; returns the exit code."""
    args = parser(prog).parse_args(argv)
    variant = models.variant(args.variant)
    for flag, least in (('size', 0), ('channels', 1)):
        if getattr(args, flag) < least:
            raise UserError(f'--{flag} is {getattr(args, flag)}: expected {least} or more.')
    module, size = models.create(variant.name, **_fields(args.set)), args.size or variant.input_size
    title = ' with '.join([variant.name, *args.set])
    rows = _rows(module, size, args.channels, title)
    weights, arms = published.of_variant(variant.name), recipes.of_variant(variant.name)
    if args.json:
        print(json.dumps(_plain(variant, size, rows, weights, arms), indent=1))
        return 0
    print(f'{variant.name}: {variant.system.name}, {variant.system.title}, {variant.system.venue}')
    print(f'images of {size} x {size} x {args.channels}, {module.num_classes:,} classes')
    print()
    for line in summarizing.lines(rows):
        print(line)
    for line in _ends(variant, weights, arms):
        print(line)
    return 0


def _fields(pairs: list[str]) -> dict[str, Any]:
    """Returns fields of a module. Raises UserError for text without =."""
    fields = {}
    for pair in pairs:
        name, equals, text = pair.partition('=')
        if not equals or not name:
            raise UserError(f'--set is {pair!r}: expected FIELD=VALUE.')
        if name in fields:
            raise UserError(f'--set {name} is there twice: expected one value.')
        with contextlib.suppress(ValueError, SyntaxError):
            text = ast.literal_eval(text)
        fields[name] = text
    count = fields.get('num_classes', 1)
    if type(count) is not int or count < 1:
        raise UserError(f'--set num_classes is {count!r}: expected a number of 1 or more.')
    return fields


def _rows(module: Any, size: int, channels: int, name: str) -> list[summarizing.Row]:
    try:
        rows = summarizing.summarize(module, size, channels)
        if empty := [row.name for row in rows if 0 in row.shape]:
            raise ValueError(f'{empty[0]} has no positions')
        return rows
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:
        why = (str(error).splitlines() or [''])[0][:200]
        remedy = 'leave out --set, or --size' if ' with ' in name else 'choose another --size'
        raise UserError(
            f'{name} cannot take images of {size} x {size} x {channels} ({why}): {remedy}.'
        ) from error


def _plain(variant: Any, size: int, rows: Any, weights: Any, arms: Any) -> dict[str, Any]:
    def stage(row: summarizing.Row) -> dict[str, Any]:
        whole = row.field == summarizing.WHOLE
        return dataclasses.asdict(row) | {'field': None if whole else row.field}

    return {
        'name': variant.name,
        'system': variant.system.name,
        'size': size,
        'stages': [stage(row) for row in rows],
        'weights': [
            {'title': w.title, 'source': w.source, 'license': w.license, 'top1': w.top1}
            | {'default': w.default}
            for w in weights
        ],
        'recipes': [dataclasses.asdict(arm) for arm in arms],
    }


def _ends(variant: Any, weights: Any, arms: Any) -> Iterator[str]:
    """Yields lines on accuracies, weights and recipes."""
    if variant.top1 or variant.top5:
        numbers = (('top-1', variant.top1), ('top-5', variant.top5))
        stated = ', '.join(f'{name} {value:g} %' for name, value in numbers if value)
        yield f'\nthe paper: {stated}'
    yield '\nweights:' if weights else '\nweights: none are published that fit'
    for row in weights:
        default = 'x' if row.default else ' '
        accuracy = f', top-1 {row.top1:g} %' if row.top1 else ''
        yield f'{default} {row.title}{accuracy}, {row.license or "no stated license"}: {row.source}'
    yield '\nrecipes:' if arms else '\nrecipes: no arm is for this variant by default'
    for arm in arms:
        yield f'  {arm}'


if __name__ == '__main__':
    run(main)
