"""Scales and ticks of charts, and numbers as text."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A map from values to positions on an axis.

    Attributes:
      low, high: the values at its ends.
      start, end: the positions there.
      log: whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the position of a value."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values within the scale."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Returns at most about `count` multiples of 1, 2 or 5 times a power of ten, in [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * x for x in (1, 2, 5, 10) if power * x >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten in [low, high], with 2 and 5 times these if they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [f * 10.0**e for e in exponents for f in factors]
        inside = [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            step = -(-len(inside) // 7)
            return inside[::step]
    return ticks(low, high)


def padded(values: Iterable[float], start: float, end: float, log: bool = False) -> Scale:
    """Returns a scale that has all values, with some room at both ends."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.05 if high > low else 2.0
        return Scale(low / room, high * room, start, end, log=True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(0.0 if 0 <= low < room else low - room, high + room, start, end)


def wants_log(values: Sequence[float]) -> bool:
    """Whether values are positive and spread over more than two powers of ten."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 100


def number(value: float) -> str:
    """Returns a number of a tick: '0.05', '12k', '3M', '1e-6'."""
    if value == 0:
        return '0'
    for limit, unit in ((1e9, 'G'), (1e6, 'M'), (1e4, 'k')):
        if limit <= abs(value) < 1e12:
            return f'{value / (1e3 if unit == "k" else limit):g}{unit}'
    if abs(value) < 1e-3:
        return f'{value:.0e}'.replace('e-0', 'e-').replace('e+', 'e')
    return f'{value:g}'


def duration(seconds: float) -> str:
    """Returns a time: '0.3 s', '4 min 10 s', '3 h 20 min', '2 d 3 h'."""
    if seconds < 60:
        return f'{seconds:.1f} s'
    whole = round(seconds)
    units = (('d', 86400), ('h', 3600), ('min', 60), ('s', 1))
    at = next(i for i, (_, size) in enumerate(units) if whole >= size)
    parts = []
    for unit, size in units[at : at + 2]:
        amount, whole = divmod(whole, size)
        parts += [f'{amount} {unit}'] if amount else []
    return ' '.join(parts)


def thinned(points: Sequence[Point], most: int = 400) -> list[Point]:
    """Returns the points of a line with at most about `most` of them, extremes included.

    Of each of most / 4 equal parts it keeps the first, the last, the lowest and the highest point.
    """
    if len(points) <= most:
        return list(points)
    parts = most // 4
    kept = set()
    for part in range(parts):
        own = range(part * len(points) // parts, (part + 1) * len(points) // parts)
        kept |= {own[0], own[-1]}
        kept |= {min(own, key=lambda i: points[i][1]), max(own, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]
