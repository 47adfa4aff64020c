"""Tabular Q-learning with experience replay: MetaQNN's and Block-QNN's search.

Baker et al. 2017 (https://arxiv.org/abs/1611.02167), section 4 and the authors' code
(github.com/bowenbaker/metaqnn); Zhong et al. 2018 (https://arxiv.org/abs/1708.05552), section 3,
whose text was not available to us: its values are from memory and from an independent
implementation (elenathfgs/BlockQNN_Keras).
"""

import math
from collections import deque
from collections.abc import Hashable

import numpy as np

from cls.errors import refuse
from cls.search.searcher import Proposal, Searcher, Trial
from cls.search.space import Code, Space

Schedule = tuple[tuple[float, int], ...]  # epsilons, and models or batches

METAQNN: Schedule = (
    (1.0, 1500),
    *((epsilon, 100) for epsilon in (0.9, 0.8, 0.7)),
    *((epsilon, 150) for epsilon in (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)),
)
BLOCK_QNN: Schedule = (
    (1.0, 95),
    *((epsilon, 7) for epsilon in (0.9, 0.8, 0.7)),
    *((epsilon, 10) for epsilon in (0.6, 0.5, 0.4, 0.3, 0.2)),
    (0.1, 12),
)
DRAWS = 10_000  # codes in a row that are not new: the search ends

Path = list[tuple[list[float], int]]  # for each decision of a code: the values, the choice


