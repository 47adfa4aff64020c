"""GeNet's genetic algorithm: generations by roulette, exchange of stages, flipped bits.

Xie, Yuille 2017 (https://arxiv.org/abs/1703.01513), algorithm 1 and section 3.2. The paper's text
was not available to us: its steps are from memory, its numbers as in github.com/gmontamat/gentun.
If no individual is better than another, all have the same probability; the paper does not say.
"""

import collections

import numpy as np

from cls.errors import UserError
from cls.search.searcher import FAILED, Proposal, Searcher, Trial
from cls.search.space import Code, Fixed


class Genetic(Searcher):
    """Generations of N: selection, crossover of pairs, mutation of the others, evaluation.

    The paper has a first generation and 50 more, so 1,020 trials. A generation is asked for only
    after all results of the one before, in any order.
    """

    needs = ('crossover', 'redrawn')
    space: Fixed

    def __init__(
        self,
        space: Fixed,
        seed: int,
        population: int = 20,
        crossover: float = 0.2,
        crossover_rate: float = 0.2,
        mutation: float = 0.8,
        mutation_rate: float = 0.05,
    ) -> None:
        """Sets the hyperparameters; defaults are the paper's for CIFAR-10.

        Args:
          space: the space to search; crossover exchanges its stages.
          seed: the seed of all randomness.
          population: individuals of a generation [N].
          crossover: probability that a pair exchanges stages [p_C].
          crossover_rate: probability of each stage of these [q_C]; on MNIST 0.3.
          mutation: probability that an individual without crossover is mutated [p_M].
          mutation_rate: probability of each decision of these [q_M]; on MNIST 0.1.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        rates = crossover, crossover_rate, mutation, mutation_rate
        if population < 2 or not all(0 <= rate <= 1 for rate in rates):
            raise UserError(
                f'config.search.searcher: population {population}, probabilities {rates}: expected '
                '2 or more, and from 0 to 1.'
            )
        self.population = population
        self.crossover, self.crossover_rate = crossover, crossover_rate
        self.mutation, self.mutation_rate = mutation, mutation_rate
        self._evaluated: list[Trial] = []  # trials of this generation with a result
        self._queue: collections.deque[Proposal] = (
            collections.deque()
        )  # its trials that are not yet asked for
        self._fitnesses: dict[Code, list[float]] = collections.defaultdict(list)

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if self.asked < self.population:
            return self.space.sample(rng), ()
        return self._queue.popleft() if self._queue else None

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self._evaluated.append(trial)
        if fitness != FAILED:
            self._fitnesses[trial.code].append(fitness)
        if len(self._evaluated) == self.population:
            generation = sorted(self._evaluated, key=lambda trial: trial.number)
            self._evaluated = []
            self._queue.extend(self._bred(generation, rng))

    def fitness(self, code: Code) -> float:
        """Returns the mean fitness of a code; FAILED: it was never evaluated."""
        values = self._fitnesses.get(code)
        return float(np.mean(values)) if values else FAILED

    def _bred(self, generation: list[Trial], rng: np.random.Generator) -> list[Proposal]:
        chances = survival([self.fitness(trial.code) for trial in generation])
        drawn = rng.choice(len(generation), size=len(generation), p=chances)
        survivors = [(generation[i].code, (generation[i].number,)) for i in drawn]
        bred: list[Proposal] = []
        for start in range(0, len(survivors), 2):
            pair = survivors[start : start + 2]
            if len(pair) == 2 and rng.random() < self.crossover:
                (one, first), (other, second) = pair
                codes = self.space.crossover(one, other, self.crossover_rate, rng)
                bred += [(codes[0], first + second), (codes[1], second + first)]
            else:
                bred += [(self._mutated(code, rng), parents) for code, parents in pair]
        return bred

    def _mutated(self, code: Code, rng: np.random.Generator) -> Code:
        if rng.random() < self.mutation:
            for decision in np.flatnonzero(rng.random(len(code)) < self.mutation_rate):
                if self.space.counts[decision] > 1:
                    code = self.space.redrawn(code, int(decision), rng)
        return code


def survival(fitnesses: list[float]) -> np.ndarray:
    """Returns the probability of each individual, in proportion to r - min r (section 3.2.2).

    It is 0 for a failed one, and the same for all if none is better than another.
    """
    worst = min((fitness for fitness in fitnesses if fitness != FAILED), default=FAILED)
    weights = np.array([0 if fitness == FAILED else fitness - worst for fitness in fitnesses])
    weights = weights if weights.any() else np.ones(len(fitnesses))
    return weights / weights.sum()
