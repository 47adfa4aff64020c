"""Random search, the baseline of every other search."""

import numpy as np

from cls.search.searcher import Proposal, Searcher, Trial


class Random(Searcher):
    """Independent random codes."""

    def propose(self, rng: np.random.Generator) -> Proposal:
        return self.space.sample(rng), ()

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        pass