def scaled(schedule: Schedule, count: int) -> Schedule:
    """Returns a schedule for another total, with the same share of models for each epsilon."""
    total, before, pairs = sum(models for _, models in schedule), 0, []
    for epsilon, models in schedule:
        after = before + models
        pairs.append((epsilon, after * count // total - before * count // total))
        before = after
    return tuple(pair for pair in pairs if pair[1])


class QLearning(Searcher):
    """Codes drawn decision by decision: at random with probability epsilon, else the best value.

    The values of a state's choices (`Space.state`) are updated from a random replay of all
    evaluated models, the last decision first. A code that is drawn again is not evaluated again: it
    enters the replay once more, with the same fitness. A failed evaluation has fitness 0.

    The search ends with its schedule, or after 10,000 codes in a row without a new one: then the
    space, or the part that the values favor, is exhausted. Updates from codes drawn again wait for
    the next new code; in the papers each follows its code.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        schedule: Schedule = METAQNN,
        rate: float = 0.01,
        discount: float = 1.0,
        initial: float = 0.5,
        replay: int = 100,
        batch: int = 0,
        shaped: bool = False,
    ) -> None:
        """Sets the hyperparameters; defaults are MetaQNN's.

        Args:
          space: the space to search.
          seed: the seed of all randomness.
          schedule: pairs of epsilon and the number of new models drawn with it; with batches, the
            number of batches.
          rate: alpha, the learning rate of the values.
          discount: gamma, of the best value of the next state.
          initial: the first value of a choice, in the unit of the fitness.
          replay: models replayed for each drawn model (the paper; the authors' code: 128); with
            batches, after all results of a batch.
          batch: models drawn before an update, whose results precede the next batch. 0: each model
            is drawn by the values of that moment.
          shaped: whether each decision has an equal part of the fitness as its reward (Block-QNN:
            r_T / T; in the public implementation the last also has all of it), or only the last
            has a reward, the fitness.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        self.schedule = tuple((float(epsilon), int(count)) for epsilon, count in schedule)
        mistakes = []
        if not all(0 <= epsilon <= 1 and count > 0 for epsilon, count in self.schedule):
            mistakes.append(
                f'config.search.searcher.schedule is {schedule}: expected pairs of a probability '
                'and a positive number of models.'
            )
        if replay < 1 or batch < 0:
            mistakes.append(
                f'config.search.searcher: replay {replay}, batch {batch}: expected 1 or more, and '
                '0 or more.'
            )
        refuse(mistakes)
        self.rate, self.discount, self.initial = rate, discount, initial
        self.replay, self.batch, self.shaped = replay, batch, shaped
        self.values: dict[Hashable, list[float]] = {}  # state -> values of its choices
        self.memory: list[tuple[Path, float]] = []  # all drawn models, with their fitness
        self.batches = 0  # drawn so far
        self._fitness: dict[Code, float] = {}
        self._waiting: dict[Code, int] = {}  # running models -> times drawn
        self._queue: deque[Code] = deque()  # drawn, not yet asked for

    def epsilon(self) -> float | None:
        """Returns the present probability of a random decision; None: the schedule is over."""
        left = self.batches if self.batch else self.asked
        for epsilon, count in self.schedule:
            if left < count:
                return epsilon
            left -= count
        return None

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if not self._queue:
            (self._draw_batch if self.batch else self._draw_new)(rng)
        return (self._queue.popleft(), ()) if self._queue else None

    def _draw_new(self, rng: np.random.Generator) -> None:
        """Draws models until one is new. If none is, nothing changes."""
        epsilon, drawn = self.epsilon(), []
        while epsilon is not None and len(drawn) < DRAWS:
            drawn.append(self._draw(epsilon, rng))
            if drawn[-1] not in self._fitness and drawn[-1] not in self._waiting:
                for code in drawn:
                    if self._record(code):
                        self._learn(rng)
                return

    def _draw_batch(self, rng: np.random.Generator) -> None:
        """Draws a batch after the results of the last one; again if it has no new model."""
        while not self._waiting and (epsilon := self.epsilon()) is not None:
            self.batches += 1
            for _ in range(self.batch):
                self._record(self._draw(epsilon, rng))
            if not self._waiting:
                self._learn(rng)

    def _draw(self, epsilon: float, rng: np.random.Generator) -> Code:
        code: Code = ()
        while count := self.space.choices(code):
            values = self._values(code, count)
            if rng.random() < epsilon:
                choice = int(rng.integers(count))
            else:
                best = max(values)
                ties = [i for i, value in enumerate(values) if value == best]
                choice = ties[rng.integers(len(ties))]
            code += (choice,)
        return code

    def _record(self, code: Code) -> bool:
        """Returns whether a drawn code has a fitness; if not, it is queued once."""
        if code in self._fitness:
            self.memory.append((self._path(code), self._fitness[code]))
            return True
        if code not in self._waiting:
            self._queue.append(code)
        self._waiting[code] = self._waiting.get(code, 0) + 1
        return False

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self._fitness[trial.code] = fitness if math.isfinite(fitness) else 0.0
        for _ in range(self._waiting.pop(trial.code)):
            self._record(trial.code)
            if not self.batch:
                self._learn(rng)
        if self.batch and not self._waiting:
            self._learn(rng)

    def _learn(self, rng: np.random.Generator) -> None:
        """Replays models drawn uniformly from the memory."""
        count = self.replay * max(1, self.batch)
        for i in rng.integers(len(self.memory), size=count).tolist():
            self.update(*self.memory[i])

    def update(self, path: Path, fitness: float) -> None:
        """Moves the values along a path, from its end, toward reward + discount * best of next."""
        share, best = fitness / len(path), 0.0
        for step, (values, choice) in enumerate(reversed(path)):
            reward = share if self.shaped else fitness * (step == 0)
            values[choice] += self.rate * (reward + self.discount * best - values[choice])
            best = max(values)

    def _path(self, code: Code) -> Path:
        prefixes = (code[:i] for i in range(len(code)))
        return [
            (self._values(prefix, self.space.choices(prefix)), choice)
            for prefix, choice in zip(prefixes, code, strict=True)
        ]

    def _values(self, prefix: Code, count: int) -> list[float]:
        state = self.space.state(prefix)
        if state not in self.values:
            self.values[state] = [self.initial] * count
        return self.values[state]
