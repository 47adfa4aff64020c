"""A field of a config: its default, allowed values, documentation, and the effect of a change."""

import dataclasses
import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cls.config import durations
from cls.errors import UserError

# The effect of continuing a run with another value of a field:
SAME = 'same'  # the change is refused, because the training depends on the field
FREE = 'free'  # only output, checkpoints or evaluations change, not the training
LENGTH = 'length'  # the run continues, and a line describes the change of the schedule

_FLOAT32 = 3.4e38  # the largest float32
DURATION = 'duration'  # `values` of a field of durations
LIMIT = 'a duration, or minutes'  # `values` of the length of a run
_INTERVAL = re.compile(r'([\[(])(.+), (.+)([\])])')


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: the value in a config without the field; it also defines the type.
      values: the interval of a number, or of the numbers of a tuple, for example '[0, 1)'; the
        allowed names, for example 'none | pad'; DURATION, also for the items of a tuple; LIMIT;
        '' if the specification that reads the field checks it.
      doc: one line of documentation.
      length: the length of a tuple; 0: any.
      change: the effect on a run that continues with another value: SAME, FREE or LENGTH.
    """

    default: Any
    values: str = ''
    doc: str = ''
    change: str = SAME
    length: int = 0

    @property
    def interval(self) -> tuple[float, float, bool, bool] | None:
        """(low, high, low is included, high is included), or None without an interval."""
        match = _INTERVAL.fullmatch(self.values)
        return match and (
            _number(match[2]),
            _number(match[3]),
            match[1] == '[',
            match[4] == ']',
        )

    def problem(self, value: Any) -> str:
        """Returns 'expected ...' for a value that is not allowed, '' for any other."""
        if not _same_type(value, self.default):
            return f'expected a value like {self.default!r}'
        if self.length and len(value) != self.length:
            return f'expected {self.length} numbers'
        if isinstance(value, str) and not value.isprintable():
            return 'expected text that can be printed'
        if self.values == LIMIT and (minutes := durations.minutes(value)) is not None:
            return '' if minutes else 'expected more than 0 minutes'
        if self.values in (DURATION, LIMIT):
            return _not_durations(value)
        if self.interval:
            items: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
            if all(_within(item, self.interval) for item in items if is_number(item)):
                return ''
            low, high, closed, _ = self.interval
            several = 'numbers' if isinstance(value, tuple) else 'a number'
            if math.isinf(high):
                return (
                    f'expected {several} of {low:g} or more'
                    if closed
                    else (f'expected {several} above {low:g}')
                )
            return f'expected {several} in {self.values}'
        names = self.names
        if names and value not in names:
            return f'known: {", ".join(name or repr("") for name in names)}'
        return ''

    @property
    def names(self) -> tuple[str, ...]:
        """The allowed names, () if `values` are not names."""
        names = self.values.split(' | ') if ' | ' in self.values else []
        return tuple('' if name == "''" else name for name in names)


def _not_durations(value: str | tuple[str, ...]) -> str:
    if value == '':
        return ''  # the specification that reads the field refuses an empty one
    try:
        for text in value if isinstance(value, tuple) else (value,):
            durations.read(text)
    except UserError:
        units = ', '.join(durations.UNITS)
        return f"expected a number and one of {units}, for example '90 epochs'"
    return ''


def _number(text: str) -> float:
    base, power, exponent = text.partition('**')
    return float(base) ** float(exponent) if power else float(base)


def _within(value: float, interval: tuple[float, float, bool, bool]) -> bool:
    low, high, with_low, with_high = interval
    above = value >= low if with_low else value > low
    below = value <= high if with_high else value < high
    return bool(above and below and abs(value) <= _FLOAT32)


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return is_number(value)
    if isinstance(default, int):
        return isinstance(value, int)
    if isinstance(default, dict):
        return isinstance(value, Mapping | ConfigDict)
    if isinstance(default, tuple):
        if not isinstance(value, tuple):
            return False
        return not default or all(
            _same_type(item, default[0]) or (is_number(item) and is_number(default[0]))
            for item in value
        )
    return isinstance(value, type(default))
