"""ProxylessNAS's search (Cai et al. 2019, https://arxiv.org/abs/1812.00332).

The supernet has all candidates in each place for a block, and computes one of them: a path is drawn
with the probabilities p, the softmax of the place's alpha. Steps of the weights on training images
alternate with steps of alpha on held-out ones, in which the weights stay. Gates stand before the
paths, 1 for the one that is drawn and 0 for others; alpha learns by dL/dg, as if the gates were p
(equation 4). In mode

  two        two paths are drawn, and only they computed and learned from (section 3.2);
  full       all are computed; the authors' code has this as well;
  reinforce  alpha climbs the reward of nets that are drawn (section 3.3.2).

What a net costs is the sum of what its layers do (cls.search.latency), and the expected cost of the
supernet, sum_j p_j F(o_j) over its places, differentiable (section 3.3).

Hyperparameters are those of the authors' code (github.com/mit-han-lab/proxylessnas, search/). There
a place in which no block is drawn does not learn in that step; here, as in the paper, it does.
Statistics of norms are those of the weights' steps.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from cls.errors import UserError, nearest
from cls.nn.inverted import Run
from cls.search import latency
from cls.search.spaces.proxylessnas import ProxylessNAS as Space
from cls.search.supernets.base import ALPHA, Supernet, check
from cls.search.supernets.darts import split
from cls.search.supernets.proxyless_net import Net, masked
from cls.steps.state import TrainState
from cls.steps.train_step import Recipe, augmented, make_loss, norms

MODES = ('two', 'full', 'reinforce')
LOSSES = ('mul#log', 'add#linear', '')


# ------------------------------------------------------------------------- paths, gates, costs


def draw(key: jax.Array, logits: jax.Array, count: int = 1) -> jax.Array:
    """Returns (places, count) paths drawn without replacement by (places, choices) logits."""
    noise = jax.random.gumbel(key, logits.shape)  # the largest sums are such draws
    return jax.lax.top_k(logits + noise, count)[1]


class Gates(NamedTuple):
    """Gates of paths, of (places, K) each."""

    values: jax.Array  # 1 for the path that is drawn, 0 for others; their gradient is that of p
    probabilities: jax.Array  # p among these paths


def binarised(logits: jax.Array, drawn: jax.Array) -> Gates:
    """Returns the gates of paths of which one is drawn.

    Args:
      logits: (places, K) alpha of the paths; of those that are not there -inf.
      drawn: (places,) which of them, from 0.
    """
    p = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(drawn, logits.shape[-1])
    return Gates(hard + p - jax.lax.stop_gradient(p), p)


def rescaled(old: jax.Array, new: jax.Array, paths: jax.Array) -> jax.Array:
    """Returns alpha after a step such that the probabilities of other paths are as before.

    Args:
      old: (places, choices) before the step.
      new: after it; it moved the paths alone.
      paths: (places, K).
    """
    was, now = (
        jax.nn.logsumexp(jnp.take_along_axis(alpha, paths, 1), 1, keepdims=True)
        for alpha in (old, new)
    )
    moved = jnp.put_along_axis(jnp.zeros_like(old), paths, was - now, 1, inplace=False)
    return new + moved


@dataclasses.dataclass(frozen=True)
class Costs:
    """What nets of a supernet cost."""

    fixed: float  # layers that all have
    candidates: np.ndarray  # (places, choices); 0 for none

    def expected(self, shares: jax.Array, paths: jax.Array | None = None) -> jax.Array:
        """Returns the cost of paths (places, K) that have shares (places, K).

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
    whole = latency.layers((first, *net.space.places), *shape)
    places = whole[2:-2]
    candidates = np.zeros((len(places), net.space.none + 1))
    for i, layer in enumerate(places):
        for j, (window, expansion) in enumerate(net.space.candidates):
            other = dataclasses.replace(layer, window=window, expansion=expansion)
            candidates[i, j] = cost(other)
    return Costs(sum(map(cost, (*whole[:2], *whole[-2:]))), candidates)


