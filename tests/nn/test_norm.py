"""Batch normalization against NumPy in float64, and on eight devices against one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls.nn.norm import BatchNorm
from cls.steps.sharding import batch_sharding, make_mesh, replicated

RNG = np.random.default_rng(2)
SHAPE = (16, 3, 2, 5)
X = (RNG.standard_normal(SHAPE) * [1, 2, 3, 0.1, 5] + [0, 1, -2, 30, 4]).astype(np.float32)
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


def test_a_large_mean_does_not_cancel():
    x = (1e4 + RNG.standard_normal((8, 4, 4, 5))).astype(np.float32)
    out, _ = train(BatchNorm(True), VARIABLES, x)
    expected, _ = by_numpy(x, 1e-5, 0.9, 8)
    np.testing.assert_allclose(out, expected, atol=0.01)


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

    x = X - np.float32([0, 0, 0, 30, 0])  # well conditioned
    results = []
    for devices in (1, 8):
        split, copied = on(devices)
        args = jax.device_put(VARIABLES, copied), jax.device_put(x, split)
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
