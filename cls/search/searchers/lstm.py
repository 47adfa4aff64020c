"""NASNet's controller: an LSTM that is fed its previous choice, with a softmax for each decision.

Zoph et al. 2018 (https://arxiv.org/abs/1707.07012), section 3: one layer of 100 units, all weights
drawn from -0.1 to 0.1. Pure functions of a dict of arrays; all decisions are padded to the largest
number of choices. They always run on the CPU: the network is smaller than the way to an
accelerator.

The cell is written out here. With flax's OptimizedLSTMCell, whose weights are in eight arrays and
whose sums are in another order, a sample of 6 decisions takes 0.12 instead of 0.09 ms and searches
of NAS-Bench-201 7.7 instead of 7.0 s of CPU time (20 seeds), and one of three searches of NASNet's
40 decisions takes another course after 180 trials. An unfinished search of an earlier version would
then refuse to continue, since the searcher must ask for the trials of its history again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls.search.searchers.controller import Step
from cls.search.space import Code, Rng

Params = dict[str, Any]


def init(counts: tuple[int, ...], units: int, rng: Rng) -> Params:
    """Returns weights for decisions with these numbers of choices.

    embed (D, C, U): the input of decision d + 1 for each choice of decision d; first (U,): the
    input of the first; kernel (2U, 4U) and bias (4U,): of the gates in, forget, cell, out; head
    (D, U, C) and offset (D, C): of the softmax.
    """
    d, c, u = len(counts), max(counts), units
    shapes = {
        'embed': (d, c, u),
        'first': (u,),
        'kernel': (2 * u, 4 * u),
        'bias': (4 * u,),
        'head': (d, u, c),
        'offset': (d, c),
    }
    return {k: rng.uniform(-0.1, 0.1, shape).astype(np.float32) for k, shape in shapes.items()}


def run(
    params: Params, counts: jax.Array, inputs: jax.Array, choose: Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes all decisions of one code.

    Args:
      params: see `init`.
      counts: (D,) numbers of choices.
      inputs: (D,) for `choose`.
      choose: (C,) log-probabilities and a decision's entry of `inputs` -> choice.

    Returns:
      The (D,) code, its log-probability, and the sum of the entropies of its decisions in nats.
    """

    def decide(carry, decision):
        x, h, cell = carry
        head, offset, embed, count, entry = decision
        i, f, g, o = jnp.split(jnp.concatenate([x, h]) @ params['kernel'] + params['bias'], 4)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(cell)
        allowed = jnp.arange(len(offset)) < count
        logs = jax.nn.log_softmax(h @ head + offset, where=allowed)
        logs = jnp.where(allowed, logs, -1e30)  # not -inf, whose gradients are NaN
        choice = choose(logs, entry)
        entropy = -jnp.sum(jnp.where(allowed, jnp.exp(logs) * logs, 0))
        return (embed[choice], h, cell), (choice, logs[choice], entropy)

    zeros = jnp.zeros_like(params['first'])
    decisions = (params['head'], params['offset'], params['embed'], counts, inputs)
    _, (code, logs, entropies) = jax.lax.scan(decide, (params['first'], zeros, zeros), decisions)
    return code, logs.sum(), entropies.sum()


@jax.jit
def sample(params: Params, counts: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a (D,) code and its log-probability, drawn by (D,) uniforms from [0, 1)."""

    def choose(logs, uniform):
        # At most the last choice: sums may round to less than 1.
        return jnp.minimum(jnp.sum(uniform >= jnp.cumsum(jnp.exp(logs))), jnp.sum(logs > -1e29) - 1)

    return run(params, counts, uniforms, choose)[:2]


@jax.jit
def score(params: Params, counts: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the (N,) log-probabilities of (N, D) codes, and the sums of their entropies."""
    _, logs, entropies = jax.vmap(lambda code: run(params, counts, code, lambda _, c: c))(codes)
    return logs, entropies


def loss(
    params: Params,
    counts: jax.Array,
    codes: jax.Array,
    log_probs: jax.Array,
    advantages: jax.Array,
    step: Step,
) -> jax.Array:
    """Returns the loss whose gradient is the policy gradient, see Step.weights."""
    logs, entropies = score(params, counts, codes)
    weights = jax.lax.stop_gradient(step.weights(jnp.exp(logs - log_probs), advantages))
    return -jnp.mean(weights * logs + step.entropy * entropies)


@functools.partial(jax.jit, static_argnames='step')
def climbed(params: Params, moments: Any, counts: jax.Array, *batch: jax.Array, step: Step) -> Any:
    """Returns weights and Adam's moments after a batch of codes, log_probs and advantages."""

    def epoch(_, state):
        params, moments = state
        slope = jax.grad(loss)(params, counts, *batch, step)
        change, moments = optax.adam(step.learning_rate).update(slope, moments)
        return optax.apply_updates(params, change), moments

    return jax.lax.fori_loop(0, step.epochs, epoch, (params, moments))


class Lstm:
    """The controller of these functions and their state, see controller.py."""

    def __init__(self, counts: tuple[int, ...], step: Step, units: int, rng: Rng) -> None:
        self.step, self._counts = step, np.array(counts)
        params = init(counts, units, rng)
        state = (params, optax.adam(step.learning_rate).init(params))
        self.params, self._moments = jax.device_put(state, jax.local_devices(backend='cpu')[0])

    def sample(self, rng: Rng) -> tuple[Code, float]:
        uniforms = rng.random(len(self._counts), np.float32)
        code, log_prob = sample(self.params, self._counts, uniforms)
        return tuple(np.asarray(code).tolist()), float(log_prob)

    def update(self, codes: np.ndarray, log_probs: np.ndarray, advantages: np.ndarray) -> None:
        """Learns from (N, decisions) codes, their log-probabilities when sampled, advantages."""
        batch = codes, log_probs.astype(np.float32), advantages.astype(np.float32)
        state = climbed(self.params, self._moments, self._counts, *batch, step=self.step)
        self.params, self._moments = state
