"""Evolution by tournaments: AmoebaNet's with aging, its variant without, hier's without death.

Real et al. 2019 (https://arxiv.org/abs/1802.01548), algorithm 1; Liu et al. 2018
(https://arxiv.org/abs/1711.00436), section 3.
"""

from collections import deque

import numpy as np

from cls.errors import UserError
from cls.search.searcher import Proposal, Searcher, Trial
from cls.search.space import Space

REMOVE = ('oldest', 'worst', 'none')


class Evolution(Searcher):
    """A population, the best of a random sample of which is copied, mutated and added.

    Trials come into the population in the order in which they are told. With as many out at once as
    there are workers, parents are chosen from those that are back, as in both papers.
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
          space: to search.
          seed: of all randomness.
          population: random codes at the start, and members kept.
          sample: members that are drawn, with replacement, to find a parent.
          fraction: of the population that is drawn instead of `sample`, if not 0.
          remove: when the population is full: the 'oldest' member, the 'worst' of the sample that
            the new one's parent was drawn from, or 'none': it grows.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        if remove not in REMOVE:
            raise UserError(
                f'config.search.searcher.remove is {remove!r}; known: {", ".join(REMOVE)}.'
            )
        if population < 1 or sample < 1 or not 0 <= fraction <= 1:
            raise UserError(
                f'config.search.searcher: population {population}, sample {sample}, fraction '
                f'{fraction}: expected 1 or more, 1 or more, and from 0 to 1.'
            )
        self.population, self.sample, self.fraction = population, sample, fraction
        self.remove = remove
        self.members: deque[tuple[Trial, float]] = deque()
        self._doomed: dict[int, Trial] = {}  # the worst of its sample, by the child's number

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if self.asked < self.population:
            return self.space.sample(rng), ()
        if not self.members:
            return None
        size = self.sample
        if self.fraction:
            size = max(1, round(self.fraction * len(self.members)))
        drawn = [self.members[i] for i in rng.integers(len(self.members), size=size)]
        parent, _ = max(drawn, key=lambda member: member[1])
        if self.remove == 'worst':
            self._doomed[self.asked] = min(drawn, key=lambda member: member[1])[0]
        return self.space.mutate(parent.code, rng), (parent.number,)

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self.members.append((trial, fitness))
        if self.remove == 'oldest' and len(self.members) > self.population:
            self.members.popleft()
        doomed = self._doomed.pop(trial.number, None)
        if doomed is not None:
            self.members = deque(m for m in self.members if m[0] != doomed)
