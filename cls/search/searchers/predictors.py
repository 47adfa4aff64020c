"""Predictors of the accuracy of cells, from that of smaller ones: PNAS's MLP and LSTM, and a ridge.

Liu et al. 2018 (https://arxiv.org/abs/1712.00559), sections 4.3 and 5.2. The text was not available
to us: the predictors are from memory. The number of training steps and the batch size are ours, and
so is the ridge regression, a baseline.

Cells are integers (n, nodes, 4): two states of each node, then its two operations; -1 after the
last node of a cell. Predictions are accuracies from 0 to 1, (n,).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls.errors import UserError

Params = dict[str, Any]  # arrays of JAX or NumPy
Predict = Callable[[np.ndarray], np.ndarray]

EMBEDDING = HIDDEN = 100
BIAS = 1.8  # of the output: the first predictions are about sigmoid(1.8) = 0.86
BATCH = 32  # cells of a training step
CHUNK = 1024  # cells of one prediction


def mlp(params: Params, cells: jax.Array) -> jax.Array:
    """Two layers on the mean over nodes of their four embeddings, concatenated."""
    sums = [jnp.sum(hot, 1) @ table for hot, table in _tokens(params, cells)]
    x = jnp.concatenate(sums, 1).reshape(len(cells), -1) / jnp.sum(cells[..., :1] >= 0, 1)
    x = jax.nn.relu(x @ params['kernel_0'] + params['bias_0'])
    x = jax.nn.relu(x @ params['kernel_1'] + params['bias_1'])
    return _accuracy(params, x)


def lstm(params: Params, cells: jax.Array) -> jax.Array:
    """An LSTM that reads the decisions one by one; its last hidden state predicts."""
    tokens = jnp.concatenate([hot @ table for hot, table in _tokens(params, cells)], 2)
    tokens = tokens.reshape(len(cells), -1, EMBEDDING)
    lengths = jnp.sum(cells >= 0, (1, 2))
    cell = nn.OptimizedLSTMCell(HIDDEN, param_dtype=tokens.dtype, parent=None)
    reader = nn.RNN(cell, return_carry=True, parent=None)
    weights = {'params': {'cell': _flax_cell(params['kernel'], params['bias'])}}
    (_, hidden), _ = reader.apply(weights, tokens, seq_lengths=lengths)
    return _accuracy(params, hidden)


def _flax_cell(kernel: jax.Array, bias: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Returns flax's parameters of an LSTM cell with the gates in, forget, cell and out.

    Args:
      kernel: of inputs and hidden state, (EMBEDDING + HIDDEN, 4 * HIDDEN).
      bias: (4 * HIDDEN,).
    """
    cell = {}
    for gate, weights, offset in zip(
        'ifgo', jnp.split(kernel, 4, 1), jnp.split(bias, 4), strict=True
    ):
        of_inputs, of_hidden = jnp.split(weights, [EMBEDDING])
        cell |= {
            f'i{gate}': {'kernel': of_inputs},
            f'h{gate}': {'kernel': of_hidden, 'bias': offset},
        }
    return cell


def _tokens(params: Params, cells: jax.Array) -> Iterator[tuple[jax.Array, Any]]:
    """Yields one-hot vectors (n, nodes, 2, kinds) and their embeddings (kinds, EMBEDDING).

    First those of states, then those of operations. Vectors are zero after the last node.
    """
    for table, i in ((params['states'], cells[..., :2]), (params['operations'], cells[..., 2:])):
        yield jax.nn.one_hot(i, len(table)), table


