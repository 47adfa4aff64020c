"""The extension's batch normalization and joined arrays against NumPy and against XLA's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

from cls.nn import norm
from cls.nn.concat import concat
from cls.nn.cpu import native_norm, vectors
from cls.nn.norm import BatchNorm
from cls.steps.joined import MOST, joined
from cls.steps.optim import OptimSpec, make_optimizer

RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def by_group(x, groups):
    return np.asarray(x, np.float64).reshape(groups, -1, x.shape[-1])


@pytest.mark.parametrize(
    ('shape', 'groups', 'dtype'),
    [
        ((4, 9, 7, 33), 1, 'float32'),
        ((6, 5, 5, 2048), 3, 'float32'),
        ((8, 10), 2, 'float32'),
        ((2, 70, 70, 16), 1, 'float32'),
        ((4, 8, 8, 5), 2, 'bfloat16'),
    ],
)
def test_sums_of_batch_norm_are_exact_at_a_large_mean(one_device, shape, groups, dtype):
    level = 0 if dtype == 'bfloat16' else 1e5
    x, dout = jnp.asarray(level + draw(*shape), dtype), jnp.asarray(draw(*shape), dtype)
    scale, channels = draw(shape[-1]), jnp.zeros(shape[-1])
    mean, var = norm.moments(x, channels, groups)
    wide, grads = by_group(x, groups), by_group(dout, groups)
    np.testing.assert_allclose(mean, wide.mean(1), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(var, wide.var(1), rtol=1e-5)
    factor, level, slope, dscale, dbias = norm._terms(dout, x, scale, mean, var, 1e-3)
    moved = wide - np.asarray(mean, np.float64)[:, None]
    inverse = 1 / np.sqrt(np.asarray(var, np.float64) + 1e-3)
    first, second = grads.sum(1), (grads * moved).sum(1)
    np.testing.assert_allclose(factor, inverse * scale, rtol=1e-6)
    np.testing.assert_allclose(level, -factor * first / wide.shape[1], rtol=1e-4, atol=1e-6)
    expected = -factor * inverse**2 * second / wide.shape[1]
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(dscale, (second * inverse).sum(0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(dbias, first.sum(0), rtol=1e-5, atol=1e-4)


def of_batch_norm(x, groups):
    """Returns output, statistics, gradients, and gradients of a norm of the gradients."""
    layer = BatchNorm(True, momentum=0.7, epsilon=1e-3, group=len(x) // groups)
    variables = {
        'params': {'scale': jnp.arange(1.0, 6), 'bias': jnp.arange(5.0)},
        'batch_stats': {'mean': jnp.arange(5.0), 'var': jnp.arange(2.0, 7)},
    }

    def loss(params, x):
        out, updated = layer.apply(variables | {'params': params}, x, mutable='batch_stats')
        return jnp.sum(jnp.sin(out)), (out, updated)

    def norm_of_gradient(params, x):
        grads, aux = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return optax.global_norm(grads), (grads, aux)

    function = jit(jax.grad(norm_of_gradient, (0, 1), has_aux=True))
    return function(variables['params'], x), function.lower(variables['params'], x).as_text()


@pytest.mark.parametrize('groups', [1, 2])
def test_batch_norm_agrees_with_xla(extension, monkeypatch, groups):
    x = draw(4, 3, 3, 5) + 2
    expected, none = of_batch_norm(x, groups)
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    jax.clear_caches()
    ours, program = of_batch_norm(x, groups)
    jax.clear_caches()
    for name in ('cls_norm_statistics', 'cls_norm_terms', 'cls_norm_running'):
        assert name in program
        assert name not in none
    for value, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-4, atol=1e-5)


def test_arrays_side_by_side_and_back(one_device):
    arrays = [draw(3), draw(2, 2), draw(1, 5, 1), draw(1)]
    together = jit(vectors.join)(arrays)
    np.testing.assert_array_equal(together, np.concatenate([np.ravel(x) for x in arrays]))
    shapes = [x.shape for x in arrays]
    for x, back in zip(arrays, vectors.split(together, shapes), strict=True):
        np.testing.assert_array_equal(x, back)
    with pytest.raises(ValueError, match='12 elements in the shapes, 13 in the vector'):
        vectors.split(together, shapes[:-1])


@pytest.mark.parametrize('pixels', [9, 999])  # by one thread, by all
def test_channels_side_by_side(one_device, pixels):
    x, y, z = (draw(2, pixels, 5, channels) for channels in (3, 1, 4))
    weights = draw(2, pixels, 5, 8)
    out, undo = jax.vjp(jax.jit(concat), x, y, z)
    np.testing.assert_array_equal(out, np.concatenate([x, y, z], -1))
    for value, wanted in zip(undo(weights), np.split(weights, [3, 4], -1), strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert 'cls_join' in jit(concat).lower(x, y, z).as_text()
    narrow = [v.astype(jnp.bfloat16) for v in (x, y)]
    assert concat(*narrow).dtype == jnp.bfloat16


RULES = {
    'sgd': {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1, 'decay_mask': 'all'},
    'rmsprop': {'weight_decay': 0.1, 'clip_norm': 0.5, 'bias_lr_mult': 2.0},
    'adam': {'freeze': 'bn1'},
    'adamw': {'weight_decay': 0.1, 'lookahead': 2},
    'lamb': {'weight_decay': 0.1},
    'lars': {'agc': 0.1},
    'adan': {},
}


@pytest.mark.parametrize('name', RULES)
def test_joined_updates_are_those_of_each_parameter(one_device, name):
    params = {f'bn{i}': {'scale': draw(4 + i % 3), 'bias': draw(4 + i % 3)} for i in range(5)} | {
        'conv': {'kernel': draw(3, 3, 4, 5), 'bias': draw(5)},
        'dense': {'kernel': draw(300, MOST // 200), 'bias': draw(MOST // 200)},
        'slope': draw(1),
    }
    spec = OptimSpec(name, lr=0.1, **RULES[name])
    heads = {'dense/kernel', 'dense/bias'}
    rule = make_optimizer(spec, lambda step: 0.1 / (1 + step), params, head=heads)

    def update(grads, state, params):
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, jax.tree.map(lambda x: 0.9 * x + 0.1, params)

    ours = theirs = (params, rule.init(params))
    plain, together = jit(update), jit(joined(update))
    for _ in range(3):
        grads = jax.tree.map(lambda x: draw(*x.shape), params)
        *ours, averages = together(grads, ours[1], ours[0])
        *theirs, expected = plain(grads, theirs[1], theirs[0])
    assert 'cls_split' in together.lower(grads, ours[1], ours[0]).as_text()
    assert jax.tree.structure((ours, averages)) == jax.tree.structure((theirs, expected))
    results = (jax.tree.leaves(x) for x in ((ours, averages), (theirs, expected)))
    for value, wanted in zip(*results, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_only_equal_expressions_of_the_same_scalars_are_joined(one_device):
    """Each expected number is of its own array and scalar: none is that of a neighbor."""
    arrays = [jnp.full(i + 1, float(i)) for i in range(6)]

    def function(arrays, a, b):
        odd = [a * x + 1 for x in arrays[1::2]]
        even = [b * x + 1 for x in arrays[::2]]
        crossed = [arrays[2] - 2 * (x * x) for x in (arrays[2], arrays[2] + 1)]
        signs = zip(arrays, (0.0, -0.0) * 3, strict=True)
        zeros = [x * jnp.broadcast_to(zero, x.shape) for x, zero in signs]
        return odd, even, crossed, [jnp.sum(x) for x in odd], [1 / x for x in zeros]

    inputs = arrays, jnp.float32(10), jnp.float32(100)
    ours = jit(joined(function))(*inputs)
    for value, wanted in zip(*map(jax.tree.leaves, (ours, function(*inputs))), strict=True):
        np.testing.assert_array_equal(value, wanted)
    program = jit(joined(function)).lower(*inputs).as_text()
    # Of the even ones, and of the zeros of each sign; the odd ones are summed.
    assert program.count('@cls_split(') == 3


def test_operations_with_derivatives_of_their_own_are_computed(one_device):
    """As in a rule of a user that has a softplus."""

    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda _, grad: (2 * grad,))

    def update(arrays):
        return [doubled(jax.nn.softplus(x)) + jax.nn.relu(x) for x in arrays]

    arrays = [draw(3), draw(2, 2), draw(300, MOST // 200)]
    results = zip(jit(joined(update))(arrays), update(arrays), strict=True)
    for value, wanted in results:
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_a_pixel_that_is_far_from_the_others_is_not_the_shift(one_device):
    x = np.full((1, 128, 128, 2), 0.1, np.float32)
    x[0, 64, 0] = 1e4
    mean, var = jit(functools.partial(native_norm.moments, groups=1))(x)
    np.testing.assert_allclose(mean[0], x.reshape(-1, 2).mean(0, np.float64), rtol=1e-4)
    np.testing.assert_allclose(var[0], x.reshape(-1, 2).var(0, np.float64), rtol=1e-4)
