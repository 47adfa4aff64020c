"""Batch normalization against NumPy in float64, and on eight devices against one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.nn import norm
from cls.nn.norm import BatchNorm
from cls.steps.sharding import batch_sharding, make_mesh, replicated

RNG = np.random.default_rng(2)
SHAPE = (16, 3, 2, 5)
X = (RNG.standard_normal(SHAPE) * [1, 2, 3, 0.1, 5] + [0, 1, -2, 30, 4]).astype(np.float32)
WELL_CONDITIONED = X - np.float32([0, 0, 0, 30, 0])
SCALE, BIAS = RNG.uniform(0.5, 2, 5).astype(np.float32), np.float32([0, 1, 2, 3, 4])
MEAN, VAR = np.float32([1, 2, 3, 4, 5]), np.float32([0.5, 1, 2, 3, 4])
VARIABLES = {
    'params': {'scale': SCALE, 'bias': BIAS},
    'batch_stats': {'mean': MEAN, 'var': VAR},
}


@functools.partial(jit, static_argnums=0)
def train(layer, variables, x):
    out, updated = layer.apply(variables, x, mutable=['batch_stats'])
    return out, updated['batch_stats']


def by_numpy(x, epsilon, momentum, group):
    """Returns the output and the running statistics in float64."""
    groups = np.asarray(x, np.float64).reshape(-1, group, *x.shape[1:])
    out = []
    for g in groups:
        mean, var = g.mean((0, 1, 2)), g.var((0, 1, 2))
        out.append((g - mean) / np.sqrt(var + epsilon) * SCALE + BIAS)
    mean = np.mean([g.mean((0, 1, 2)) for g in groups], 0)
    var = np.mean([g.var((0, 1, 2), ddof=1) for g in groups], 0)
    stats = {
        'mean': momentum * MEAN + (1 - momentum) * mean,
        'var': momentum * VAR + (1 - momentum) * var,
    }
    return np.concatenate(out), stats


@pytest.mark.parametrize(('group', 'size'), [(0, 16), (16, 16), (8, 8), (4, 4), (1, 1)])
def test_training(group, size):
    layer = BatchNorm(True, momentum=0.7, epsilon=1e-3, group=group)
    out, stats = train(layer, VARIABLES, X)
    expected, expected_stats = by_numpy(X, 1e-3, 0.7, size)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-4)
    for name in ('mean', 'var'):
        np.testing.assert_allclose(stats[name], expected_stats[name], rtol=2e-5)


def test_without_scale_and_bias():
    layer = BatchNorm(True, momentum=0.7, epsilon=1e-3, affine=False)
    assert 'params' not in layer.init(jax.random.key(0), X)
    out, stats = train(layer, {'batch_stats': VARIABLES['batch_stats']}, X)
    expected, expected_stats = by_numpy(X, 1e-3, 0.7, 16)
    np.testing.assert_allclose(out * SCALE + BIAS, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(stats['var'], expected_stats['var'], rtol=2e-5)


def test_groups_are_consecutive_examples_normalized_separately():
    layer = BatchNorm(True, group=4)
    out, stats = train(layer, VARIABLES, X)
    parts = [train(BatchNorm(True), VARIABLES, X[i : i + 4]) for i in range(0, 16, 4)]
    np.testing.assert_allclose(out, np.concatenate([o for o, _ in parts]), rtol=1e-5, atol=1e-5)
    for name in ('mean', 'var'):
        averaged = np.mean([s[name] for _, s in parts], 0)
        np.testing.assert_allclose(stats[name], averaged, rtol=1e-5)
    assert np.abs(out - train(BatchNorm(True), VARIABLES, X)[0]).max() > 0.1


def test_evaluation_uses_running_statistics_and_does_not_update_them():
    layer = BatchNorm(False, epsilon=1e-3, group=4)
    out, updated = jit(lambda x: layer.apply(VARIABLES, x, mutable=['batch_stats']))(X[:5])
    expected = (X[:5].astype(np.float64) - MEAN) / np.sqrt(VAR + 1e-3) * SCALE + BIAS
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for name, value in (('mean', MEAN), ('var', VAR)):
        np.testing.assert_array_equal(updated['batch_stats'][name], value)


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('mean', [0, 30, 1e5])
@pytest.mark.parametrize('guess', [0, 1e5])
def test_moments_have_seven_digits_at_any_mean(guess, mean, groups):
    x = (mean + RNG.standard_normal((16, 5, 4, 3))).astype(np.float32)
    wide = x.astype(np.float64).reshape(groups, -1, 3)
    moments = jit(norm.moments, static_argnums=2)(x, jnp.full(3, guess), groups)
    for computed, expected in zip(moments, (wide.mean(1), wide.var(1)), strict=True):
        np.testing.assert_allclose(computed, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('distance', [0, 1, 3, 30])
def test_sums_about_a_guess_err_less_than_bfloat16_rounds(distance):
    """The form of the program for TPU."""
    exact = RNG.standard_normal((64, 14, 14, 4)) + 30
    x = jnp.asarray(exact, jnp.bfloat16)
    guess = jnp.full(4, 30 - distance)
    _, var = jit(norm._moments_about, static_argnums=2)(x, guess, 1)
    rounded = np.asarray(x, np.float64)
    expected = rounded.var((0, 1, 2))
    error = np.abs(var[0] / expected - 1).max()
    assert error < 5e-7 * (1 + distance**2)
    assert error < np.abs(expected / exact.var((0, 1, 2)) - 1).max() / 4


def test_vectors():
    layer = BatchNorm(True)
    x = X[:, 0, 0]
    variables = jit(layer.init)(jax.random.key(0), x)
    out = train(layer, variables, x)[0]
    expected = (x.astype(np.float64) - x.mean(0)) / np.sqrt(x.astype(np.float64).var(0) + 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


def test_init_does_not_count_as_a_batch():
    stats = jit(BatchNorm(True).init)(jax.random.key(0), X)['batch_stats']
    np.testing.assert_array_equal(stats['mean'], np.zeros(5))
    np.testing.assert_array_equal(stats['var'], np.ones(5))


@pytest.mark.parametrize('training', [True, False])
def test_bfloat16_activations_keep_float32_statistics(training):
    layer = BatchNorm(training, dtype=jnp.bfloat16)
    low = jnp.asarray(X, jnp.bfloat16)
    out, stats = train(layer, VARIABLES, low)
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype(jnp.float32)}
    if training:
        expected, expected_stats = by_numpy(np.asarray(low, np.float64), 1e-5, 0.9, 16)
        np.testing.assert_allclose(stats['var'], expected_stats['var'], rtol=1e-5)
        np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=0.05)


@pytest.mark.parametrize('group', [0, 4])
def test_gradients_are_those_of_finite_differences(group):
    size = group or 16
    cotangent = RNG.standard_normal(SHAPE)

    def value(x, scale, bias):
        """Returns the loss in float64, linear in scale and bias."""
        plain = (by_numpy(x, 1e-2, 0.9, size)[0] - BIAS) / SCALE
        return np.sum((plain * scale + bias) * cotangent)

    def loss(variables, x):
        out = BatchNorm(True, epsilon=1e-2, group=group).apply(
            variables, x, mutable=['batch_stats']
        )[0]
        return jnp.sum(out * cotangent.astype(np.float32))

    of_variables, of_x = jit(jax.grad(loss, (0, 1)))(VARIABLES, X)
    wide = X.astype(np.float64)
    for _ in range(6):
        direction = RNG.standard_normal(SHAPE)
        step = 1e-5 * direction
        slope = (value(wide + step, SCALE, BIAS) - value(wide - step, SCALE, BIAS)) / 2e-5
        assert np.sum(np.asarray(of_x, np.float64) * direction) == pytest.approx(
            slope, rel=1e-3, abs=2e-2
        )
    for name in ('scale', 'bias'):
        for channel in range(5):
            step = np.eye(5)[channel] * 1e-4
            up, down = (
                value(
                    wide,
                    *(
                        p + (sign * step if n == name else 0)
                        for n, p in (('scale', SCALE), ('bias', BIAS))
                    ),
                )
                for sign in (1, -1)
            )
            computed = of_variables['params'][name][channel]
            assert computed == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=2e-3)
    # Nothing flows through the running statistics.
    assert all(not np.any(g) for g in jax.tree.leaves(of_variables['batch_stats']))


def plain(x, scale, bias, groups, epsilon):
    """Returns output, means and variances by the definition, in the type of x."""
    grouped = x.reshape(groups, -1, x.shape[-1])
    mean = grouped.mean(1, keepdims=True)
    var = jnp.square(grouped - mean).mean(1, keepdims=True)
    out = (grouped - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return out.reshape(x.shape), mean[:, 0], var[:, 0]


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize(('dtype', 'rtol'), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.01)])
def test_gradients_are_those_of_the_definition(groups, dtype, rtol):
    """Also those that come through the moments, such as of a penalty on them."""
    x = jnp.asarray(WELL_CONDITIONED, dtype)
    weights = [RNG.standard_normal(shape) for shape in (SHAPE, (groups, 5), (groups, 5))]

    def loss(layer, *inputs):
        outputs = layer(*inputs)
        products = zip(weights, outputs, strict=True)
        return sum(jnp.sum(w * jnp.asarray(y, jnp.float32)) for w, y in products)

    def ours(x, scale, bias):
        return norm._batch_norm(x, scale, bias, jnp.zeros(5), groups, 1e-2, dtype)

    grads = jit(jax.grad(functools.partial(loss, ours), (0, 1, 2)))(x, SCALE, BIAS)
    definition = functools.partial(plain, groups=groups, epsilon=1e-2)
    inputs = (x.astype(jnp.float32), SCALE, BIAS)
    expected = jit(jax.grad(functools.partial(loss, definition), (0, 1, 2)))(*inputs)
    assert grads[0].dtype == dtype
    for computed, wanted in zip(grads, expected, strict=True):
        size = float(jnp.abs(wanted).max())
        np.testing.assert_allclose(computed.astype(jnp.float32), wanted, rtol, rtol * size)


@pytest.mark.parametrize('groups', [1, 4])
def test_second_derivatives_are_those_of_the_definition(groups):
    """Of a norm after a norm, as a gradient through a step of training has them."""
    x, direction = (
        jnp.asarray(WELL_CONDITIONED),
        jnp.asarray(RNG.standard_normal(SHAPE), jnp.float32),
    )

    def ours(x, scale, bias, groups, epsilon):
        return norm._batch_norm(x, scale, bias, jnp.zeros(5), groups, epsilon, jnp.float32)

    def curvature(layer):
        def loss(x, scale, bias):
            y, mean, var = layer(x, scale, bias, groups, 1e-2)
            y, *_ = layer(jnp.sin(y), scale, bias, groups, 1e-2)
            return jnp.sum(jnp.square(y) * direction) + jnp.sum(mean * var)

        def slope(x, scale, bias):
            grads = jax.grad(loss, (0, 1, 2))(x, scale, bias)
            return sum(jnp.sum(jnp.sin(g)) for g in grads)

        return jit(jax.grad(slope, (0, 1, 2)))(x, SCALE, BIAS)

    for computed, wanted in zip(curvature(ours), curvature(plain), strict=True):
        np.testing.assert_allclose(computed, wanted, 1e-3, 1e-4 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize('group', [3, 32])
def test_a_group_that_does_not_divide_the_batch(group):
    with pytest.raises(ValueError, match=f'16.*{group}'):
        jax.eval_shape(
            lambda: BatchNorm(True, group=group).apply(VARIABLES, X, mutable=['batch_stats'])
        )


# ------------------------------------------------------------------------------- many devices


def on(devices):
    mesh = make_mesh(1, jax.devices()[:devices])
    return batch_sharding(mesh), replicated(mesh)


@pytest.mark.parametrize('group', [0, 4, 2])
def test_eight_devices_are_as_one(group):
    """With 16 examples, two on each device, groups of 4 and 16 are on several devices."""
    layer = BatchNorm(True, group=group)

    def step(variables, x):
        def loss(variables, x):
            out, updated = layer.apply(variables, x, mutable=['batch_stats'])
            return jnp.sum(jnp.sin(out)), (out, updated)

        return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

    results = []
    for devices in (1, 8):
        split, copied = on(devices)
        args = jax.device_put(VARIABLES, copied), jax.device_put(WELL_CONDITIONED, split)
        results.append(jit(step)(*args))
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('group', 'is_reduced'), [(1, False), (2, False), (4, True), (0, True)])
def test_only_groups_on_several_devices_are_reduced_across_them(group, is_reduced):
    layer = BatchNorm(True, group=group)
    split, copied = on(8)

    def forward(variables, x):
        return layer.apply(variables, x, mutable=['batch_stats'])[0]

    compiled = (
        jit(forward, in_shardings=(copied, split), out_shardings=split)
        .lower(VARIABLES, X)
        .compile()
        .as_text()
    )
    assert ('all-reduce' in compiled) == is_reduced
    assert 'all-gather' not in compiled
