"""The help of a recipe: its docstring, arms, variants and fields."""

import ast
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ml_collections import ConfigDict

from cls import models
from cls.config import defaults, files, load
from cls.config.field import DURATION, Field

WIDTH = 100
_COLUMN = 44  # column of the descriptions
_LONG = 40  # the most characters of a value that is shown in full


def recipe(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> str:
    """Returns the help of a recipe, 'NAME' or 'FILE.py', with the fields of an arm after a colon.

    Raises:
      UserError: there is no such recipe or arm, or an override does not fit.
    """
    name, _, argument = spec.partition(':')
    file = files.find(name)
    config = load.load(spec, overrides)
    arms = load.arms(file)
    sections = [ast.get_docstring(ast.parse(file.read_text())) or f'The config {file}.']
    if arms:
        sections.append(_titled('Arms, the first by default', arms.items()))
    sections += _variants(config)
    arm = argument or next(iter(arms), '')
    title = f'Fields of {name}{arm and f":{arm}"}, set by --config.FIELD=VALUE'
    sections.append(_titled(title, _fields(config)))
    return '\n\n'.join(sections)


def _titled(title: str, rows: Iterable[tuple[str, str]]) -> str:
    return '\n'.join([f'{title}:', *(_row(name, text) for name, text in rows)])


def _row(name: str, text: str) -> str:
    """Returns two columns; the text starts on a new line after a long name."""
    name = f'  {name}'
    indent = ' ' * _COLUMN
    if not text:
        return name
    start = f'{name:{_COLUMN}}' if len(name) < _COLUMN - 1 else f'{name}\n{indent}'
    lines = textwrap.wrap(text, WIDTH - _COLUMN)
    return (start + f'\n{indent}'.join(lines)).replace('\xa0', ' ')


def _variants(config: ConfigDict) -> Iterator[str]:
    """Yields the variants of each system that a config trains."""
    seen = set()
    for _, part, _ in defaults.parts(config):
        name = part.get('model', {}).get('name', '')
        if not name or models.is_supernet(name):
            continue
        system = models.variant(name).system
        if system in seen:
            continue
        seen.add(system)
        names = [other for other in models.names() if models.variant(other).system == system]
        listed = textwrap.fill(
            ', '.join(names),
            WIDTH,
            initial_indent='  ',
            subsequent_indent='  ',
            break_on_hyphens=False,
        )
        yield f'Variants of {system.name}, set by variant=NAME after the arm:\n{listed}'


def _fields(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yields each field with its value, and its range and documentation."""
    tables = {prefix: fields for prefix, _, fields in defaults.parts(config)}
    for name, value in load.flatten(config):
        prefix = max((p for p in tables if name.startswith(p)), key=len, default='')
        field = tables.get(prefix, {}).get(name.removeprefix(prefix))
        shown = repr(value) if not isinstance(value, str) or not value else value
        if len(shown) > _LONG:
            shown = f'{shown[:_LONG]}...'
        yield f'{name} = {shown}', _documentation(field)


def _documentation(field: Field | None) -> str:
    if field is None:
        return ''
    values = '' if field.values == DURATION else field.values
    if field.interval:
        values = values.replace(' ', '\xa0')  # stays on a line
    return '; '.join(filter(None, (field.doc, values)))
