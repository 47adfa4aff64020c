"""The interface of searchers: `ask` for the next trial, `tell` the fitness of each.

Several trials may run concurrently, and their results may arrive in any order. All randomness is a
function of the seed and of the number of calls. The same calls bring a searcher into the same
state, which is how a search continues (see cls.search.history).
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
    """An architecture to evaluate. Trials are numbered from 0 in the order of asking."""

    number: int
    code: Code
    parents: tuple[int, ...] = ()  # numbers of the trials from which it is derived


Proposal = tuple[Code, tuple[int, ...]]  # code and parents of a trial


class Searcher(abc.ABC):
    """A search strategy; subclasses define `propose`, `observe` and their hyperparameters.

    Raises UserError for a space that lacks a method that the searcher needs.
    """

    needs: ClassVar[tuple[str, ...]] = ()  # optional methods of Space

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
        """Returns the next trial; None: none before the next result, or never if all are in."""
        proposal = self.propose(np.random.default_rng([self.seed, self.asked, 0]))
        if proposal is None:
            return None
        trial = Trial(self.asked, *proposal)
        self.asked += 1
        return trial

    def tell(self, trial: Trial, fitness: float) -> None:
        """Reports the fitness of a trial, higher is better; FAILED if it could not be evaluated."""
        self.observe(trial, fitness, np.random.default_rng([self.seed, self.told, 1]))
        self.told += 1

    @abc.abstractmethod
    def propose(self, rng: np.random.Generator) -> Proposal | None:
        """Returns the next code and its parents, or None; `rng` is only for this trial."""

    @abc.abstractmethod
    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        """Learns from one evaluation."""
