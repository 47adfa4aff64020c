"""What a policy gradient needs of a policy: codes drawn with their log-probabilities, and a step.

A controller has `sample(rng)`, which returns a code and its log-probability, and `update(codes,
log_probs, advantages)`. Here is the one without memory, every decision's softmax on its own, in
NumPy; lstm.py has NASNet's.
"""

import dataclasses
from typing import Any

import numpy as np

from cls.search.space import Code, Rng


@dataclasses.dataclass(frozen=True)
class Step:
    """How a controller climbs the expected reward with a batch of samples."""

    learning_rate: float  # of Adam (0.9, 0.999, 1e-8)
    entropy: float  # weight of the policy's entropy, nats, in what is climbed
    clip: float  # of PPO's ratios; 0: REINFORCE, which has none
    epochs: int  # steps for each batch

    def weights(self, ratios: Any, advantages: Any) -> Any:
        """Returns the (N,) factors of the samples' log-probabilities in the gradient.

        REINFORCE's are the advantages. PPO's are by Schulman et al. 2017
        (https://arxiv.org/abs/1707.06347), equation 7: a sample whose ratio has left 1 +- clip in
        the direction of its advantage has no part in it.

        Args:
          ratios: (N,) probabilities now over those when the samples were drawn.
          advantages: (N,) rewards over the baseline.
        """
        if not self.clip:
            return advantages
        inside = (ratios - 1) * advantages <= self.clip * abs(advantages)
        return ratios * advantages * inside


class Factorised:
    """A softmax for each decision, whatever the others are; at first all choices are as likely."""

    def __init__(self, counts: tuple[int, ...], step: Step) -> None:
        self.step = step
        self._last = np.array(counts) - 1
        self._places = np.arange(len(counts))
        self._choices = np.arange(max(counts)) < np.array(counts)[:, None]  # the rest is padding
        self.logits = np.where(self._choices, 0.0, -np.inf)
        self._first, self._second, self._time = 0.0, 0.0, 0  # Adam's moments

    def sample(self, rng: Rng) -> tuple[Code, float]:
        cumulated = np.cumsum(np.exp(self.log_softmax()), 1)
        drawn = (rng.random(len(cumulated))[:, None] >= cumulated).sum(1)
        code = np.minimum(drawn, self._last)  # sums that round to less than 1
        return tuple(code.tolist()), float(self.log_probs(code[None])[0])

    def log_softmax(self) -> np.ndarray:
        """Returns the (decisions, choices) log-probabilities."""
        logits = self.logits - self.logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def log_probs(self, codes: np.ndarray) -> np.ndarray:
        """Returns the (N,) log-probabilities of (N, decisions) codes."""
        return self.log_softmax()[self._places, codes].sum(1)

    def entropy(self) -> float:
        """Returns the policy's entropy in nats."""
        logs = self.log_softmax()
        return -float((np.exp(logs) * np.where(self._choices, logs, 0)).sum())

    def gradient(self, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the gradient of the weighted mean log-probability and of the entropy's share."""
        logs = np.where(self._choices, self.log_softmax(), 0)
        softmax = np.exp(logs) * self._choices
        chosen = np.zeros(softmax.shape)
        np.add.at(chosen, (self._places, codes), weights[:, None] / len(codes))
        entropies = -(softmax * logs).sum(1, keepdims=True)
        spread = -softmax * (logs + entropies)
        return chosen - weights.mean() * softmax + self.step.entropy * spread

    def update(self, codes: np.ndarray, log_probs: np.ndarray, advantages: np.ndarray) -> None:
        """Steps with (N, decisions) codes, the (N,) log-probabilities they had, and advantages."""
        for _ in range(self.step.epochs):
            ratios = np.exp(self.log_probs(codes) - log_probs)
            slope = self.gradient(codes, self.step.weights(ratios, advantages))
            self._time += 1
            self._first = 0.9 * self._first + 0.1 * slope
            self._second = 0.999 * self._second + 0.001 * slope**2
            first = self._first / (1 - 0.9**self._time)
            second = self._second / (1 - 0.999**self._time)
            self.logits += self.step.learning_rate * first / (np.sqrt(second) + 1e-8)
