"""DARTS: alpha's gradient, and the step."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

from cls.config import load as configs
from cls.errors import UserError
from cls.search.supernets import darts
from cls.search.supernets.base import Architecture
from cls.setup import set_up
from cls.steps import sharding as meshes
from cls.steps.state import new_state
from cls.steps.train_step import Recipe
from cls.train import train_batches

RNG = np.random.default_rng(5)

# ------------------------------------------------------------------------------ the gradient


def test_the_gradient_of_quadratics_is_the_closed_form():
    """Losses w^2 c / 2 + w a b and (w' - t)^2 / 2 + d a: with w' = w - xi (c w + a b) - move."""
    w, a, b, c, d, t, xi, move = 0.7, -0.4, 1.3, 0.9, 0.2, 0.5, 0.1, 0.03

    def train_loss(w, a):
        return c * w**2 / 2 + w * a * b

    def held_loss(w, a):
        return (w - t) ** 2 / 2 + d * a

    found = {
        order: darts.hypergradient(
            order, train_loss, held_loss, lambda grad: w - xi * grad - move, w, a
        )
        for order in darts.ORDERS
    }
    ahead = w - xi * (c * w + a * b) - move
    second = d - xi * b * (ahead - t)
    assert found['first'] == pytest.approx(d, rel=1e-6)
    assert found['second'] == pytest.approx(second, rel=1e-5)
    assert found['fd'] == pytest.approx(second, rel=1e-4)
    assert abs(second - d) > 0.02


def smooth(seed):
    """Two losses of a small smooth network in float64, an SGD step of its weights, and a point."""
    rng = np.random.default_rng(seed)
    images, labels = rng.normal(size=(2, 20, 6)), rng.integers(4, size=(2, 20))
    shapes = {'one': (6, 8), 'two': (6, 8), 'out': (8, 4)}
    weights = {name: jnp.asarray(rng.normal(size=shape) / 2) for name, shape in shapes.items()}
    buffers = {name: jnp.asarray(rng.normal(size=shape) / 9) for name, shape in shapes.items()}
    alpha = jnp.asarray(rng.normal(size=(2, 3)))

    def loss(half, weights, alpha):
        x, mix = images[half], jax.nn.softmax(alpha)
        for row, name in zip(mix, ('one', 'two'), strict=True):
            y = jax.nn.silu(x @ weights[name])
            x = (row[0] * y + row[1] * jnp.tanh(y) + row[2] * y.mean(1, keepdims=True))[:, :8]
            x = x if name == 'two' else x @ weights['two'].T
        return optax.softmax_cross_entropy_with_integer_labels(
            x @ weights['out'], labels[half]
        ).mean()

    def update(grads):
        step = jax.tree.map(lambda g, b, w: g + 0.9 * b + 3e-4 * w, grads, buffers, weights)
        return jax.tree.map(lambda w, s: w - 0.5 * s, weights, step)

    return functools.partial(loss, 0), functools.partial(loss, 1), update, weights, alpha


def by_differences(function, alpha, radius=1e-5):
    """The gradient of a function of one array, by central differences."""
    found = np.zeros(alpha.shape)
    for place in np.ndindex(alpha.shape):
        move = np.zeros(alpha.shape)
        move[place] = radius
        found[place] = (function(alpha + move) - function(alpha - move)) / (2 * radius)
    return found


def test_each_order_is_what_central_differences_say():
    with jax.enable_x64(True):
        train_loss, held_loss, update, weights, alpha = smooth(1)

        @jit
        def gradients(alpha):
            given = train_loss, held_loss, update, weights, alpha
            found = {order: darts.hypergradient(order, *given) for order in darts.ORDERS}
            return found, darts.hypergradient('fd', *given, radius=1e-4)

        @jit
        def unrolled(alpha):
            return held_loss(update(jax.grad(train_loss)(weights, alpha)), alpha)

        found, near = gradients(alpha)
        second = by_differences(unrolled, alpha)
        first = by_differences(jit(functools.partial(held_loss, weights)), alpha)
    np.testing.assert_allclose(found['first'], first, atol=1e-9)
    np.testing.assert_allclose(found['second'], second, atol=1e-9)
    spread = np.abs(second).max()
    np.testing.assert_allclose(near, second, atol=1e-7 * spread)
    np.testing.assert_allclose(found['fd'], second, atol=1e-3 * spread)
    assert np.abs(second - first).max() > 0.02 * spread


@pytest.mark.sweep
def test_the_supernet_s_gradient_on_digits(monkeypatch):
    """In float64, with SiLU for ReLU and without max pools: kinks have no differences."""
    monkeypatch.setattr(nn, 'relu', nn.silu)
    monkeypatch.setattr(jnp, 'float32', jnp.float64)
    setup = set_up(configs.load('configs/search/darts.py', (('batch', '32'),)))
    batch = next(train_batches(setup))
    with jax.enable_x64(True):
        operations = ('none', 'avg_pool_3x3', 'skip_connect', 'sep_conv_3x3')
        net = darts.Net(3, 4, 1, operations, dtype=jnp.float64)
        variables = jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        weights, alpha = darts.split(variables['params'])
        alpha = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), alpha)

        def loss(weights, alpha, part):
            params = weights | {'alpha': alpha}
            logits, _ = net.apply(
                variables | {'params': params},
                (part['image'] - 78.0) / 96.0,
                train=True,
                mutable=['batch_stats'],
            )
            labels = part['label']
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        train_loss = functools.partial(loss, part=batch)
        held_loss = functools.partial(loss, part=batch['valid'])

        def update(grads):
            return jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads)

        def gradient(order):
            return darts.hypergradient(order, train_loss, held_loss, update, weights, alpha)

        @jit
        def values(alpha):
            ahead = update(jax.grad(train_loss)(weights, alpha))
            return jnp.array([held_loss(weights, alpha), held_loss(ahead, alpha)])

        along = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), alpha)
        ends = [values(optax.tree.add_scale(alpha, s * 1e-3, along)) for s in (1, -1)]
        first, second = map(float, (ends[0] - ends[1]) / 2e-3)
        gradients = {order: jit(gradient, static_argnums=0)(order) for order in darts.ORDERS}
        found = {order: float(optax.tree.vdot(g, along)) for order, g in gradients.items()}
    print(found, first, second)
    assert found['first'] == pytest.approx(first, rel=1e-4)
    assert found['second'] == pytest.approx(second, rel=1e-4)
    assert found['fd'] == pytest.approx(second, rel=1e-2)
    assert abs(second - first) > 1e-3 * abs(first)


# ---------------------------------------------------------------------------------- the step


class Toy(nn.Module):
    """An edge with two operations on an image's mean: x and tanh x, each with a row of weights."""

    operations = ('skip_connect', 'tanh')
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        rows = Architecture(1, 2, ('normal',), name='alpha')()['normal']
        kernel = self.param('kernel', nn.initializers.normal(), (2, 3))
        x = images.mean((1, 2))
        one, other = x * kernel[0], jnp.tanh(x) * kernel[1]
        mix = jax.nn.softmax(rows[0])
        return mix[0] * one + mix[1] * other

    def chosen(self, rows):
        return rows == rows.max()


def toy_loss(kernel, rows, images, labels):
    """The loss of `Toy` by NumPy."""
    mix = np.exp(rows[0]) / np.exp(rows[0]).sum()
    x = (images / 255).mean((1, 2))
    logits = mix[0] * x * kernel[0] + mix[1] * np.tanh(x) * kernel[1]
    top = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -top[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize('order', darts.ORDERS)
def test_two_steps_are_numpy_s(order):
    """Alpha first, by Adam, through an unclipped step with momentum and decay; then w."""
    config = configs.load('configs/search/darts.py')
    rate, momentum, decay, clip = 2.0, 0.9, 0.01, 0.05
    images = RNG.integers(256, size=(2, 8, 4, 4, 1)).astype(np.uint8)
    labels = RNG.integers(3, size=(2, 8)).astype(np.int32)
    batches = [{'image': x, 'label': y} for x, y in zip(images, labels, strict=True)]
    batch = batches[0] | {'valid': batches[1]}
    kernel, rows = RNG.normal(size=(2, 3)), RNG.normal(size=(1, 2))

    def rule(params, clip_norm=clip):
        clipped = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
        return optax.chain(clipped, optax.add_decayed_weights(decay), optax.sgd(rate, momentum))

    search, model = darts.Darts(order, lr=0.02, weight_decay=0.1), Toy()
    params = {'kernel': np.float32(kernel), 'alpha': {'normal': np.float32(rows)}}
    rules = search.optimizer(rule, params)
    state = new_state({'params': params}, rules, 0, False)
    recipe = dataclasses.replace(Recipe.from_config(config, 10, 1), mean=(0.0,), std=(255.0,))
    sharding = meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:1]))
    step = jit(search.make_train_step(model, rules, recipe, sharding))

    buffer, first, second = np.zeros((2, 3)), 0.0, 0.0
    pairs = [(x, y) for x, y in zip(images, labels, strict=True)]
    for count in (1, 2):
        state, metrics = step(state, batch)

        def ahead(rows, kernel=kernel, buffer=buffer):
            if order == 'first':
                return toy_loss(kernel, rows, *pairs[1])
            grad = by_differences(lambda k: toy_loss(k, rows, *pairs[0]), kernel)
            moved = kernel - rate * (momentum * buffer + grad + decay * kernel)
            return toy_loss(moved, rows, *pairs[1])

        grad = by_differences(ahead, rows, 1e-3) + 0.1 * rows
        first, second = 0.5 * first + 0.5 * grad, 0.999 * second + 0.001 * grad**2
        unbiased = first / (1 - 0.5**count), second / (1 - 0.999**count)
        rows = rows - 0.02 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        grad = by_differences(lambda k, rows=rows: toy_loss(k, rows, *pairs[0]), kernel)
        norm = np.sqrt((grad**2).sum())
        assert norm > clip
        buffer = momentum * buffer + grad * clip / norm + decay * kernel
        kernel = kernel - rate * buffer
        np.testing.assert_allclose(state.params['alpha']['normal'], rows, rtol=1e-3)
        np.testing.assert_allclose(state.params['kernel'], kernel, rtol=1e-4, atol=1e-5)
    mix = np.exp(rows) / np.exp(rows).sum()
    assert metrics['alpha_entropy'] == pytest.approx(-(mix * np.log(mix)).sum(), rel=1e-3)
    assert metrics['skips_normal'] == (rows[0, 0] > rows[0, 1])
    assert int(state.step) == 2


def test_an_order_that_is_not_there():
    with pytest.raises(UserError, match=r'order is .frist.\. Did you mean first\?'):
        darts.Darts('frist')
