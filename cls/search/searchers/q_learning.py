"""Tabular Q-learning with experience replay: MetaQNN's and Block-QNN's search.

Baker et al. 2017 (https://arxiv.org/abs/1611.02167), section 4 and the authors' code
(github.com/bowenbaker/metaqnn); Zhong et al. 2018 (https://arxiv.org/abs/1708.05552), section 3,
whose text could not be had: its values are from memory and from an independent implementation
(elenathfgs/BlockQNN_Keras).
"""

import math
from collections import deque
from collections.abc import Hashable

import numpy as np

from cls.errors import UserError
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
DRAWS = 10_000  # in a row that are not new, which end a search

Path = list[tuple[list[float], int]]  # of a code: each state's values, and the choice there


def scaled(schedule: Schedule, count: int) -> Schedule:
    """Returns a schedule with each epsilon's share of another number of models."""
    total, before, pairs = sum(models for _, models in schedule), 0, []
    for epsilon, models in schedule:
        after = before + models
        pairs.append((epsilon, after * count // total - before * count // total))
        before = after
    return tuple(pair for pair in pairs if pair[1])


class QLearning(Searcher):
    """Codes drawn decision by decision: at random with probability epsilon, else the best known.

    The values of a state's choices (`Space.state`) are learnt from models that were evaluated,
    drawn at random out of all, the last decision first. A code that is drawn again is not evaluated
    again: it is learnt from once more with what it was worth. One whose evaluation failed is worth
    0.

    The search is over when its schedule is, or when 10,000 codes in a row, drawn one by one, are
    none of them new: then the space, or what the values leave of it, is exhausted. Codes that are
    drawn again until a new one comes are learnt from when it does, in the papers one by one.
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
          space: to search.
          seed: of all randomness.
          schedule: pairs of epsilon and how many models, those that are new, are drawn with it;
            with batches: how many batches.
          rate: alpha, by which a value moves towards its target.
          discount: gamma, of the best value of the next state.
          initial: what a choice is worth before anything is known, in the unit of the fitness.
          replay: models that are learnt from for each that was drawn (the paper; the authors' code:
            128); with batches, after all of a batch are told.
          batch: models that are drawn before any of them is learnt from, and all of which are told
            before the next are drawn. 0: models are drawn one by one, by what is known then.
          shaped: whether each decision is rewarded with the fitness over their number (Block-QNN:
            r_T / T; the public implementation gives the last one all of it as well), or the last
            with all of it and the others with nothing.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        self.schedule = tuple((float(epsilon), int(count)) for epsilon, count in schedule)
        if not all(0 <= epsilon <= 1 and count > 0 for epsilon, count in self.schedule):
            raise UserError(
                f'config.search.searcher.schedule is {schedule}: expected pairs of a probability '
                'and a positive number of models.'
            )
        if replay < 1 or batch < 0:
            raise UserError(
                f'config.search.searcher: replay {replay}, batch {batch}: expected 1 or more, and '
                '0 or more.'
            )
        self.rate, self.discount, self.initial = rate, discount, initial
        self.replay, self.batch, self.shaped = replay, batch, shaped
        self.values: dict[Hashable, list[float]] = {}  # of a state's choices
        self.memory: list[tuple[Path, float]] = []  # all that were drawn, and what they are worth
        self.batches = 0  # that were drawn
        self._known: dict[Code, float] = {}  # what models are worth
        self._waiting: dict[Code, int] = {}  # not yet told, and how often drawn
        self._queue: deque[Code] = deque()  # drawn and not yet asked

    def epsilon(self) -> float | None:
        """Returns the probability that a decision is now drawn at random; None: it is all over."""
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
        """Draws models until one is new. If none is, nothing has changed."""
        epsilon, drawn = self.epsilon(), []
        while epsilon is not None and len(drawn) < DRAWS:
            drawn.append(self._draw(epsilon, rng))
            if drawn[-1] not in self._known and drawn[-1] not in self._waiting:
                for code in drawn:
                    if self._file(code):
                        self._learn(rng)
                return

    def _draw_batch(self, rng: np.random.Generator) -> None:
        """Draws a batch once the last one is told, and others while they have nothing new."""
        while not self._waiting and (epsilon := self.epsilon()) is not None:
            self.batches += 1
            for _ in range(self.batch):
                self._file(self._draw(epsilon, rng))
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

    def _file(self, code: Code) -> bool:
        """Returns whether a code that was drawn is known; if not, it is to be asked, but once."""
        if code in self._known:
            self.memory.append((self._path(code), self._known[code]))
            return True
        if code not in self._waiting:
            self._queue.append(code)
        self._waiting[code] = self._waiting.get(code, 0) + 1
        return False

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self._known[trial.code] = fitness if math.isfinite(fitness) else 0.0
        for _ in range(self._waiting.pop(trial.code)):
            self._file(trial.code)
            if not self.batch:
                self._learn(rng)
        if self.batch and not self._waiting:
            self._learn(rng)

    def _learn(self, rng: np.random.Generator) -> None:
        """Replays models out of all that were drawn, each as likely as the others."""
        count = self.replay * max(1, self.batch)
        for i in rng.integers(len(self.memory), size=count).tolist():
            self.update(*self.memory[i])

    def update(self, path: Path, worth: float) -> None:
        """Moves the values along a path, from its end, towards reward + discount * best of next."""
        share, best = worth / len(path), 0.0
        for place, (values, choice) in enumerate(reversed(path)):
            reward = share if self.shaped else worth * (place == 0)
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