# ----------------------------------------------------------------------------------- the step


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
    """What is published of the training; see Training for what becomes of it in a run.

    In the warm-up the weights alone learn, with paths drawn evenly. Raises UserError for unknown
    names.
    """

    mode: str = 'two'
    warmup: str = '25 percent'  # the authors: 40 of 160 epochs
    rest: str = '1 epochs'  # after the warm-up, before alpha's first step
    every: int = 5  # steps of the weights for a step of alpha
    lr: float = 1e-3  # Adam's
    b1: float = 0.0
    b2: float = 0.999
    weight_decay: float = 0.0
    cost_loss: str = 'mul#log'  # | add#linear | '': alpha does not learn of the cost
    reference: float = 80.0  # cost that is aimed at: of the table, or thousands of multiply-adds
    scale: float = 0.2  # mul#log: scale * L (log E / log reference)^power
    power: float = 0.3
    penalty: float = 0.1  # add#linear: L + penalty (E - reference) / reference
    samples: int = 10  # reinforce: nets for a step of alpha
    tradeoff: float = 0.1  # reinforce: the reward is accuracy (reference / cost)^tradeoff
    baseline: float = 0.99  # reinforce: by how much the baseline goes to the mean reward

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

    def prepared(self, setup: Any) -> 'Training':
        """Returns the training in a run's setup.

        Raises UserError for a config that does not suit, and a table without one of the layers.
        """
        check(setup.config)
        if not isinstance(setup.model, Net) or setup.config.eval.precise_bn:
            raise UserError(
                f'config.model.name is {setup.config.model.name!r}, config.eval.precise_bn '
                f'{setup.config.eval.precise_bn}: this search trains proxyless_supernet, with 0.'
            )
        table = setup.config.search.table
        cost = latency.measured(Path(table)) if table else latency.multiply_adds
        size, _, channels = setup.info.image_shape
        warmup = setup.steps(self.warmup)
        costs = costs_of(setup.model, size, channels, cost)
        return Training(self, setup.model.space, costs, warmup, warmup + setup.steps(self.rest))

    def with_cost(self, loss: jax.Array, cost: jax.Array) -> jax.Array:
        """Returns what alpha is to lower, of the loss on images and the expected cost."""
        if self.cost_loss == 'mul#log':
            return self.scale * loss * (jnp.log(cost) / np.log(self.reference)) ** self.power
        if self.cost_loss == 'add#linear':
            return loss + self.penalty * (cost - self.reference) / self.reference
        return loss

    def reward(self, accuracy: jax.Array, cost: jax.Array) -> jax.Array:
        """Returns what a net is worth to REINFORCE; accuracy from 0 to 1."""
        return accuracy * (self.reference / cost) ** self.tradeoff


