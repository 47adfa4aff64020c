"""ProxylessNAS's search (Cai et al. 2019, https://arxiv.org/abs/1812.00332).

The supernet has all candidates in each place for a block, and computes one of them: a path drawn
with the probabilities p, the softmax of the place's alpha. Steps of the weights on training images
alternate with steps of alpha on held-out ones, with fixed weights. Each path has a
gate, 1 for the drawn path and 0 for the others; alpha's gradient is dL/dg, as if the gates were p
(equation 4). The modes:

  two        two paths are drawn, and only they are computed and updated (section 3.2);
  full       all paths are computed, as the authors' code also allows;
  reinforce  alpha follows the policy gradient of sampled networks' reward (section 3.3.2).

The cost of a network is the sum of the costs of its layers (cls.search.latency). The expected cost
of the supernet, sum_j p_j F(o_j) over its places, is differentiable (section 3.3).

Hyperparameters are those of the authors' code (github.com/mit-han-lab/proxylessnas, search/). In
that code a place whose drawn path has no block is not updated; here, as in the paper, it is. The
statistics of norms are those of the weights' steps.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from cls.errors import UserError, nearest
from cls.search import latency
from cls.search.spaces.proxylessnas import ProxylessNAS as Space
from cls.search.supernets.base import ALPHA, Method, SupernetSpec
from cls.search.supernets.darts import split
from cls.search.supernets.proxyless_net import Net, masked
from cls.search.supernets.proxyless_paths import Costs, binarized, costs_of, draw, rescaled
from cls.steps.state import TrainState
from cls.steps.train_step import Recipe, augmented, make_loss, norms

MODES = ('two', 'full', 'reinforce')
LOSSES = ('mul#log', 'add#linear', '')


class Rules(NamedTuple):
    """The update rules of the weights and of alpha."""

    weights: optax.GradientTransformation
    alpha: optax.GradientTransformation

    def init(self, params: Any) -> dict[str, Any]:
        """Returns the state of both, and REINFORCE's baseline: -1 before there is one."""
        weights, alpha = split(params)
        state = {'weights': self.weights.init(weights), ALPHA: self.alpha.init(alpha)}
        return state | {'baseline': np.full((), -1, np.float32)}


@dataclasses.dataclass(frozen=True)
class ProxylessNAS:
    """The published hyperparameters of the training; `prepared` makes a Training for a run.

    The warm-up updates only the weights, with uniformly drawn paths. Raises UserError for unknown
    names and for values out of range.
    """

    mode: str = 'two'
    warmup: str = '25 percent'  # the authors: 40 of 160 epochs
    rest: str = '1 epochs'  # after the warm-up, before alpha's first step
    every: int = 5  # steps of the weights for a step of alpha
    lr: float = 1e-3  # Adam's
    b1: float = 0.0
    b2: float = 0.999
    weight_decay: float = 0.0
    cost_loss: str = 'mul#log'  # | add#linear | '': alpha ignores the cost
    reference: float = 80.0  # the target cost, in the table's unit or thousands of multiply-adds
    scale: float = 0.2  # mul#log: scale * L (log E / log reference)^power
    power: float = 0.3
    penalty: float = 0.1  # add#linear: L + penalty (E - reference) / reference
    samples: int = 10  # reinforce: networks for a step of alpha
    tradeoff: float = 0.1  # reinforce: the reward is accuracy (reference / cost)^tradeoff
    baseline: float = 0.99  # reinforce: rate of the baseline's approach to the mean reward

    def __post_init__(self) -> None:
        for field, known in (('mode', MODES), ('cost_loss', LOSSES)):
            value = getattr(self, field)
            if value not in known:
                hint = nearest(value, known) or f' Known: {", ".join(map(repr, known))}.'
                raise UserError(f'config.search.supernet.{field} is {value!r}.{hint}')
        least = 1 if self.cost_loss == 'mul#log' and self.mode != 'reinforce' else 0
        if self.reference <= least or min(self.every, self.samples) < 1:
            raise UserError(
                f'config.search.supernet: reference {self.reference}, every {self.every}, samples '
                f'{self.samples}: expected more than {least}, 1 or more, and 1 or more.'
            )

    def prepared(
        self,
        spec: SupernetSpec,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        to_steps: Callable[[str], int],
    ) -> 'Training':
        """Returns the training in a run, see `base.Options`.

        Raises UserError for another network, and for a table without one of the layers.
        """
        if not isinstance(model, Net) or spec.precise_bn:
            raise UserError(
                f'config.model.name is {spec.model!r}, config.eval.precise_bn {spec.precise_bn}: '
                'this search trains proxyless_supernet, with 0.'
            )
        cost = latency.measured(spec.table) if spec.table else latency.multiply_adds
        size, _, channels = image_shape
        warmup = to_steps(self.warmup)
        costs = costs_of(model, size, channels, cost)
        return Training(self, model.space, costs, warmup, warmup + to_steps(self.rest))

    def with_cost(self, loss: jax.Array, cost: jax.Array) -> jax.Array:
        """Returns alpha's loss, of the loss on images and the expected cost."""
        if self.cost_loss == 'mul#log':
            return self.scale * loss * (jnp.log(cost) / np.log(self.reference)) ** self.power
        if self.cost_loss == 'add#linear':
            return loss + self.penalty * (cost - self.reference) / self.reference
        return loss

    def reward(self, accuracy: jax.Array, cost: jax.Array) -> jax.Array:
        """Returns the reward of a network for REINFORCE; accuracy from 0 to 1."""
        return accuracy * (self.reference / cost) ** self.tradeoff


