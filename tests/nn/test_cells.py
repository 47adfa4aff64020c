"""Cells: shapes, strides and gradients of all operations, and the graph against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.nn.cells import OPERATIONS, Cell, CellSpec, FactorizedReduction, Operation
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm

RNG = np.random.default_rng(3)
conv = functools.partial(Conv, padding='SAME')
train_norm = functools.partial(BatchNorm, True)
eval_norm = functools.partial(BatchNorm, False, epsilon=0.0)
KEY = jax.random.key(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize('strides', [1, 2])
@pytest.mark.parametrize('features', [8, 12])
@pytest.mark.parametrize('op', OPERATIONS)
def test_shapes(op, features, strides):
    layer = Operation(op, features, strides, conv, train_norm)
    for size in (6, 7):
        images = jax.ShapeDtypeStruct((2, size, size, 8), jnp.float32)
        out, _ = jax.eval_shape(lambda x, f=layer: f.init_with_output(KEY, x), images)
        half = -(-size // strides)
        assert out.shape == (2, half, half, features)


# Parameters by op, for 8 channels in and out at stride 1, and to 12 at stride 2.
COUNTS = {
    'identity': (0, 8 * 12 + 24),
    '1x1': (8 * 8 + 16, 8 * 12 + 24),
    '3x3': (
        8 * 2 + 4 + 9 * 2 * 2 + 4 + 2 * 8 + 16,
        8 * 3 + 6 + 9 * 3 * 3 + 6 + 3 * 12 + 24,
    ),
    **{
        f'1x{k}_{k}x1': (
            8 * 2 + 4 + 2 * (k * 2 * 2 + 4) + 2 * 8 + 16,
            8 * 3 + 6 + 2 * (k * 3 * 3 + 6) + 3 * 12 + 24,
        )
        for k in (3, 7)
    },
    **{
        f'sep_{k}x{k}': (
            2 * (k * k * 8 + 8 * 8 + 16),
            k * k * 8 + 8 * 12 + 24 + k * k * 12 + 12 * 12 + 24,
        )
        for k in (3, 5, 7)
    },
    'skip_connect': (0, 8 * 12 + 24),
    'nor_conv_3x3': (9 * 8 * 8 + 16, 9 * 8 * 12 + 24),
    **{f'dil_conv_{k}x{k}': (k * k * 8 + 8 * 8 + 16, k * k * 8 + 8 * 12 + 24) for k in (3, 5)},
    **dict.fromkeys(
        (*(f'max_{k}x{k}' for k in (2, 3, 5, 7)), 'max_3x3_zeros', 'avg_3x3', 'avg_3x3_zeros')
        + ('avg_pool_3x3', 'max_pool_3x3'),
        (0, 8 * 12 + 24),
    ),
}
COUNTS |= {f'sep_conv_{k}x{k}': COUNTS[f'sep_{k}x{k}'] for k in (3, 5)}


@pytest.mark.parametrize('op', OPERATIONS)
def test_parameters(op):
    images = jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    for (features, strides), expected in zip(((8, 1), (12, 2)), COUNTS[op], strict=True):
        layer = Operation(op, features, strides, conv, train_norm)
        params = jax.eval_shape(layer.init, KEY, images).get('params', {})
        assert sum(p.size for p in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize('op', ['1x1', '3x3', '1x7_7x1', 'sep_3x3', 'max_2x2'])
def test_every_parameter_gets_a_gradient(op):
    layer = Operation(op, 12, 2, conv, train_norm)
    images, cotangent = normal(4, 6, 6, 8), normal(4, 3, 3, 12)

    shapes = jax.eval_shape(layer.init, KEY, images)
    params = jax.tree.map(lambda p: normal(*p.shape), shapes['params'])
    stats = jax.tree.map(lambda p: np.zeros(p.shape), shapes['batch_stats'])

    def loss(params):
        variables = {'params': params, 'batch_stats': stats}
        return jnp.sum(layer.apply(variables, images, mutable=['batch_stats'])[0] * cotangent)

    for path, g in jax.tree_util.tree_leaves_with_path(jit(jax.grad(loss))(params)):
        assert np.all(np.isfinite(g)), path
        assert np.any(g != 0), path


@pytest.mark.parametrize(('size', 'features'), [(6, 8), (7, 7)])
def test_factorized_reduction(size, features):
    layer = FactorizedReduction(features, conv, eval_norm)
    images = normal(2, size, size, 5)
    variables = jit(layer.init)(KEY, images)
    half = features // 2
    first = np.asarray(variables['params']['path1_conv']['kernel'])[0, 0]
    second = np.asarray(variables['params']['path2_conv']['kernel'])[0, 0]
    assert first.shape == (5, half)
    assert second.shape == (5, features - half)
    out = -(-size // 2)
    expected = np.zeros((2, out, out, features))
    for i in range(out):
        for j in range(out):
            expected[:, i, j, :half] = images[:, 2 * i, 2 * j] @ first
            if 2 * i + 1 < size and 2 * j + 1 < size:
                expected[:, i, j, half:] = images[:, 2 * i + 1, 2 * j + 1] @ second
    np.testing.assert_allclose(jit(layer.apply)(variables, images), expected, rtol=1e-4, atol=1e-5)


def max_3x3(x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    n = x.shape[1]
    return np.max([padded[:, i : i + n, j : j + n] for i in range(3) for j in range(3)], 0)


SPEC = CellSpec(
    nodes=((('identity', 0), ('max_3x3', 1)), (('max_3x3', 2), ('identity', 1))), concat=(0, 3)
)


def cell_states(params, current, previous):
    """Returns (state 0, state 1) of a cell with identities as norms."""
    kernel = np.asarray(params['1x1']['kernel'])[0, 0]
    state0 = np.maximum(current, 0) @ kernel
    if previous is None:
        return state0, np.asarray(current)
    kernel = np.asarray(params['prev_1x1']['kernel'])[0, 0]
    return state0, np.maximum(previous, 0) @ kernel


@pytest.mark.parametrize('has_previous', [True, False])
def test_the_graph(has_previous):
    cell = Cell(SPEC, 4, 1, conv, eval_norm)
    current, previous = normal(2, 5, 5, 4), normal(2, 5, 5, 3) if has_previous else None
    variables = jit(cell.init)(KEY, current, previous)
    state0, state1 = cell_states(variables['params'], current, previous)
    state2 = state0 + max_3x3(state1)
    state3 = max_3x3(state2) + state1
    expected = np.concatenate([state0, state3], -1)
    out = jit(cell.apply)(variables, current, previous)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_drop_path_spares_identities():
    """At a rate of nearly 1 only the identities of the sums remain, DARTS's among them."""
    spec = CellSpec((SPEC.nodes[0], (('max_3x3', 2), ('skip_connect', 1))), SPEC.concat)
    cell = Cell(spec, 4, 1, conv, eval_norm)
    current, previous = normal(2, 5, 5, 4), normal(2, 5, 5, 3)
    variables = jit(cell.init)(KEY, current, previous)
    state0, state1 = cell_states(variables['params'], current, previous)

    @jit
    def apply(rate):
        return cell.apply(variables, current, previous, rate, rngs={'dropout': KEY})

    expected = np.concatenate([state0, state1], -1)
    np.testing.assert_allclose(apply(jnp.float32(0.9999)), expected, rtol=1e-4, atol=1e-5)
    complete = jit(cell.apply)(variables, current, previous)
    np.testing.assert_allclose(apply(jnp.float32(0)), complete, rtol=1e-5, atol=1e-5)
    assert np.abs(complete - expected).max() > 0.1