def _accuracy(params: Params, x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(x @ params['kernel_out'] + params['bias_out'])[:, 0]


NETS = {'mlp': mlp, 'lstm': lstm}


def init(net: str, nodes: int, operations: int, members: int, rng: np.random.Generator) -> Params:
    """Returns the parameters of an ensemble, its members along their first axis.

    Embeddings are uniform from -0.1 to 0.1, the rest as TensorFlow's default initializers.
    """

    def uniform(inputs, outputs, bound):
        return rng.uniform(-bound, bound, (members, inputs, outputs)).astype(np.float32)

    def kernel(inputs, outputs):
        return uniform(inputs, outputs, np.sqrt(6 / (inputs + outputs)))

    def bias(*values):
        row = np.repeat(np.array(values, np.float32), HIDDEN if len(values) > 1 else 1)
        return np.tile(row, (members, 1))

    params: Params = {
        'states': uniform(1 + nodes, EMBEDDING, 0.1),
        'operations': uniform(operations, EMBEDDING, 0.1),
        'kernel_out': kernel(HIDDEN, 1),
        'bias_out': bias(BIAS),
    }
    if net == 'lstm':
        gates = kernel(EMBEDDING + HIDDEN, 4 * HIDDEN)
        return params | {'kernel': gates, 'bias': bias(0, 1, 0, 0)}
    zeros = np.zeros((members, HIDDEN), np.float32)
    params |= {'kernel_0': kernel(4 * EMBEDDING, HIDDEN), 'bias_0': zeros}
    return params | {'kernel_1': kernel(HIDDEN, HIDDEN), 'bias_1': zeros}


def loss(net: str, params: Params, cells: jax.Array, accuracies: jax.Array) -> jax.Array:
    """Returns the mean absolute error of a member's predictions."""
    return jnp.mean(jnp.abs(NETS[net](params, cells) - accuracies))


@functools.partial(jax.jit, static_argnums=0)
def trained(
    net: str, params: Params, cells: jax.Array, accuracies: jax.Array, rate: float
) -> Params:
    """Returns the parameters after steps of Adam.

    Args:
      net: 'mlp' or 'lstm'.
      params: parameters of all members.
      cells: a batch of each step and member, (steps, members, batch, nodes, 4).
      accuracies: their accuracies, (steps, members, batch).
      rate: the learning rate.
    """
    gradients = jax.vmap(jax.grad(functools.partial(loss, net)))
    adam = optax.adam(rate)

    def step(state, batch):
        params, moments = state
        updates, moments = adam.update(gradients(params, *batch), moments)
        return (optax.apply_updates(params, updates), moments), None

    state, _ = jax.lax.scan(step, (params, adam.init(params)), (cells, accuracies))
    fitted: Any = state[0]
    return fitted


def fit(
    net: str,
    cells: np.ndarray,
    accuracies: np.ndarray,
    operations: int,
    rng: np.random.Generator,
    *,
    members: int,
    steps: int,
    rate: float,
) -> Predict:
    """Trains an ensemble from scratch and returns the mean prediction of its members.

    Each of several members leaves another part of the cells out: of 5 members, each sees 4/5.

    Raises UserError for accuracies outside 0 to 1: a sigmoid cannot reach them.
    """
    wrong = [value for value in accuracies if not 0 <= value <= 1]
    if wrong:
        raise UserError(
            f'a fitness is {wrong[0]}: the predictors lstm and mlp are of accuracies from 0 to 1. '
            'Choose another config.search.objective, or ridge as config.search.searcher.predictor.'
        )
    params = init(net, cells.shape[1], operations, members, rng)
    parts = _parts(len(cells), members, rng)
    drawn = np.stack([_batches(part, steps, rng) for part in parts], 1)
    params = trained(net, params, cells[drawn], accuracies.astype(np.float32)[drawn], rate)
    return functools.partial(_predicted, net, params)


def _parts(count: int, members: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the indices of each member's training cells."""
    order = rng.permutation(count)
    for left_out in np.array_split(order, members) if 1 < members <= count else [[]] * members:
        yield np.setdiff1d(order, left_out)


def _batches(part: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Returns indices (steps, BATCH): all of the part in random order, again and again."""
    epochs = -(-steps * BATCH // len(part))
    order = np.concatenate([rng.permutation(part) for _ in range(epochs)])
    return order[: steps * BATCH].reshape(steps, BATCH)


def _predicted(net: str, params: Params, cells: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(cells), CHUNK):
        part = cells[start : start + CHUNK]
        padded = np.pad(part, ((0, CHUNK - len(part)), (0, 0), (0, 0)), 'edge')
        parts.append(np.asarray(_mean(net, params, padded))[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _mean(net: str, params: Params, cells: jax.Array) -> jax.Array:
    return jnp.mean(jax.vmap(NETS[net], (0, None))(params, cells), 0)


def fit_ridge(cells: np.ndarray, accuracies: np.ndarray, operations: int) -> Predict:
    """Returns the ridge regression, with a penalty of 1, on `features`."""
    x = features(cells, operations)
    x_mean, y_mean = x.mean(0), accuracies.mean()
    x = x - x_mean
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (accuracies - y_mean))
    return lambda cells: y_mean + (features(cells, operations) - x_mean) @ weights


def features(cells: np.ndarray, operations: int) -> np.ndarray:
    """Returns the number of nodes, and the frequency per node of each operation on each input.

    Inputs are of three kinds: the previous cell, the one before it, and a node.
    """
    nodes = (cells[..., :1] >= 0).sum(1)
    kinds = np.minimum(cells[..., :2], 2) * operations + cells[..., 2:]
    kinds[cells[..., :2] < 0] = -1
    counts = (kinds.reshape(len(cells), -1, 1) == np.arange(3 * operations)).sum(1)
    return np.hstack([nodes, counts / nodes])
