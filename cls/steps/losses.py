"""Losses by name, and top-k correctness per example, computed in float32.

`config.loss.name` is one of `LOSSES`: a function(logits, targets, ...) of (N, K) logits and (N, K)
targets that returns the terms of each class, (N, K), or the loss of each example, (N,). Its further
arguments are the fields of config.loss.args. A config file registers its own ones:

    @losses.register('margin')
    def margin(logits, targets, by=1.0): ...
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls import registration
from cls.errors import UserError, nearest, refuse
from cls.steps import signatures

Loss = Callable[..., jax.Array]
BALANCED = 'balanced'


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """The fields of config.loss that choose the loss.

    Attributes:
      name: one of LOSSES.
      args: (name, value) pairs.
      class_weights: a factor for each class; (): none; ('balanced',): see `with_counts`.
    """

    name: str = 'softmax'
    args: tuple[tuple[str, Any], ...] = ()
    class_weights: tuple[Any, ...] = ()

    @classmethod
    def from_config(cls, config: Any) -> 'LossSpec':
        """Reads config.loss. Raises UserError that lists all mistakes."""
        fields = config.loss
        args = tuple(sorted(fields.args.to_dict().items()))
        spec = cls(fields.name, args, tuple(fields.class_weights))
        refuse(spec._mistakes(config.data.multi_label))
        return spec

    def _mistakes(self, several: bool) -> Iterator[str]:
        if self.name not in LOSSES:
            yield (
                f'config.loss.name is {self.name!r}; known: {", ".join(LOSSES)}.'
                f'{nearest(self.name, LOSSES)}'
            )
        else:
            parameters = dict(list(inspect.signature(LOSSES[self.name]).parameters.items())[2:])
            owner, args = f'the loss {self.name}', dict(self.args)
            yield from signatures.mistakes('config.loss.args', owner, parameters, args, {})
        if several and self.name in ('softmax', 'focal'):
            yield (
                f'config.loss.name is {self.name!r}, whose probabilities of all classes sum to 1, '
                'and config.data.multi_label is True: expected bce or binary_focal.'
            )
        numbers = all(
            isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < math.inf
            for x in self.class_weights
        )
        if self.class_weights != (BALANCED,) and not numbers:
            yield (
                f'config.loss.class_weights is {self.class_weights!r}: expected {BALANCED!r}, or a '
                'number of 0 or more for each class.'
            )

    def with_counts(self, counts: np.ndarray) -> 'LossSpec':
        """Returns the specification with the weights of K classes as numbers.

        Balanced weights are N / (K * examples of the class), as in scikit-learn: with them all
        classes have the same part of the loss, and the mean weight of the examples is 1.

        Args:
          counts: (K,), the training examples of each class.

        Raises:
          UserError: there are not K weights, or a class without examples would be balanced.
        """
        if self.class_weights == (BALANCED,):
            if not counts.all():
                raise UserError(
                    f'config.loss.class_weights is {BALANCED!r}, but class {int(counts.argmin())} '
                    f'of {len(counts)} has no training images: expected some of each class. Give '
                    'the weights as numbers.'
                )
            weights = counts.sum() / (len(counts) * counts)
            return dataclasses.replace(self, class_weights=tuple(weights.tolist()))
        if len(self.class_weights) not in (0, len(counts)):
            raise UserError(
                f'config.loss.class_weights has {len(self.class_weights)} numbers, and the network '
                f'{len(counts)} classes: expected a number for each class.'
            )
        return self

    def per_example(
        self, logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
    ) -> jax.Array:
        """Returns the loss of each example, (N,) float32.

        A loss with a term for each class has its terms multiplied by the weights of the classes; a
        loss of whole examples is multiplied by the weight of each example's target. The mean over
        the examples is not divided by the sum of their weights.

        Args:
          logits: (N, K), any floating-point type.
          targets: see `cross_entropy`.
          label_smoothing: likewise.
        """
        if self.name == 'softmax' and not self.class_weights:
            return cross_entropy(logits, targets, label_smoothing)
        targets = smoothed(targets, logits.shape[-1], label_smoothing)
        values = LOSSES[self.name](logits.astype(jnp.float32), targets, **dict(self.args))
        if not self.class_weights:
            return values if values.ndim == 1 else values.sum(-1)
        weights = jnp.asarray(self.class_weights, jnp.float32)
        if values.ndim == 1:
            return values * (targets @ weights)
        return (values * weights).sum(-1)


def smoothed(targets: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Returns targets (N, K) float32 with a part of them spread over all classes.

    Args:
      targets: see `cross_entropy`.
      num_classes: K.
      label_smoothing: likewise.
    """
    if targets.ndim == 1:
        targets = jax.nn.one_hot(targets, num_classes)
    targets = targets.astype(jnp.float32)
    return targets * (1.0 - label_smoothing) + label_smoothing / num_classes


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the softmax cross entropy in nats, (N,) float32.

    Args:
      logits: (N, K), any floating-point type.
      targets: probabilities (N, K), rows that sum to 1 (mixed labels, say), or labels (N,) of an
        integer type in 0..K-1. A label outside has no target: its loss is 0 without smoothing.
      label_smoothing: the fraction s of the target that is spread over all K classes, including the
        true one: targets * (1 - s) + s / K (Szegedy et al., 2016, section 7).
    """
    targets = smoothed(targets, logits.shape[-1], label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def _softmax(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return -targets * jax.nn.log_softmax(logits)


def _binary(
    logits: jax.Array, targets: jax.Array, threshold: float = 0.0, sum_classes: bool = False
) -> jax.Array:
    """Returns the binary cross-entropy of each class, as timm's BinaryCrossEntropy.

    The loss of an example is the mean over the classes, or their sum with `sum_classes`. With a
    threshold above 0, targets above it are 1, and all others 0: both labels of a mixed image are
    right (Wightman et al. 2021, section 4.1; 0.2).
    """
    if threshold:
        targets = (targets > threshold).astype(jnp.float32)
    terms = optax.sigmoid_binary_cross_entropy(logits, targets)
    return terms if sum_classes else terms / logits.shape[-1]


def _focal(logits: jax.Array, targets: jax.Array, gamma: float = 2.0) -> jax.Array:
    """Returns the focal loss (Lin et al. 2017, equation 4) of softmax probabilities."""
    logs = jax.nn.log_softmax(logits)
    # A power of an exact 0 has no gradient for a gamma below 1.
    rest = jnp.maximum(-jnp.expm1(logs), jnp.finfo(jnp.float32).tiny)
    return -targets * rest**gamma * logs


def _binary_focal(logits: jax.Array, targets: jax.Array, gamma: float = 2.0) -> jax.Array:
    """Returns the focal loss of each class by itself, of sigmoids, as in the paper."""
    return optax.sigmoid_focal_loss(logits, targets, gamma=gamma)


LOSSES: dict[str, Loss] = {
    'softmax': _softmax,
    'bce': _binary,
    'focal': _focal,
    'binary_focal': _binary_focal,
}


def register(name: str) -> Callable[[Loss], Loss]:
    """Returns a decorator that adds a function to `LOSSES`. Raises UserError if the name is taken.

    The function takes logits and targets, both (N, K) float32, and further arguments by name.
    """

    def add(function: Loss) -> Loss:
        registration.claim('loss', name, name in LOSSES)
        LOSSES[name] = function
        return function

    return add


def topk_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Returns whether each label is among the k classes with the largest logits, (N,) bool.

    Ties count against the label: it is correct only if fewer than k other classes have logits at
    least as large, so a network with the same logit for all classes scores 0 (if K > k; with K <= k
    every label is in the top k). A row with a NaN is wrong, and so is a label outside 0..K-1.

    Args:
      logits: (N, K), any floating-point type.
      labels: (N,) of an integer type.
      k: at least 1.
    """
    logits = logits.astype(jnp.float32)
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=-1, keepdims=True)
    rivals = jnp.sum((logits >= own) & ~is_label, axis=-1)
    decided = is_label.any(axis=-1) & ~jnp.isnan(logits).any(axis=-1)
    return decided & (rivals < k)