def test_drop_path_does_not_spare_an_identity_with_a_stride():
    cell = Cell(
        CellSpec(((('skip_connect', 0), ('skip_connect', 1)),), (2,)), 4, 2, conv, eval_norm
    )
    current, previous = normal(2, 6, 6, 4), normal(2, 6, 6, 3)
    variables = jit(cell.init)(KEY, current, previous)
    rngs = {'dropout': KEY}
    out = jit(cell.apply)(variables, current, previous, jnp.float32(0.9999), rngs=rngs)
    np.testing.assert_array_equal(out, np.zeros((2, 3, 3, 4)))


@pytest.mark.parametrize('always', [False, True])
def test_a_second_input_of_the_right_shape_is_projected_if_asked(always):
    cell = Cell(SPEC, 4, 1, conv, train_norm, always_project=always)
    images = jax.ShapeDtypeStruct((2, 5, 5, 4), jnp.float32)
    names = set(jax.eval_shape(cell.init, KEY, images, images)['params'])
    assert ('prev_1x1' in names) == always


@pytest.mark.parametrize(
    ('nodes', 'concat', 'pattern'),
    [
        ([('sep_33', 0), ('1x1', 1)], (2,), r"'sep_33'.*sep_3x3"),
        ([('§', 0), ('1x1', 1)], (2,), r"'§'.*identity, .*max_pool_3x3"),
        ([('1x1', 0), ('1x1', 2)], (2,), 'state 2 takes state 2: .* 0 to 1'),
        ([('1x1', -1), ('1x1', 1)], (2,), 'takes state -1'),
        ([('1x1', 0), ('1x1', 1)], (1, 3), r'0 to 2, not \(1, 3\)'),
        ([('1x1', 0), ('1x1', 1)], (), '0 to 2, not none'),
    ],
)
def test_a_cell_that_cannot_be_is_refused(nodes, concat, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        CellSpec((tuple(nodes),), concat)
    assert '\n' not in str(caught.value)


def test_a_reduction_brings_all_states_to_one_size():
    spec = CellSpec(((('max_3x3', 0), ('identity', 1)), (('max_2x2', 2), ('1x1', 0))), (1, 2, 3))
    cell = Cell(spec, 6, 2, conv, train_norm)
    current = jax.ShapeDtypeStruct((2, 7, 7, 5), jnp.float32)
    previous = jax.ShapeDtypeStruct((2, 14, 14, 4), jnp.float32)
    out, variables = jax.eval_shape(
        lambda c, p: cell.init_with_output(KEY, c, p), current, previous
    )
    assert out.shape == (2, 4, 4, 18)
    names = set(variables['params'])
    assert {'prev_reduction', 'reduction_1', '1x1', 'beginning_bn'} <= names
    assert 'comb_iter_0.left' not in names  # a pool of as many channels has no parameters
    assert 'comb_iter_0.right' in names  # an identity with a stride has
    first = jax.eval_shape(lambda c: cell.init_with_output(KEY, c, None)[0], current)
    assert first.shape == (2, 4, 4, 18)
