"""What a searcher is: it is asked for the next trial, and told what each was worth.

Trials may be told in any order, and several may be out at once. All randomness is a function of the
seed and of how often it was asked or told: a searcher that is asked and told the same things again
is in the same state, which is how a search continues (see cls.search.history).
"""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np

from cls.errors import UserError
from cls.search.space import Code, Space

FAILED = -math.inf  # the fitness of a trial whose evaluation failed


@dataclasses.dataclass(frozen=True)
class Trial:
    """An architecture to evaluate. Its number, from 0, is the order in which trials were asked."""

    number: int
    code: Code
    parents: tuple[int, ...] = ()  # numbers of the trials that it was made from


Proposal = tuple[Code, tuple[int, ...]]  # of a trial: code and parents


class Searcher(abc.ABC):
    """Asks for `propose`, tells `observe`; subclasses have these and their hyperparameters.

    Raises UserError for a space that lacks what the searcher needs.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # methods of Space that not every space has

    def __init__(self, space: Space, seed: int) -> None:
        lacking = [name for name in self.needs if not space.offers(name)]
        if lacking:
            raise UserError(
                f'{type(self).__name__} cannot search {type(space).__name__}, which has no '
                f'{" and no ".join(lacking)}: choose another config.search.searcher.name.'
            )
        self.space, self.seed = space, seed
        self.asked, self.told = 0, 0

    def ask(self) -> Trial | None:
        """Returns the next trial; None: not before more are told, or never if all are."""
        proposal = self.propose(np.random.default_rng([self.seed, self.asked, 0]))
        if proposal is None:
            return None
        trial = Trial(self.asked, *proposal)
        self.asked += 1
        return trial

    def tell(self, trial: Trial, fitness: float) -> None:
        """Takes note of what a trial is worth, more being better; FAILED: it could not be found."""
        self.observe(trial, fitness, np.random.default_rng([self.seed, self.told, 1]))
        self.told += 1

    @abc.abstractmethod
    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """Returns what to evaluate next, or None; `rng` is of this trial alone."""

    @abc.abstractmethod
    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        """Learns from one evaluation."""
