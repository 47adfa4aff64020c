"""Policy gradients: the search of NASNet and of MnasNet.

Zoph et al. 2018 (https://arxiv.org/abs/1707.07012), section 3 and appendix; Tan et al. 2019
(https://arxiv.org/abs/1807.11626), section 4.2. The numbers of NASNet are from memory; the number
of PPO's steps for a batch is not published.
"""

import numpy as np

from cls.errors import UserError, refuse
from cls.search.searcher import FAILED, Proposal, Searcher, Trial
from cls.search.searchers.controller import Factorized, Step
from cls.search.searchers.lstm import Lstm
from cls.search.space import Fixed, Space

CONTROLLERS = ('lstm', 'factorised')  # spelled as in run folders
ALGORITHMS = ('ppo', 'reinforce')


class PolicyGradient(Searcher):
    """A controller that samples codes, and learns from each full batch of results.

    A code is sampled from the controller at the time of asking. PPO's ratios are to its probability
    at that time, so that results may come in any order.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        controller: str = 'lstm',
        algorithm: str = 'ppo',
        units: int = 100,
        batch: int = 20,
        learning_rate: float = 3.5e-4,
        entropy: float = 1e-5,
        baseline: float = 0.95,
        clip: float = 0.2,
        epochs: int = 4,
    ) -> None:
        """Sets the hyperparameters; defaults are NASNet's, but for `epochs`.

        Args:
          space: the space to search, of a fixed number of decisions.
          seed: the seed of all randomness.
          controller: 'lstm', or 'factorised', with independent decisions.
          algorithm: 'ppo' or 'reinforce'.
          units: number of units of the LSTM.
          batch: number of trials in an update.
          learning_rate: Adam's learning rate.
          entropy: weight of the controller's entropy.
          baseline: decay of the moving average of rewards. It starts as the mean of the first
            batch: from 0, the first steps would reinforce every sample.
          clip: the range of PPO's ratios, 1 +- clip.
          epochs: steps of PPO for each batch; REINFORCE takes one.

        Raises UserError for other values.
        """
        super().__init__(space, seed)
        if not isinstance(space, Fixed):
            raise UserError(
                f'PolicyGradient cannot search {type(space).__name__}, whose codes differ in '
                'length: choose another config.search.searcher.name.'
            )
        names = {'controller': (controller, CONTROLLERS), 'algorithm': (algorithm, ALGORITHMS)}
        mistakes = [
            f'config.search.searcher.{field} is {value!r}; known: {", ".join(known)}.'
            for field, (value, known) in names.items()
            if value not in known
        ]
        if min(units, batch, epochs) < 1 or not 0 <= baseline < 1 or clip <= 0:
            mistakes.append(
                f'config.search.searcher: units {units}, batch {batch}, epochs {epochs}, baseline '
                f'{baseline}, clip {clip}: expected 1 or more, 1 or more, 1 or more, from 0 to '
                'below 1, and more than 0.'
            )
        refuse(mistakes)
        if algorithm == 'reinforce':
            clip, epochs = 0.0, 1
        step = Step(learning_rate, entropy, clip, epochs)
        if controller == 'lstm':
            self.controller = Lstm(space.counts, step, units, np.random.default_rng([seed, 0, 3]))
        else:
            self.controller = Factorized(space.counts, step)
        self.batch, self.decay = batch, baseline
        self.baseline: float | None = None  # before the first batch
        self._log_probs: dict[int, float] = {}  # of running trials
        self._results: list[tuple[Trial, float, float]] = []  # with log-probability and fitness
        self._worst = np.inf

    def propose(self, rng: np.random.Generator) -> Proposal:
        code, self._log_probs[self.asked] = self.controller.sample(rng)
        return code, ()

    def observe(self, trial: Trial, fitness: float, rng: np.random.Generator) -> None:
        self._results.append((trial, self._log_probs.pop(trial.number), fitness))
        if len(self._results) == self.batch:
            self._learn()
            self._results = []

    def _learn(self) -> None:
        """Updates from a batch. A failed trial has the worst reward of the others."""
        trials, log_probs, fitness = zip(*self._results, strict=True)
        rewards = np.array(fitness)
        self._worst = min([self._worst, *rewards[rewards != FAILED]])
        if self._worst == np.inf:
            return
        rewards = np.where(rewards == FAILED, self._worst, rewards)
        first = self.baseline is None
        baseline = float(rewards.mean()) if self.baseline is None else self.baseline
        codes = np.array([trial.code for trial in trials])
        self.controller.update(codes, np.array(log_probs), rewards - baseline)
        for reward in () if first else rewards.tolist():
            baseline = self.decay * baseline + (1 - self.decay) * reward
        self.baseline = baseline
