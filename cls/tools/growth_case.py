"""A case of `cls benchmark growth`: a work of any size, and a target for its cost."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

FACTORS = (1, 10, 100)
Work = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Target:
    """The largest acceptable cost of a case; 0 is no limit.

    Attributes:
      exponent: of the time, between the last two sizes.
      seconds: at the last size.
      mib: memory at the last size.
      each: bytes of memory for each unit of the last size.
    """

    exponent: float = 1.2
    seconds: float = 0
    mib: float = 0
    each: float = 0

    def __str__(self) -> str:
        limits = [f'exponent {self.exponent:g}'] * bool(self.exponent)
        limits += [f'{self.seconds:g} s'] * bool(self.seconds)
        limits += [f'{self.mib:g} MiB'] * bool(self.mib)
        limits += [f'{self.each:g} bytes each'] * bool(self.each)
        return ', '.join(limits)

    def missed(self, size: int, seconds: float, memory: int, exponent: float) -> str:
        """Returns the exceeded limits, '' if there are none."""
        values = (exponent, seconds, memory / 2**20, memory / size)
        limits = dataclasses.astuple(self)
        names = ('exponent', 'seconds', 'MiB', 'bytes each')
        rows = zip(names, values, limits, strict=True)
        return ', '.join(f'{value:.3g} {name}' for name, value, limit in rows if 0 < limit < value)


@dataclasses.dataclass(frozen=True)
class Case:
    """A work of any size.

    Attributes:
      about: one line about it.
      base: its smallest size.
      prepare: (size, empty folder) -> the work, which can be repeated.
      target: the largest acceptable cost.
      factors: sizes divided by the base.
      fixed: whether there are no other sizes.
    """

    about: str
    base: int
    prepare: Callable[[int, Path], Work]
    target: Target = Target()
    factors: tuple[int, ...] = FACTORS
    fixed: bool = False
