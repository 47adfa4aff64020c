"""The trials of a sweep: every combination of the values of some fields, with each seed."""

import ast
import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cls.config import files
from cls.errors import UserError, refuse

SEED = 'seed'
MOST = 10_000  # trials of a sweep
_LONGEST = 200  # bytes of a folder's name; file systems allow 255
_LONG_VALUE = 48  # letters of a value in a name
_OPEN, _CLOSE, _QUOTES = '([{', ')]}', '\'"'

Pairs = tuple[tuple[str, str], ...]  # (field, text) as on the command line


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
      name: the name of its folder.
      overrides: its own fields, among them the seed, in addition to those of the sweep.
    """

    name: str
    overrides: Pairs

    @property
    def seed(self) -> int:
        """The seed."""
        return int(dict(self.overrides)[SEED])

    @property
    def point(self) -> Pairs:
        """The fields without the seed."""
        return tuple(pair for pair in self.overrides if pair[0] != SEED)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep as its command describes it; sweep.json stores it.

    Attributes:
      config: the recipe, as for `cls train`; a file by its absolute path.
      fields: overridden fields of all trials.
      grid: (field, values) in the order of the flags.
      seeds: the seeds of each combination.
      search: the ranges of searched fields, see cls.experiments.study; empty without a search.
      count: the trials of a search.
      pruner: of a search.
    """

    config: str
    fields: Pairs
    grid: tuple[tuple[str, tuple[str, ...]], ...] = ()
    seeds: tuple[int, ...] = (0,)
    search: Pairs = ()
    count: int = 0
    pruner: str = ''

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> Self:
        """Returns the plan that `to_json` has stored. Raises UserError for other content."""
        try:
            grid = tuple((name, tuple(values)) for name, values in spec['grid'])
            pairs = (tuple((k, v) for k, v in spec[part].items()) for part in ('fields', 'search'))
            fields, search = pairs
            seeds, count = tuple(map(int, spec['seeds'])), int(spec['count'])
            return cls(spec['config'], fields, grid, seeds, search, count, str(spec['pruner']))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                'sweep.json is not of this version of cls sweep: choose another --workdir.'
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Returns the plan in plain values."""
        return {
            'config': self.config,
            'fields': dict(self.fields),
            'grid': [[name, list(values)] for name, values in self.grid],
            'seeds': list(self.seeds),
            'search': dict(self.search),
            'count': self.count,
            'pruner': self.pruner,
        }

    def trials(self) -> list[Trial]:
        """Returns all trials of the grid: seeds vary fastest, then the last field."""
        names = [name for name, _ in self.grid]
        points = itertools.product(*(values for _, values in self.grid))
        pairs = [(*zip(names, point, strict=True),) for point in points]
        overrides = [(*point, (SEED, str(seed))) for point in pairs for seed in self.seeds]
        return [Trial(*pair) for pair in zip(_names(overrides), overrides, strict=True)]

    def all_overrides(self, trial: Trial) -> Pairs:
        """Returns the fields of the sweep and then those of a trial."""
        return (*self.fields, *trial.overrides)


def make_plan(
    config: str,
    fields: Sequence[tuple[str, str]],
    grid: Sequence[str],
    seeds: int | None,
    search: Sequence[str] = (),
) -> Plan:
    """Returns the plan of the flags of `cls sweep`.

    The seeds are 0, 1, ..., or with --config.seed=N they are N, N + 1, ...

    Args:
      config: of --config.
      fields: of --config.FIELD=VALUE.
      grid: of --grid, each FIELD=VALUE,VALUE,...
      seeds: the number of seeds; None: none was given.
      search: of --search, each FIELD=RANGE.

    Raises UserError for all mistakes that do not depend on the config.
    """
    values = dict(fields)
    axes = [_axis(text, '--grid', 'VALUE,VALUE,...') for text in grid]
    ranges = [_axis(text, '--search', 'RANGE') for text in search]
    refuse(_mistakes([n for n, _ in axes], [n for n, _ in ranges], values, seeds))
    lists = [(name, split_values(text)) for name, text in axes]
    counts = {name: collections.Counter(items) for name, items in lists}
    refuse(
        f'--grid {name} has the value {value!r} twice.' if value else f'--grid {name} has no value.'
        for name, items in lists
        for value in items
        if not value or counts[name][value] > 1
    )
    by_seed = dict(lists).pop(SEED, None)
    lists = [pair for pair in lists if pair[0] != SEED]
    first = _integer(values.pop(SEED, '0'))
    numbers = tuple(map(_integer, by_seed or ())) or tuple(range(first, first + (seeds or 1)))
    plan = Plan(_absolute(config), (*values.items(),), (*lists,), numbers, (*ranges,))
    count = len(numbers)
    for _, items in lists:
        count *= len(items)
    if count > MOST:
        raise UserError(f'the grid has {count:,} trials: expected at most {MOST:,}.')
    return plan


def _mistakes(
    grid: Sequence[str], search: Sequence[str], fields: Mapping[str, str], seeds: int | None
) -> Iterator[str]:
    """Yields the contradictions among the flags."""
    for name in {*grid, *search} & fields.keys():
        yield f'config.{name} is set by --config.{name} and varied: expected one of the two'
    for name in {name for name in (*grid, *search) if (*grid, *search).count(name) > 1}:
        yield f'config.{name} is varied twice: expected one --grid or --search for a field'
    if seeds is not None and seeds < 1:
        yield f'--seeds is {seeds}: expected 1 or more'
    if SEED in grid and seeds:
        yield '--seeds and --grid seed=... are given: expected one of the two'
    if search and (grid or (seeds or 1) > 1):
        yield (
            '--search draws its points itself, with one seed: expected no --grid and no --seeds; '
            'choice:A,B,... searches among values, and a sweep of the best point has the seeds'
        )


def _axis(text: str, flag: str, values: str) -> tuple[str, str]:
    name, equals, rest = text.partition('=')
    name = name.strip().removeprefix('config.')
    if not name or not equals or not rest.strip():
        raise UserError(f'{flag} {text!r}: expected FIELD={values}, as optim.lr=0.1,0.2.')
    return name, rest


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f'a seed is {text!r}: expected a whole number, 0 or more.') from None


def _absolute(config: str) -> str:
    """Returns a config whose file has an absolute path: other machines have other folders."""
    name, colon, argument = config.partition(':')
    path = files.find(name)
    is_name = name in files.names()
    return config if is_name else f'{Path(path).resolve()}{colon}{argument}'


def split_values(text: str) -> tuple[str, ...]:
    """Returns the values of a list: commas within brackets or quotes do not separate.

    Quotes around a whole value are removed: 'a, b','c' has two values.
    """
    parts, depth, quote = [''], 0, ''
    for letter in text:
        if quote:
            quote = '' if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        if letter == ',' and not quote and depth == 0:
            parts.append('')
        else:
            parts[-1] += letter
    return tuple(map(_unquoted, map(str.strip, parts)))


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            pass
    return text


def _names(all_overrides: Sequence[Pairs]) -> list[str]:
    """Returns a readable and different folder name for each trial."""
    names: dict[str, None] = {}
    numbers: dict[str, int] = {}  # the next one to try for a name
    for overrides in all_overrides:
        name = bare = readable(overrides)
        while name in names:
            numbers[bare] = numbers.get(bare, 1) + 1
            name = f'{bare}-{numbers[bare]}'
        names[name] = None
    return [*names]


def readable(overrides: Pairs) -> str:
    """Returns 'optim.lr=0.1,seed=0', with letters that all file systems take."""
    parts = [f'{name}={_short(text)}' for name, text in overrides]
    text = re.sub(r'[^\w.,=+-]+', '_', ','.join(parts))
    if len(text.encode()) > _LONGEST:  # without the names of groups
        parts = [f'{name.rpartition(".")[2]}={_short(text)}' for name, text in overrides]
        text = re.sub(r'[^\w.,=+-]+', '_', ','.join(parts))
    while len(text.encode()) > _LONGEST:
        text = text[1:]
    return text.lstrip('.-,')


def _short(text: str) -> str:
    """Returns the end of a long value: of a path that is the name."""
    return text if len(text) <= _LONG_VALUE else text[-_LONG_VALUE:]
