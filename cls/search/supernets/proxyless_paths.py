"""The paths of ProxylessNAS's supernet: draws, gates with their gradients, and costs."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls.nn.inverted import Run
from cls.search import latency
from cls.search.supernets.proxyless_net import Net


def draw(key: jax.Array, logits: jax.Array, count: int = 1) -> jax.Array:
    """Returns (places, count) paths drawn without replacement by (places, choices) logits."""
    noise = jax.random.gumbel(key, logits.shape)  # the largest sums are draws without replacement
    return jax.lax.top_k(logits + noise, count)[1]


class Gates(NamedTuple):
    """Gates of paths, of (places, K) each."""

    values: jax.Array  # 1 for the drawn path, 0 for others, with the gradient of p
    probabilities: jax.Array  # p among these paths


def binarized(logits: jax.Array, drawn: jax.Array) -> Gates:
    """Returns the gates of paths, one of them drawn.

    Args:
      logits: (places, K) alpha of the paths; -inf for paths that a place does not have.
      drawn: (places,) the index of the drawn path.
    """
    p = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(drawn, logits.shape[-1])
    return Gates(hard + p - jax.lax.stop_gradient(p), p)


def rescaled(old: jax.Array, new: jax.Array, paths: jax.Array) -> jax.Array:
    """Returns alpha after a step, shifted to preserve the probabilities of other paths.

    Args:
      old: (places, choices) before the step.
      new: after the step; only `paths` changed.
      paths: (places, K).
    """
    before, after = (
        jax.nn.logsumexp(jnp.take_along_axis(alpha, paths, 1), 1, keepdims=True)
        for alpha in (old, new)
    )
    moved = jnp.put_along_axis(jnp.zeros_like(old), paths, before - after, 1, inplace=False)
    return new + moved


@dataclasses.dataclass(frozen=True)
class Costs:
    """The costs of a supernet's networks."""

    fixed: float  # of the layers that all have
    candidates: np.ndarray  # (places, choices); 0 for none

    def expected(self, shares: jax.Array, paths: jax.Array | None = None) -> jax.Array:
        """Returns the expected cost of paths (places, K) with shares (places, K).

        Without paths the shares are of all choices.
        """
        costs = jnp.asarray(self.candidates, jnp.float32)
        if paths is not None:
            costs = jnp.take_along_axis(costs, paths, 1)
        return self.fixed + (shares * costs).sum()


def costs_of(net: Net, size: int, channels: int, cost: latency.Cost) -> Costs:
    """Returns the costs of a supernet's layers on images of a size, see cls.search.latency."""
    first = Run(1, 3, 1, 1, net.first_features)
    shape = (size, channels, net.stem_features, net.head_features, net.num_classes)
    layers = latency.layers((first, *net.space.places), *shape)
    places = layers[2:-2]
    candidates = np.zeros((len(places), net.space.none + 1))
    for i, layer in enumerate(places):
        for j, (window, expansion) in enumerate(net.space.candidates):
            other = dataclasses.replace(layer, window=window, expansion=expansion)
            candidates[i, j] = cost(other)
    return Costs(sum(map(cost, (*layers[:2], *layers[-2:]))), candidates)
