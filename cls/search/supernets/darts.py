"""DARTS's search (Liu et al. 2019, https://arxiv.org/abs/1806.09055; code: quark0/darts).

Every edge of a cell has all operations, weighted by the softmax of its row of alpha. All cells of a
kind share alpha. A step first updates alpha by the gradient of the loss on held-out images, then
the weights by theirs on training images. Alpha's gradient is taken through the step of the weights
(`hypergradient`). At the end each node keeps its two strongest edges, each with its strongest
operation; `none` has a weight like the others, and is never kept.

States are numbered as in cls.nn.cells: the rows of alpha belong to node 0 from states 0 and 1, node
1 from states 0, 1, 2, and so on, 0 being the cell before.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from cls.errors import UserError, nearest
from cls.nn import init
from cls.nn.cells import CellSpec, FactorizedReduction, Genotype, Operation
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.search.spaces.cells import DARTSCells
from cls.search.supernets.base import ALPHA, Architecture, Method, SupernetSpec
from cls.steps.state import TrainState
from cls.steps.train_step import Recipe, augmented, make_loss, norms

OPERATIONS = ('none', *DARTSCells.operations)
ORDERS = ('first', 'second', 'fd')


# -------------------------------------------------------------------------------- the network


class Mixed(nn.Module):
    """The weighted sums of all operations, for all edges from one state together.

    For E edges the state's channels are repeated E times, and convolutions over all channels have E
    groups. Operations without parameters are computed only once for all edges. The network has a
    third of the operations of a network with separate edges, and compiles proportionally faster.
    """

    operations: tuple[str, ...]
    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    pool_norm: bool = True  # whether a norm follows a pool

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> list[jax.Array]:
        """Maps (N, H, W, C) to a (N, H', W', features) for each edge; weights (E, operations)."""
        count = len(weights)

        def conv(features, window, strides=1, *, groups=count, **options):
            return self.conv(features, window, strides, groups=groups, **options)

        repeated = jnp.tile(x, count)
        totals: list[Any] = [0.0] * count
        for op, of_edges in zip(self.operations, weights.T, strict=True):
            if op == 'none':  # zeros
                continue
            apply = functools.partial(Operation, op, strides=self.strides, norm=self.norm)
            if '_pool_' in op:
                y = apply(self.features, conv=self.conv, name=op)(x)
                outs = [self.norm(name=f'{op}_bn')(y) if self.pool_norm else y] * count
            elif op == 'skip_connect':
                edges = (
                    apply(self.features, conv=self.conv, name=f'{op}_{edge}')
                    for edge in range(count)
                )
                outs = [edge(x) for edge in edges]
            else:
                y = apply(count * self.features, conv=conv, name=op)(repeated)
                outs = jnp.split(y, count, -1)
            for edge, out in enumerate(outs):
                totals[edge] += of_edges[edge].astype(x.dtype) * out
        return totals


def first_row(node: int) -> int:
    """Returns alpha's row of the edge from state 0 to a node; those of other sources follow."""
    return node * (node + 3) // 2


