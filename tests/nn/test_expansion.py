"""Convolutions combined with their norms against the two of them, and where they are combined."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import jit

from cls import models
from cls.config import load as configs
from cls.nn import expansion, norm, residual
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.programs import abstract_batch
from cls.setup import set_up
from cls.steps import sharding
from cls.steps.sharding import batch_sharding, make_mesh
from cls.steps.train_step import make_train_step
from cls.tools.tpu import against

RNG = np.random.default_rng(5)
EPSILON = 1e-3
X = RNG.standard_normal((16, 3, 2, 3)) + [0, 1, -2]
KERNEL = RNG.standard_normal((3, 7))
SCALE, BIAS = RNG.uniform(-2, 2, 7), RNG.standard_normal(7)
ARGUMENTS = [np.float32(x) for x in (X, KERNEL, SCALE, BIAS)]


def cotangents(groups):
    shapes = (16, 3, 2, 7), (groups, 7), (groups, 7)
    rng = np.random.default_rng(6)
    return tuple(np.float32(rng.standard_normal(shape)) for shape in shapes)


def plainly(x, kernel, scale, bias, groups):
    """The definition."""
    product = x @ kernel
    grouped = product.reshape(groups, -1, 7)
    mean, var = grouped.mean(1), grouped.var(1)
    mean_of_each, var_of_each = (jnp.repeat(m, 16 // groups, 0)[:, None, None] for m in (mean, var))
    out = (product - mean_of_each) / jnp.sqrt(var_of_each + EPSILON) * scale + bias
    return out, mean, var


@pytest.mark.parametrize(('groups', 'devices'), [(1, 1), (1, 8), (8, 8)])
def test_values_and_gradients(groups, devices):
    mesh = make_mesh(1, jax.devices()[:devices])
    x = jax.device_put(ARGUMENTS[0], batch_sharding(mesh))

    @jit
    def ours(*args):
        def function(*args):
            return expansion.normalized(*args, groups, mesh, EPSILON, jnp.float32)

        out, undo = jax.vjp(function, *args)
        return out, undo(cotangents(groups))

    with jax.enable_x64(True):
        wide = [np.float64(x) for x in ARGUMENTS]
        expected, undo = jax.vjp(lambda *args: plainly(*args, groups), *wide)
        gradients = undo(tuple(np.float64(x) for x in cotangents(groups)))
    out, ours_back = ours(x, *ARGUMENTS[1:])
    for one, other in zip((*out, *ours_back), (*expected, *gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ('fields', 'group', 'devices', 'combined'),
    [
        ({}, 0, 1, True),
        ({}, 0, 8, True),
        ({}, 2, 8, True),
        ({}, 8, 1, False),  # two groups on a device
        ({}, 1, 8, False),
        ({}, 4, 8, False),  # half a group
        ({'window': 3}, 0, 1, False),
        ({'strides': 2}, 0, 1, False),
        ({'features': 7}, 0, 1, False),
        ({'groups': 2}, 0, 1, False),
        ({'padding': 1}, 0, 1, False),
        ({'use_bias': True}, 0, 1, False),
        ({'dtype': jnp.float32}, 0, 1, False),
    ],
)
def test_a_norm_is_combined_with(fields, group, devices, combined, monkeypatch):
    calls = spied(monkeypatch)
    fields = {'features': 8, 'dtype': jnp.bfloat16} | fields
    conv, norm = Conv(**fields), BatchNorm(True, group=group, dtype=fields['dtype'])
    x = jax.ShapeDtypeStruct((16, 4, 4, 4), jnp.bfloat16)

    def network(x):
        variables = conv.init(jax.random.key(0), x)
        y = conv.apply(variables, x)
        return norm.apply(norm.init(jax.random.key(1), y), y, mutable=['batch_stats'])

    with expansion.tracked(make_mesh(1, jax.devices()[:devices])):
        jax.eval_shape(network, x)
    assert bool(calls) == combined
    del calls[:]
    with expansion.tracked(None):
        jax.eval_shape(network, x)
    assert not calls


@pytest.mark.parametrize('distance', [0, 3, 30])
def test_the_variance_errs_less_than_bfloat16_rounds(distance):
    rng, mesh = np.random.default_rng(9), make_mesh(1, jax.devices()[:1])
    x = jnp.asarray(rng.standard_normal((64, 14, 14, 4)) + distance, jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((4, 8)), jnp.bfloat16)
    compute = jit(expansion.normalized, static_argnums=(4, 5, 6, 7))
    var = compute(x, kernel, jnp.ones(8), jnp.zeros(8), 1, mesh, EPSILON, jnp.bfloat16)[2]
    wide, matrix = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    product = wide @ matrix
    expected = product.var((0, 1, 2))
    error = np.abs(var[0] - expected)
    rounded = np.asarray(jnp.asarray(product, jnp.bfloat16), np.float64).var((0, 1, 2))
    assert error.max() < np.abs(rounded - expected).max()
    assert np.all(error < 1e-4 * expected)


@pytest.mark.parametrize('distance', [0, 3, 30])
def test_gradients_err_no_more_than_those_of_the_two_apart(distance):
    rng, mesh = np.random.default_rng(9), make_mesh(1, jax.devices()[:1])
    x = jnp.asarray(rng.standard_normal((64, 14, 14, 8)) + distance, jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((8, 16)), jnp.bfloat16)
    dout = jnp.asarray(rng.standard_normal((64, 14, 14, 16)), jnp.bfloat16)
    scale, bias = np.float32(rng.uniform(0.5, 2, 16)), np.zeros(16, np.float32)

    def combined(x, kernel):
        return expansion.normalized(x, kernel, scale, bias, 1, mesh, EPSILON, jnp.bfloat16)[0]

    def apart(x, kernel):
        guess = jnp.zeros(16)
        return norm._batch_norm(x @ kernel, scale, bias, guess, 1, EPSILON, jnp.bfloat16)[0]

    with jax.enable_x64(True):
        wide = [np.asarray(v, np.float64) for v in (x, kernel, dout)]

        def defined(x, kernel):
            product = x @ kernel
            mean, var = product.mean((0, 1, 2)), product.var((0, 1, 2))
            return (product - mean) / jnp.sqrt(var + EPSILON) * scale

        exact = [np.asarray(v) for v in jax.vjp(defined, *wide[:2])[1](wide[2])]

    def errors(function):
        back = jit(lambda x, kernel: jax.vjp(function, x, kernel)[1](dout))
        pairs = zip(back(x, kernel), exact, strict=True)
        return [np.linalg.norm(np.float64(a) - b) / np.linalg.norm(b) for a, b in pairs]

    for ours, theirs in zip(errors(combined), errors(apart), strict=True):
        assert ours < 1.1 * theirs


@pytest.mark.parametrize('group', [0, 2])
def test_a_block_in_bfloat16_errs_no_more(group):
    def gradients(dtype, mesh):
        norm = functools.partial(BatchNorm, True, group=group, dtype=dtype)
        block = residual.Bottleneck(
            8, 1, 0, functools.partial(Conv, dtype=dtype), norm, residual.option_b
        )
        x = np.random.default_rng(7).standard_normal((16, 6, 6, 8)).astype(np.float32)
        weights = np.random.default_rng(8).standard_normal((16, 6, 6, 32)).astype(np.float32)

        def loss(variables, x):
            with expansion.tracked(mesh):
                out, updated = block.apply(variables, x.astype(dtype), mutable=['batch_stats'])
            return jnp.sum(out * weights), updated

        @jit
        def compute(x):
            variables = block.init(jax.random.key(0), x)
            return jax.grad(loss, (0, 1), has_aux=True)(variables, x)

        return [np.float64(leaf) for leaf in jax.tree.leaves(compute(x))]

    exact = gradients(jnp.float32, None)

    def errors(mesh):
        pairs = zip(gradients(jnp.bfloat16, mesh), exact, strict=True)
        return np.array([np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs if y.any()])

    combined, plain = errors(make_mesh(1)), errors(None)
    assert not np.array_equal(combined, plain)
    assert np.linalg.norm(combined) < 1.1 * np.linalg.norm(plain) < 0.5


def spied(monkeypatch):
    """Returns a list of the calls of `normalized` from now on."""
    calls, normalized = [], expansion.normalized

    def spy(*args):
        calls.append(args)
        return normalized(*args)

    monkeypatch.setattr(expansion, 'normalized', spy)
    return calls


@pytest.mark.parametrize(
    ('name', 'count'),
    [
        ('resnet50', 17),  # the last convolution of each block, and the first shortcut
        ('mobilenet_v2', 17),  # the first convolution of 16 blocks, and the last of the network
        ('resnet18', 0),
    ],
)
def test_networks(name, count, monkeypatch):
    calls = spied(monkeypatch)
    model = models.create(name, num_classes=10, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda x: model.init(key, x, train=False), images)

    def forward(variables, images):
        rngs = {'dropout': key}
        return model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)

    with expansion.tracked(make_mesh(1, jax.devices()[:1])):
        jax.eval_shape(forward, variables, images)
    assert len(calls) == count


def test_seeds_that_train_together():
    """As an axis of the arrays, on one device."""
    mesh = make_mesh(1, jax.devices()[:1])

    def function(*args):
        return expansion.normalized(*args, 4, mesh, EPSILON, jnp.float32)[0]

    def gradients(function, *args):
        return jax.vjp(function, *args)[1](args[0][..., :1] + np.float32(SCALE))

    seeds = [np.stack([x, 2 * x + 1]) for x in ARGUMENTS]
    together = jit(functools.partial(gradients, jax.vmap(function)))(*seeds)
    alone = jit(functools.partial(gradients, function))
    for i in range(2):
        for x, y in zip(alone(*(x[i] for x in seeds)), together, strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('linen', 'count'), [(False, 17), (True, 0)])
def test_a_step_for_tpus(linen, count, monkeypatch):
    """Layers of flax.linen know of no convolution. Other devices have none to know of."""
    calls, tpus = spied(monkeypatch), [None]
    monkeypatch.setattr(sharding, 'of_tpus', lambda mesh: tpus[0])
    fields = (('data.name', 'synthetic'), ('data.num_classes', '10'), ('data.image_size', '64'))
    fields += (('batch', '4'), ('model.dtype', 'bfloat16'), ('model.bn_group', '0'))
    setup = set_up(configs.load('configs/resnet.py:imagenet2012', fields), jax.devices()[:1])
    state, optimizer = setup.new_state_shapes()

    def trace():
        where = batch_sharding(setup.mesh)
        step = make_train_step(setup.model, optimizer, setup.recipe, where)
        jax.eval_shape(step, state, abstract_batch(setup, 64))

    with against.linen() if linen else contextlib.nullcontext():
        trace()
        assert not calls
        tpus[0] = setup.mesh
        trace()
    assert len(calls) == count
