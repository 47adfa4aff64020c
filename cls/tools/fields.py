"""Prints the fields of a training config: python -m cls.tools.fields [--write configs/README.md].

The table has the name, default, accepted values and meaning of each field, and shows whether a run
may resume with another value.
"""

from pathlib import Path

from cls.cli import Parser, run
from cls.config.defaults import FIELDS
from cls.config.field import DURATION, LENGTH, SAME, Field
from cls.tools import markdown

PROG = 'python -m cls.tools.fields'
BEGIN = '<!-- table of fields, by python -m cls.tools.fields --write configs/README.md -->'
END = markdown.END
HEADER = ('field', 'default', 'values', 'meaning', 'resume')
_RESUME = {SAME: '', LENGTH: 'longer'}


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    flags.add_argument('--write', type=Path, metavar='FILE', help='renew the table of a page')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints or writes the table; returns the exit code."""
    args = parser(prog).parse_args(argv)
    if args.write:
        markdown.write(args.write, renewed(markdown.text_of(args.write)))
    else:
        print(table())
    return 0


def renewed(text: str) -> str:
    """Returns the text of a page with its table of fields renewed.

    Raises UserError when the text does not have the two marks.
    """
    return markdown.renewed(text, BEGIN, END, table())


def table() -> str:
    """Returns the table of fields in Markdown."""
    return markdown.table([HEADER, *(_cells(name, field) for name, field in FIELDS.items())])


def _cells(name: str, field: Field) -> tuple[str, ...]:
    values = 'a duration' if field.values == DURATION else field.values
    cells = (
        f'`{name}`',
        f'`{field.default!r}`',
        f'`{values}`' if field.names or field.interval else values,
        field.doc,
        _RESUME.get(field.change, field.change),
    )
    return tuple(cell.replace('|', r'\|') for cell in cells)


if __name__ == '__main__':
    run(main)