# (alpha, paths, gates) -> the result of make_loss's function for held-out images
Held = Callable[[jax.Array, jax.Array | None, jax.Array | None], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Training(Method):
    """The training of a supernet in a run."""

    options: ProxylessNAS
    space: Space
    costs: Costs
    warmup: int  # steps
    begin: int  # the first step that updates alpha

    def optimizer(self, rule: Callable[..., Any], params: Any) -> Rules:
        weights, _ = split(params)
        options = self.options
        decay = optax.add_decayed_weights(options.weight_decay)
        adam = optax.adam(options.lr, options.b1, options.b2)
        return Rules(rule(weights), optax.chain(decay, adam))

    def make_train_step(
        self, model: nn.Module, optimizer: Rules, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
        """Returns train_step(state, batch), see the base class.

        It adds the metrics of `path_metrics` to the trainer's.
        """
        loss_fn = make_loss(model, recipe, batch_sharding)
        sharp = dataclasses.replace(recipe, label_smoothing=0.0)
        held_fn = make_loss(model, sharp, batch_sharding)

        def train_step(state, batch):
            key = state.key()
            _, net_key = jax.random.split(key)  # as in cls.steps.train_step
            held_key, path_key, alpha_key = (jax.random.fold_in(key, n) for n in (3, 4, 5))
            shown = augmented(recipe, batch, key, model, batch_sharding)
            held = augmented(recipe, batch['valid'], held_key, model, batch_sharding)
            progress = state.step / recipe.total_steps
            weights, alpha = split(state.params)
            rules = state.opt_state

            logits = self.masked(jnp.where(state.step < self.warmup, 0.0, alpha))
            paths = draw(path_key, logits)

            def loss(weights):
                params = weights | {ALPHA: alpha}
                return loss_fn(params, state.batch_stats, *shown, net_key, progress, paths=paths)

            grads, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(weights)
            updates, weights_state = optimizer.weights.update(grads, rules['weights'], weights)
            weights, weights_state = self.with_others_unchanged(
                paths[:, 0],
                (weights, rules['weights']),
                (optax.apply_updates(weights, updates), weights_state),
            )

            def held_loss(alpha, paths, gates):
                params = weights | {ALPHA: alpha}
                inputs = {'paths': paths, 'gates': gates}
                return held_fn(params, batch_stats, *held, net_key, progress, **inputs)

            def learn(alpha, rules):
                return self.learn(optimizer.alpha, held_loss, alpha_key, alpha, rules)

            due = (state.step >= self.begin) & ((state.step + 1) % self.options.every == 0)
            alpha, rules = jax.lax.cond(due, learn, lambda *same: same, alpha, rules)
            params = weights | {ALPHA: alpha}
            metrics |= norms(grads, params, batch_stats) | self.path_metrics(alpha)
            state = state.replace(
                step=state.step + 1,
                params=params,
                batch_stats=batch_stats,
                opt_state=rules | {'weights': weights_state},
            )
            return state, metrics

        return train_step

    def learn(
        self,
        rule: optax.GradientTransformation,
        held: Held,
        key: jax.Array,
        alpha: jax.Array,
        rules: dict[str, Any],
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Returns alpha and the rules' state after a step of alpha."""
        path_key, drawn_key = jax.random.split(key)
        logits, baseline, paths = self.masked(alpha), rules['baseline'], None
        if self.options.mode == 'reinforce':
            keys = jax.random.split(path_key, self.options.samples)
            networks = jax.vmap(draw, (0, None))(keys, logits)
            rewards = jax.lax.map(lambda paths: self.reward(held, alpha, paths), networks)
            toward, baseline = self.reinforced(alpha, networks[..., 0], rewards, baseline)
        else:
            if self.options.mode == 'two':
                paths = draw(path_key, logits, 2)
                logits = jnp.take_along_axis(logits, paths, 1)
            drawn = jax.random.categorical(drawn_key, logits)
            toward = jax.grad(self.gated)(alpha, held, drawn, paths)
        updates, alpha_state = rule.update(toward, rules[ALPHA], alpha)
        moved: Any = optax.apply_updates(alpha, updates)
        if paths is not None:
            moved = rescaled(alpha, moved, paths)
        return moved, rules | {ALPHA: alpha_state, 'baseline': baseline}

    def masked(self, alpha: jax.Array) -> jax.Array:
        """Returns alpha with -inf for choices that a place does not have."""
        return masked(alpha, self.space.counts)

    def gated(
        self, alpha: jax.Array, held: Held, drawn: jax.Array, paths: jax.Array | None = None
    ) -> jax.Array:
        """Returns alpha's loss, whose gradient is that of equation 4 and of the cost.

        Args:
          alpha: (places, choices).
          held: the loss on images.
          drawn: (places,) the path whose gate is 1, as an index of `paths`.
          paths: (places, K) to compute; None: all.
        """
        logits = self.masked(alpha)
        if paths is not None:
            logits = jnp.take_along_axis(logits, paths, 1)
        gates = binarized(logits, drawn)
        loss, _ = held(jax.lax.stop_gradient(alpha), paths, gates.values)
        return self.options.with_cost(loss, self.costs.expected(gates.probabilities, paths))

    def reward(self, held: Held, alpha: jax.Array, paths: jax.Array) -> jax.Array:
        """Returns the reward of the network of (places, 1) paths."""
        _, (_, metrics) = held(alpha, paths, None)
        cost = self.costs.expected(jnp.ones(paths.shape), paths)
        return self.options.reward(metrics['top1'] / 100, cost)

    def reinforced(
        self, alpha: jax.Array, networks: jax.Array, rewards: jax.Array, baseline: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns REINFORCE's gradient, for descent, and the new baseline, already part of it.

        Args:
          alpha: (places, choices).
          networks: (samples, places) paths.
          rewards: (samples,).
          baseline: after the previous step; -1 before the first.
        """
        mean = rewards.mean()
        step = jnp.where(baseline < 0, 1.0, self.options.baseline)
        baseline += step * (mean - baseline)

        def climbed(alpha):
            logs = jax.nn.log_softmax(self.masked(alpha))
            of_nets = jax.vmap(lambda paths: logs[jnp.arange(len(paths)), paths].sum())(networks)
            return -((rewards - baseline) * of_nets).mean()

        return jax.grad(climbed)(alpha), baseline

    def path_metrics(self, alpha: jax.Array) -> dict[str, jax.Array]:
        """Returns metrics of alpha, float32 scalars.

        `alpha_entropy` is the mean entropy of a place, in nats; `cost` the expected cost,
        `cost_chosen` that of the derived network, and `none` its number of empty places.
        """
        logits = self.masked(alpha)
        p, chosen = jax.nn.softmax(logits), logits.argmax(-1)
        logs = jnp.where(p > 0, jnp.log(jnp.maximum(p, 1e-30)), 0.0)
        return {
            'alpha_entropy': -(p * logs).sum(-1).mean(),
            'cost': self.costs.expected(p),
            'cost_chosen': self.costs.expected(jnp.ones((len(p), 1)), chosen[:, None]),
            'none': (chosen == self.space.none).sum().astype(jnp.float32),
        }

    def worth(self, spec: SupernetSpec, genotype: Any, alpha: Any) -> dict[str, float]:
        return {'cost': float(self.path_metrics(alpha)['cost_chosen'])}

    def with_others_unchanged(self, paths: jax.Array, old: Any, new: Any) -> Any:
        """Returns trees after a step, except for candidates that were not drawn.

        As in PyTorch, parameters without a gradient are neither decayed nor moved by momentum.

        Args:
          paths: (places,) drawn.
          old: parameters, and the state of their rule, before the step.
          new: the same after the step.
        """
        names = {f'k_{window}_e{e}': i for i, (window, e) in enumerate(self.space.candidates)}

        def chosen(path, before, after):
            keys = [str(getattr(entry, 'key', '')) for entry in path]
            for place, candidate in itertools.pairwise(keys):
                if candidate in names:
                    index = int(place.removeprefix('places.'))
                    return jnp.where(paths[index] == names[candidate], after, before)
            return after

        return jax.tree.map_with_path(chosen, old, new)