# (alpha, paths, gates) -> what make_loss's function returns, of held-out images
Held = Callable[[jax.Array, jax.Array | None, jax.Array | None], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Training(Supernet):
    """The training of a supernet in a run."""

    options: ProxylessNAS
    space: Space
    costs: Costs
    warmup: int  # steps
    begin: int  # the step from which on alpha learns

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

        Metrics beside the trainer's are those of `path_metrics`.
        """
        loss_fn = make_loss(model, recipe, batch_sharding)
        sharp = dataclasses.replace(recipe, label_smoothing=0.0)
        held_fn = make_loss(model, sharp, batch_sharding)

        def train_step(state, batch):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
            _, net_key = jax.random.split(key)  # as in cls.steps.train_step
            held_key, path_key, alpha_key = (jax.random.fold_in(key, n) for n in (3, 4, 5))
            seen = augmented(recipe, batch, key, model)
            held = augmented(recipe, batch['held'], held_key, model)
            progress = state.step / recipe.total_steps
            weights, alpha = split(state.params)
            rules = state.opt_state

            logits = self.masked(jnp.where(state.step < self.warmup, 0.0, alpha))
            paths = draw(path_key, logits)

            def loss(weights):
                params = weights | {ALPHA: alpha}
                return loss_fn(params, state.batch_stats, *seen, net_key, progress, paths=paths)

            grads, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(weights)
            updates, weights_state = optimizer.weights.update(grads, rules['weights'], weights)
            weights, weights_state = self.others_stay(
                paths[:, 0],
                (weights, rules['weights']),
                (optax.apply_updates(weights, updates), weights_state),
            )

            def held_loss(alpha, paths, gates):
                params = weights | {ALPHA: alpha}
                given = {'paths': paths, 'gates': gates}
                return held_fn(params, batch_stats, *held, net_key, progress, **given)

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
            nets = jax.vmap(draw, (0, None))(keys, logits)
            rewards = jax.lax.map(lambda paths: self.reward(held, alpha, paths), nets)
            toward, baseline = self.reinforced(alpha, nets[..., 0], rewards, baseline)
        else:
            if self.options.mode == 'two':
                paths = draw(path_key, logits, 2)
                logits = jnp.take_along_axis(logits, paths, 1)
            drawn = jax.random.categorical(drawn_key, logits)
            toward = jax.grad(self.gated)(alpha, held, drawn, paths)
        updates, alpha_state = rule.update(toward, rules[ALPHA], alpha)
        moved = optax.apply_updates(alpha, updates)
        if paths is not None:
            moved = rescaled(alpha, moved, paths)
        return moved, rules | {ALPHA: alpha_state, 'baseline': baseline}

    def masked(self, alpha: jax.Array) -> jax.Array:
        """Returns alpha with -inf for choices that a place does not have."""
        return masked(alpha, self.space.counts)

    def gated(
        self, alpha: jax.Array, held: Held, drawn: jax.Array, paths: jax.Array | None = None
    ) -> jax.Array:
        """Returns what alpha is to lower; its gradient is that of equation 4, and of the cost.

        Args:
          alpha: (places, choices).
          held: the loss on images.
          drawn: (places,) the path whose gate is 1, as an index of `paths`.
          paths: (places, K) that are computed; None: all.
        """
        logits = self.masked(alpha)
        if paths is not None:
            logits = jnp.take_along_axis(logits, paths, 1)
        gates = binarised(logits, drawn)
        loss, _ = held(jax.lax.stop_gradient(alpha), paths, gates.values)
        return self.options.with_cost(loss, self.costs.expected(gates.probabilities, paths))

    def reward(self, held: Held, alpha: jax.Array, paths: jax.Array) -> jax.Array:
        """Returns what the net of (places, 1) paths is worth."""
        _, (_, metrics) = held(alpha, paths, None)
        cost = self.costs.expected(jnp.ones(paths.shape), paths)
        return self.options.reward(metrics['top1'] / 100, cost)

    def reinforced(
        self, alpha: jax.Array, nets: jax.Array, rewards: jax.Array, baseline: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns REINFORCE's gradient, to be descended, and the new baseline, which is in it.

        Args:
          alpha: (places, choices).
          nets: (samples, places) paths.
          rewards: (samples,).
          baseline: of the steps before; -1: there were none.
        """
        mean = rewards.mean()
        step = jnp.where(baseline < 0, 1.0, self.options.baseline)
        baseline += step * (mean - baseline)

        def climbed(alpha):
            logs = jax.nn.log_softmax(self.masked(alpha))
            of_nets = jax.vmap(lambda paths: logs[jnp.arange(len(paths)), paths].sum())(nets)
            return -((rewards - baseline) * of_nets).mean()

        return jax.grad(climbed)(alpha), baseline

    def path_metrics(self, alpha: jax.Array) -> dict[str, jax.Array]:
        """Returns what alpha has come to, float32 scalars.

        `alpha_entropy` is the mean entropy of a place, in nats; `cost` the expected cost,
        `cost_chosen` that of the net that would be derived, and `none` the places without a block
        in it.
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

    def finish(self, setup: Any, params: Any, workdir: Path) -> dict[str, Any]:
        """Writes the derived genotype; the result says of it what it costs too."""
        cost = float(self.path_metrics(params[ALPHA])['cost_chosen'])
        return super().finish(setup, params, workdir) | {'cost': cost}

    def worth(self, search: Any, genotype: Any) -> dict[str, float]:
        return {}

    def others_stay(self, paths: jax.Array, old: Any, new: Any) -> Any:
        """Returns trees after a step, but as before it for candidates that were not drawn.

        As in PyTorch, what has no gradient is neither decayed nor moved by its momentum.

        Args:
          paths: (places,) drawn.
          old: parameters, and the state of their rule, before the step.
          new: after it.
        """
        names = {f'k_{window}_e{e}': i for i, (window, e) in enumerate(self.space.candidates)}

        def chosen(path, before, after):
            keys = [getattr(entry, 'key', None) for entry in path]
            for place, candidate in itertools.pairwise(keys):
                if candidate in names:
                    at = int(place.removeprefix('places.'))
                    return jnp.where(paths[at] == names[candidate], after, before)
            return after

        return jax.tree.map_with_path(chosen, old, new)
