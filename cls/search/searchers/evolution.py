"""Evolution by tournaments: AmoebaNet's with aging, its variant without, hier's without death.

Real et al. 2019 (https://arxiv.org/abs/1802.01548), algorithm 1; Liu et al. 2018
(https://arxiv.org/abs/1711.00436), section 3.2, from memory. The defaults are AmoebaNet's; hier's
values are remove='none', fraction=0.05, population=200.
"""

from collections import deque

import numpy as np

from cls.errors import refuse
from cls.search.searcher import Proposal, Searcher, Trial
from cls.search.space import Space

REMOVE = ('oldest', 'worst', 'none')
Member = tuple[Trial, float]  # and its fitness


class Evolution(Searcher):
    """A population that grows by mutated copies of the best member of a random sample.

    Trials enter the population in the order of their results. With several concurrent evaluations,
    parents are chosen from the trials that have a result, as in both papers.
    """

    needs = ('mutate',)

    def __init__(
        self,
        space: Space,
        seed: int,
        population: int = 100,
        sample: int = 25,
        fraction: float = 0.0,
        remove: str = 'oldest',
    ) -> None:
        """Sets the hyperparameters; defaults are AmoebaNet's.

        Args:
          space: the space to search.
          seed: the seed of all randomness.
          population: random codes at the start, and members kept.
          sample: members drawn with replacement; the best is the parent.
          fraction: if not 0, the part of the population drawn without replacement instead.
          remove: the member that a full population loses: the 'oldest'; the 'worst' of the sample
            that gave the new member's parent (with several concurrent evaluations, the worst of
            the whole population if none of the sample is left); or 'none': it grows.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        mistakes = []
        if remove not in REMOVE:
            mistakes.append(
                f'config.search.searcher.remove is {remove!r}; known: {", ".join(REMOVE)}.'
            )
        if population < 1 or sample < 1 or not 0 <= fraction <= 1:
            mistakes.append(
                f'config.search.searcher: population {population}, sample {sample}, fraction '
                f'{fraction}: expected 1 or more, 1 or more, and from 0 to 1.'
            )
        refuse(mistakes)
        self.population, self.sample, self.fraction = population, sample, fraction
        self.remove = remove
        self.members: deque[Member] = deque()
        self._drawn: dict[int, list[Member]] = {}  # child's number -> sample, worst first

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if self.asked < self.population:
            return self.space.sample(rng), ()
        if not self.members:
            return None
        count, size = len(self.members), self.sample
        if self.fraction:
            size = max(1, round(self.fraction * count))
        indices = rng.choice(count, size, replace=not self.fraction)
        drawn = [self.members[index] for index in indices]
        parent, _ = max(drawn, key=lambda member: member[1])
        if self.remove == 'worst':
            self._drawn[self.asked] = sorted(drawn, key=lambda member: member[1])
        return self.space.mutate(parent.code, rng), (parent.number,)

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self.members.append((trial, fitness))
        drawn = self._drawn.pop(trial.number, ())
        if self.remove == 'none' or len(self.members) <= self.population:
            return
        if self.remove == 'oldest':
            self.members.popleft()
        else:
            left = (member for member in drawn if member in self.members)
            worst = next(left, None) or min(self.members, key=lambda member: member[1])
            self.members.remove(worst)