class Cell(nn.Module):
    """A cell with all edges and operations."""

    nodes: int
    operations: tuple[str, ...]
    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, current: jax.Array, previous: jax.Array, weights: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features * nodes).

        Args:
          current: output of the cell before.
          previous: output of the cell before that, possibly twice as high and wide.
          weights: (edges, operations).
        """
        inputs = [self._projected(current, ''), self._adjusted(previous, current)]
        nodes: list[Any] = [0.0] * self.nodes
        for source in range(self.nodes + 1):
            state = inputs[source] if source < 2 else nodes[source - 2]
            strides = self.strides if source < 2 else 1
            targets = [node for node in range(self.nodes) if source < node + 2]
            edges = Mixed(
                self.operations,
                self.features,
                strides,
                self.conv,
                self.norm,
                name=f'from_{source}',
            )
            rows = np.array([first_row(node) + source for node in targets])
            for node, out in zip(targets, edges(state, weights[rows]), strict=True):
                nodes[node] += out
        return jnp.concatenate(nodes, -1)

    def _projected(self, x, prefix):
        x = self.conv(self.features, 1, name=f'{prefix}1x1')(nn.relu(x))
        return self.norm(name=f'{prefix}bn')(x)

    def _adjusted(self, previous, current):
        if previous.shape[2] == current.shape[2]:
            return self._projected(previous, 'prev_')
        reduce = FactorizedReduction(self.features, self.conv, self.norm, name='prev_reduction')
        return reduce(nn.relu(previous))


class Net(nn.Module):
    """The supernet: a stem, cells with reductions at a third and two thirds, a classifier.

    Norms of the cells have no scale and bias, which could undo the weights of alpha.
    """

    cells: int = 8
    filters: int = 16  # C, channels of a state before the first reduction
    nodes: int = 4
    operations: tuple[str, ...] = OPERATIONS
    num_classes: int = 10
    bn_group: int = 0
    bn_momentum: float = 0.9
    dtype: Any = jnp.float32

    @property
    def edges(self) -> int:
        """The number of edges of a cell."""
        return first_row(self.nodes)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        # PyTorch's initialization, as in the authors' code.
        kernel_init = init.VarianceScaling(1 / 3, 'fan_in', 'uniform')
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = functools.partial(
            BatchNorm, train, momentum=self.bn_momentum, group=self.bn_group, dtype=self.dtype
        )
        alpha = Architecture(self.edges, len(self.operations), name=ALPHA)()
        weights = {kind: jax.nn.softmax(rows) for kind, rows in alpha.items()}

        x = norm(name='stem.bn')(conv(3 * self.filters, 3, name='stem.conv')(images))
        outputs, features = [x, x], self.filters
        for i in range(self.cells):
            reduces = i in (self.cells // 3, 2 * self.cells // 3)
            features *= 2 if reduces else 1
            cell = Cell(
                self.nodes,
                self.operations,
                features,
                2 if reduces else 1,
                conv,
                functools.partial(norm, affine=False),
                name=f'cells.{i}',
            )
            x = cell(outputs[-1], outputs[-2], weights['reduce' if reduces else 'normal'])
            outputs = [outputs[-1], x]
        x = Dense(self.num_classes, dtype=self.dtype, name='classifier')(jnp.mean(x, (1, 2)))
        return x.astype(jnp.float32)

    def chosen(self, rows: jax.Array) -> jax.Array:
        """Returns the mask of the operations that a cell's alpha (edges, operations) chooses.

        Of equally strong ones it is the first.
        """
        real = np.array([op != 'none' for op in self.operations])
        weights = jnp.where(real, jax.nn.softmax(rows), -1)
        kept = []
        for node in range(self.nodes):
            strength = weights[first_row(node) : first_row(node + 1)].max(-1)
            kept.append(jnp.argsort(jnp.argsort(-strength)) < 2)
        best = jax.nn.one_hot(weights.argmax(-1), len(self.operations), dtype=bool)
        return jnp.concatenate(kept)[:, None] & best

    def genotype(self, alpha: dict[str, Any]) -> Genotype:
        """Returns the genotype derived from the architecture's parameters."""
        return Genotype(**{kind: self._cell(rows) for kind, rows in alpha.items()})

    def _cell(self, rows):
        chosen, nodes = np.asarray(self.chosen(rows)), []
        for node in range(self.nodes):
            edges = np.argwhere(chosen[first_row(node) : first_row(node + 1)])
            nodes.append(tuple((self.operations[op], int(source)) for source, op in edges))
        return CellSpec(tuple(nodes), tuple(range(2, self.nodes + 2)))


# ----------------------------------------------------------------------------------- the step


def hypergradient(
    order: str,
    train_loss: Callable[[Any, Any], jax.Array],
    held_loss: Callable[[Any, Any], jax.Array],
    update: Callable[[Any], Any],
    weights: Any,
    alpha: Any,
    radius: float = 0.01,
) -> Any:
    """Returns alpha's gradient of held_loss(w', alpha), w' being the weights after a step.

    Args:
      order: 'first' takes the weights before the step as w' (xi = 0 in the paper); 'second'
        differentiates through the step; 'fd' does so by the paper's difference of two gradients.
      train_loss: (weights, alpha) -> the loss of the weights.
      held_loss: (weights, alpha) -> the loss of alpha.
      update: gradient of train_loss by the weights -> w'.
      weights: before the step.
      alpha: the architecture's parameters.
      radius: 'fd': the norm of the weights' shift to either side (section 2.3: 0.01).
    """
    if order == 'first':
        return jax.grad(held_loss, 1)(weights, alpha)
    grad = jax.grad(train_loss)
    if order == 'second':
        return jax.grad(lambda alpha: held_loss(update(grad(weights, alpha)), alpha))(alpha)
    ahead, pull = jax.vjp(update, grad(weights, alpha))
    by_weights, direct = jax.grad(held_loss, (0, 1))(ahead, alpha)
    # The derivative of the loss by the gradient of the step: with SGD, -xi times by_weights.
    (toward,) = pull(by_weights)
    size = radius / jnp.maximum(optax.tree.norm(toward), 1e-30)
    plus, minus = (
        jax.grad(train_loss, 1)(optax.tree.add_scale(weights, sign * size, toward), alpha)
        for sign in (1, -1)
    )
    return jax.tree.map(lambda d, p, m: d + (p - m) / (2 * size), direct, plus, minus)


class Rules(NamedTuple):
    """The update rules: of the weights, of their step in alpha's gradient, and of alpha."""

    weights: optax.GradientTransformation
    unrolled: optax.GradientTransformation  # with the state of the weights' rule
    alpha: optax.GradientTransformation

    def init(self, params: Any) -> dict[str, Any]:
        """Returns the states of the two rules that have one."""
        weights, alpha = split(params)
        return {'weights': self.weights.init(weights), ALPHA: self.alpha.init(alpha)}


