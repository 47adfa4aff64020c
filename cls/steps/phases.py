"""Phases of a run: intervals with one compiled training step each.

config.progressive changes the size of the training images at given times, and config.freeze_bn
freezes the statistics of batch norms from a given time on. Both change the compiled program.
"""

import dataclasses
import itertools
from typing import Any

from cls.errors import UserError
from cls.steps.schedule import ToSteps


@dataclasses.dataclass(frozen=True)
class Phase:
    """An interval of training with one compiled step."""

    size: int  # height and width of the training images
    freeze_bn: bool  # whether batch norms normalize with their running statistics, without updates


@dataclasses.dataclass(frozen=True)
class Phases:
    """All phases of a run of `total` steps.

    Attributes:
      sizes: (step, pixels) pairs, the first at step 0: the size of the training images from then
        on.
      freeze_bn: the first step with frozen statistics of batch norms; None: they are never frozen.
      total: number of steps of the run.
    """

    sizes: tuple[tuple[int, int], ...]
    freeze_bn: int | None
    total: int

    @classmethod
    def from_config(cls, config: Any, *, to_steps: ToSteps, total: int) -> 'Phases':
        """Reads config.progressive, config.freeze_bn and config.data.image_size.

        Raises UserError if the times of the sizes are not increasing.
        """
        moment = config.freeze_bn
        sizes = _sizes(config, to_steps)
        return cls(sizes, to_steps(moment) if moment else None, total)

    def at(self, step: int) -> Phase:
        """Returns the phase of a step, counted from 0."""
        size = [size for start, size in self.sizes if start <= step][-1]
        return Phase(size, self.freeze_bn is not None and self.freeze_bn <= step)

    def following(self, step: int) -> list[Phase]:
        """Returns the distinct phases from `step` to the end of the run."""
        starts = [step, *self._starts(step)]
        return list(dict.fromkeys(map(self.at, starts)))

    def end(self, step: int) -> int:
        """Returns the step after the last one of the phase of `step`."""
        return min(self._starts(step), default=self.total)

    def _starts(self, step: int) -> list[int]:
        """Returns the first steps of the phases that begin after `step`, in ascending order."""
        borders = [start for start, _ in self.sizes]
        borders += [] if self.freeze_bn is None else [self.freeze_bn]
        return sorted({b for b in borders if step < b < self.total})


def _sizes(config: Any, to_steps: ToSteps) -> tuple[tuple[int, int], ...]:
    pairs = config.progressive
    if not pairs:
        return ((0, config.data.image_size),)
    example = "for example (('0 steps', 128), ('50 percent', 192))."
    if not all(
        isinstance(pair, tuple) and len(pair) == 2 and type(pair[1]) is int and pair[1] > 0
        for pair in pairs
    ):
        raise UserError(
            f'config.progressive is {pairs!r}: expected pairs of a moment and a size in pixels, '
            + example
        )
    sizes = tuple((to_steps(moment), size) for moment, size in pairs)
    starts = [start for start, _ in sizes]
    if starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
        raise UserError(
            f'config.progressive begins its sizes at the steps {tuple(starts)}: expected the first '
            f'at 0 and the others later one by one, {example}'
        )
    return sizes
