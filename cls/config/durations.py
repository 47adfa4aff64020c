"""Durations as text: '90 epochs', '64000 steps', '5e6 examples', '10 percent'.

The length of a run may also be a time, '30 minutes', see `minutes`.
"""

import math
import re
from fractions import Fraction

from cls.errors import UserError

UNITS = ('epochs', 'steps', 'examples', 'percent')
UNKNOWN = 2**31 - 1  # in place of the number of steps of a run whose length is a time
# Two digits of exponent are enough for any run, and '1e999999999' cannot exhaust the memory.
_PATTERN = re.compile(r'\s*(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?\s*([A-Za-z]+)\s*')


def read(duration: str) -> tuple[Fraction, str]:
    """Returns a duration's number and unit. Raises UserError for any other text."""
    match = _PATTERN.fullmatch(str(duration)[:100])
    unit = _unit(match, UNITS)
    if match is None or not unit:
        raise UserError(
            f'{duration!r} is not a duration; write a number and one of {", ".join(UNITS)}, '
            "for example '90 epochs' or '64000 steps'."
        )
    return Fraction(match[1] + (match[2] or '')), unit


def _unit(match: re.Match[str] | None, units: tuple[str, ...]) -> str | None:
    return match and next((u for u in units if match[3] in (u, u.removesuffix('s'))), None)


def minutes(duration: str) -> Fraction | None:
    """Returns the number of minutes of a time, None for a duration in another unit or none."""
    match = _PATTERN.fullmatch(str(duration)[:100])
    if match is None or not _unit(match, ('minutes',)):
        return None
    return Fraction(match[1] + (match[2] or ''))


def steps(duration: str, *, batch: int, examples: int, total: int | None = None) -> int:
    """Returns the number of training steps of `duration`.

    Rounding is to the nearest step, halves up, but a duration above zero is at least one step. The
    arithmetic is exact, in fractions.

    Args:
      duration: a non-negative number, with an optional fraction and exponent, and a unit: epochs,
        steps, examples (each also in the singular) or percent.
      batch: examples in a step, over all devices; positive.
      examples: examples in an epoch; positive.
      total: number of steps of the run, for 'percent'; None if it is unknown, as for the length of
        the run itself.

    Raises:
      UserError: the text is not a duration, is a time, or is in percent and there is no total.
    """
    if minutes(duration) is not None:
        raise UserError(
            f'{duration!r} is a time, and the number of steps is needed here: write it in epochs, '
            'steps or examples.'
        )
    number, unit = read(duration)
    if unit == 'percent' and total is None:
        raise UserError(
            f'{duration!r} is a part of the length of the run, which is not known here; '
            'write it in epochs, steps or examples.'
        )
    per_unit = {
        'epochs': Fraction(examples, batch),
        'steps': Fraction(1),
        'examples': Fraction(1, batch),
        'percent': Fraction(total or 0, 100),
    }
    exact = number * per_unit[unit]
    return max(math.floor(exact + Fraction(1, 2)), 1 if exact else 0)
