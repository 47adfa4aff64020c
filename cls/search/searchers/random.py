"""Random search: what every other search is held against."""

import numpy as np

from cls.search.searcher import Proposal, Searcher, Trial


class Random(Searcher):
    """Codes drawn one by one, whatever was told."""

    def propose(self, rng: np.random.Generator) -> Proposal:
        return self.space.sample(rng), ()

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        pass