def split(params: Any) -> tuple[Any, Any]:
    """Returns (weights, alpha) of a supernet's params."""
    return {name: tree for name, tree in params.items() if name != ALPHA}, params[ALPHA]


@dataclasses.dataclass(frozen=True)
class Darts(Method):
    """The bilevel training: Adam with L2 for alpha, config.optim for the weights.

    As in the released code, the step in alpha's gradient has momentum and weight decay, and its
    gradient is not clipped. In contrast to it `second` is exact, one line with automatic
    differentiation; `fd` is the paper's. Batch norms keep the statistics of the weights' step.
    """

    order: str = 'second'
    lr: float = 3e-4
    b1: float = 0.5
    b2: float = 0.999
    weight_decay: float = 1e-3
    radius: float = 0.01  # fd, see `hypergradient`

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            hint = nearest(self.order, ORDERS) or f' Known: {", ".join(ORDERS)}.'
            raise UserError(f'config.search.supernet.order is {self.order!r}.{hint}')

    def prepared(
        self,
        spec: SupernetSpec,
        model: nn.Module,
        image_shape: tuple[int, int, int],
        to_steps: Callable[[str], int],
    ) -> 'Darts':
        """Returns this method, the same in all runs. Raises UserError without its table."""
        spec.rows()
        return self

    def worth(self, spec: SupernetSpec, genotype: Any, alpha: Any) -> dict[str, float]:
        if not (rows := spec.rows()):
            return {}
        truths = {name: row[spec.truth] for name, row in rows.items()}
        return {'truth': truths[genotype], 'truth_best': max(truths.values())}

    def optimizer(self, rule: Callable[..., Any], params: Any) -> Rules:
        weights, _ = split(params)
        alpha = optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.adam(self.lr, self.b1, self.b2)
        )
        return Rules(rule(weights), rule(weights, clip_norm=0.0), alpha)

    def make_train_step(
        self, model: nn.Module, optimizer: Rules, recipe: Recipe, batch_sharding: NamedSharding
    ) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
        """Returns train_step(state, batch), see the base class.

        It adds the metrics of `architecture_metrics` to the trainer's.
        """
        loss_fn = make_loss(model, recipe, batch_sharding)

        def train_step(state, batch):
            key = state.key()
            _, net_key = jax.random.split(key)  # as in cls.steps.train_step
            shown = augmented(recipe, batch, key, model, batch_sharding)
            held_key = jax.random.fold_in(key, 3)
            held = augmented(recipe, batch['valid'], held_key, model, batch_sharding)
            weights, alpha = split(state.params)
            rules = state.opt_state

            def loss(weights, alpha, images=shown):
                params = weights | {ALPHA: alpha}
                progress = state.step / recipe.total_steps
                return loss_fn(params, state.batch_stats, *images, net_key, progress)

            def value(weights, alpha, images):
                return loss(weights, alpha, images)[0]

            def update(grads):
                updates, _ = optimizer.unrolled.update(grads, rules['weights'], weights)
                return optax.apply_updates(weights, updates)

            train_loss, held_loss = (functools.partial(value, images=x) for x in (shown, held))
            toward = hypergradient(
                self.order, train_loss, held_loss, update, weights, alpha, self.radius
            )
            updates, alpha_state = optimizer.alpha.update(toward, rules[ALPHA], alpha)
            alpha = cast(Any, optax.apply_updates(alpha, updates))

            grads, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(weights, alpha)
            updates, weights_state = optimizer.weights.update(grads, rules['weights'], weights)
            moved: Any = optax.apply_updates(weights, updates)
            params = moved | {ALPHA: alpha}
            metrics |= norms(grads, params, batch_stats) | architecture_metrics(model, alpha)
            state = state.replace(
                step=state.step + 1,
                params=params,
                batch_stats=batch_stats,
                opt_state={'weights': weights_state, ALPHA: alpha_state},
            )
            return state, metrics

        return train_step


def architecture_metrics(model: nn.Module, alpha: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns metrics of alpha, float32 scalars.

    `alpha_entropy` is the mean entropy of an edge, in nats; `none` the mean weight of none;
    `skips_KIND` the number of skips in the derived cell.
    """
    weights = jax.nn.softmax(jnp.concatenate(list(alpha.values())))
    metrics = {
        'alpha_entropy': -jnp.mean(jnp.sum(weights * jnp.log(weights), -1)),
        'none': jnp.mean(weights[:, model.operations.index('none')])
        if 'none' in model.operations
        else jnp.zeros(()),
    }
    if 'skip_connect' in model.operations:
        skip = model.operations.index('skip_connect')
        for kind, rows in alpha.items():
            metrics[f'skips_{kind}'] = jnp.sum(model.chosen(rows)[:, skip]).astype(jnp.float32)
    return metrics
