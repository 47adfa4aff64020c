"""DARTS: alpha's gradient, the step, what is derived, the net of mixed operations, whole runs."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from compiling import FAST

from cls import models
from cls.config import genotype_files
from cls.config import load as configs
from cls.data import datasets
from cls.errors import UserError
from cls.models.registry import genotypes
from cls.nn.cells import Genotype, Operation
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.search.supernets import darts, nasbench201, report
from cls.search.supernets.base import Architecture
from cls.setup import set_up
from cls.steps import sharding as meshes
from cls.steps.state import new_state
from cls.steps.train_step import Recipe
from cls.train import train_batches

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(5)
jit = functools.partial(jax.jit, compiler_options=FAST)

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
    """Two losses of a small smooth net in float64, an SGD step of its weights, and a point."""
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
        variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
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
        held_loss = functools.partial(loss, part=batch['held'])

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
    """An edge of two operations on an image's mean: x and tanh x, each with a row of weights."""

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
    """Alpha first, by Adam, through a step with momentum and decay that is not clipped; then w."""
    config = configs.load('configs/search/darts.py')
    rate, momentum, decay, clip = 2.0, 0.9, 0.01, 0.05
    images = RNG.integers(256, size=(2, 8, 4, 4, 1)).astype(np.uint8)
    labels = RNG.integers(3, size=(2, 8)).astype(np.int32)
    batches = [{'image': x, 'label': y} for x, y in zip(images, labels, strict=True)]
    batch = batches[0] | {'held': batches[1]}
    kernel, rows = RNG.normal(size=(2, 3)), RNG.normal(size=(1, 2))

    def rule(params, clip_norm=clip):
        clipped = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
        return optax.chain(clipped, optax.add_decayed_weights(decay), optax.sgd(rate, momentum))

    search, model = darts.Darts(order, lr=0.02, weight_decay=0.1), Toy()
    params = {'kernel': np.float32(kernel), 'alpha': {'normal': np.float32(rows)}}
    rules = search.optimizer(rule, params)
    state = new_state({'params': params}, rules, 0, False)
    recipe = dataclasses.replace(Recipe.of(config, 10, 1), mean=(0.0,), std=(255.0,))
    sharding = meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:1]))
    step = jax.jit(search.make_train_step(model, rules, recipe, sharding))

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


# -------------------------------------------------------------------------------- derivation


def logits(*rows):
    """Alpha whose softmax has these weights."""
    return jnp.log(jnp.array(rows))


def test_derivation_by_hand():
    """Node 0 takes both; node 1 drops the edge whose best after none is the weakest."""
    net = darts.Net(nodes=2, operations=('none', 'max_pool_3x3', 'skip_connect', 'sep_conv_3x3'))
    normal = logits(
        (0.97, 0.01, 0.015, 0.005),
        (0.1, 0.2, 0.3, 0.4),
        (0.7, 0.1, 0.1, 0.1),  # none is its largest, and what is behind it the least
        (0.6, 0.05, 0.05, 0.3),  # none again, but the rest is enough
        (0.1, 0.5, 0.2, 0.2),
    )
    reduce = logits(
        (0.25, 0.3, 0.2, 0.25),
        (0.25, 0.2, 0.2, 0.35),
        (0.1, 0.2, 0.45, 0.25),
        (0.0, 0.55, 0.4, 0.05),
        (0.0, 0.4, 0.2, 0.4),
    )
    found = net.genotype({'normal': normal, 'reduce': reduce})
    assert found.normal.nodes == (
        (('skip_connect', 0), ('sep_conv_3x3', 1)),
        (('sep_conv_3x3', 1), ('max_pool_3x3', 2)),
    )
    assert found.reduce.nodes == (
        (('max_pool_3x3', 0), ('sep_conv_3x3', 1)),
        (('skip_connect', 0), ('max_pool_3x3', 1)),
    )
    assert found.normal.concat == found.reduce.concat == (2, 3)
    found = darts.architecture_metrics(net, {'normal': normal, 'reduce': reduce + 1e-30})
    assert (found['skips_normal'], found['skips_reduce']) == (1, 1)
    assert found['none'] == pytest.approx((0.97 + 0.1 + 0.7 + 0.6 + 0.1 + 0.6) / 10, rel=1e-5)


def test_strength_is_a_weight_not_a_logit():
    """The larger logit may be the smaller part of its edge."""
    net = darts.Net(nodes=2, operations=('skip_connect', 'sep_conv_3x3'))
    rows = jnp.array([(1.0, 0.0)] * 2 + [(5.0, 4.9), (0.0, 1.0), (1.0, 0.0)])
    assert net.genotype({'normal': rows, 'reduce': rows}).normal.nodes[1] == (
        ('sep_conv_3x3', 1),
        ('skip_connect', 2),
    )


def test_what_is_derived_trains_and_is_kept_as_json(tmp_path):
    net = darts.Net()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        alpha = {kind: rng.normal(size=(14, 8)) for kind in ('normal', 'reduce')}
        found = net.genotype(alpha)
        edges = [edge for node in found.normal.nodes for edge in node]
        assert len(edges) == 8
        assert 'none' not in {op for op, _ in edges}
        assert genotypes.structure(genotypes.plain(found), Genotype) == found
    genotype_files.save(found, tmp_path / 'found.json')
    small = {'stage_sizes': (1, 1), 'filters': 4, 'aux_head': False}
    plain = genotype_files.load(tmp_path / 'found.json')
    model = models.create('darts_v2_cifar', genotype=plain, **small)
    assert model.genotype == found
    assert models.abstract_variables(model, 8)['params']


# ----------------------------------------------------------------------------------- the net


def test_edges_are_the_sum_of_their_operations():
    """Each operation on its own, with its part of the parameters; at stride 2 identities learn."""
    operations = ('none', 'max_pool_3x3', 'skip_connect', 'sep_conv_3x3', 'dil_conv_5x5')
    norm = functools.partial(BatchNorm, True, affine=False)
    mixed = darts.Mixed(operations, 4, 2, Conv, norm)
    x = jnp.asarray(RNG.normal(size=(3, 6, 6, 4)), jnp.float32)
    mix = jax.nn.softmax(jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32))
    params = jax.eval_shape(mixed.init, jax.random.key(0), x, mix)['params']
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), params)

    def part(name, edge):
        if name == 'skip_connect':
            return params[f'skip_connect_{edge}']
        return jax.tree.map(lambda p: p[..., 4 * edge : 4 * edge + 4], params.get(name, {}))

    @jit
    def both(x):
        together, _ = mixed.apply({'params': params}, x, mix, mutable=['batch_stats'])
        alone = []
        for edge in (0, 1):
            total = 0
            for op, weight in zip(operations[1:], mix[edge, 1:], strict=True):
                layer = Operation(op, 4, 2, Conv, norm)
                y, _ = layer.apply({'params': part(op, edge)}, x, mutable=['batch_stats'])
                if op == 'max_pool_3x3':
                    y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
                total += weight * y
            alone.append(total)
        return together, alone

    for found, expected in zip(*both(x), strict=True):
        assert found.shape == (3, 3, 3, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sizes_of_the_paper():
    """14 edges of 8 operations; norms of cells do not learn; two cells reduce; 1.93 M weights."""
    variables = models.abstract_variables(models.create('darts_supernet'), 32)
    params = variables['params']
    assert {kind: x.shape for kind, x in params['alpha'].items()} == {
        'normal': (14, 8),
        'reduce': (14, 8),
    }
    names = {'/'.join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)}
    assert {n for n in names if 'scale' in n or 'bias' in n} == {
        'stem.bn/scale',
        'stem.bn/bias',
        'classifier/bias',
    }
    reduces = [i for i in range(8) if 'skip_connect_0' in params[f'cells.{i}']['from_0']]
    assert reduces == [2, 5]
    weights, _ = darts.split(params)
    assert sum(x.size for x in jax.tree.leaves(weights)) == 1_930_618


def test_nasbench201_s_edges_and_names(tmp_path):
    """Where all edges skip, node 3 gets x + x + 2x; argmax counts none; a name is of the table."""
    net = nasbench201.Net(cells=1, filters=2)
    x = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    shapes = models.abstract_variables(net, 4)
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)
    skips = jnp.full((6, 5), -1e9).at[:, 1].set(0.0)
    variables['params']['alpha']['normal'] = skips
    _, seen = jit(functools.partial(net.apply, capture_intermediates=True, mutable=True))(
        variables, x
    )
    seen = seen['intermediates']
    stem = seen['stem.bn']['__call__'][0]
    for source, times in enumerate((1, 1, 2)):
        for out in seen[f'stage1.0.from_{source}']['__call__'][0]:
            np.testing.assert_allclose(out, times * stem, rtol=1e-6)
    assert net.genotype({'normal': skips}) == '111111'
    assert net.genotype({'normal': jnp.eye(6, 5)}) == '012340'
    assert net.chosen(skips).sum(0).tolist() == [0, 6, 0, 0, 0]

    table = tmp_path / 'table.csv'
    table.write_text('ops,c10_test_200ep\n111111,54.3\n333333,93.5\n')
    config = configs.load(
        'configs/search/darts.py:nasbench201',
        (
            ('search.table', str(table)),
            ('data.name', 'digits'),
            ('data.mean', '(78.0,)'),
            ('data.std', '(96.0,)'),
        ),
    )
    setup = dataclasses.replace(set_up(config), model=net)
    logged = {'step': 1, 'train/alpha_entropy': 1.5, 'train/top1': 20.0}
    (tmp_path / 'metrics.jsonl').write_text(json.dumps(logged) + '\n')
    result = setup.supernet.finish(setup, {'alpha': {'normal': skips}}, tmp_path)
    assert result == {'genotype': '111111', 'truth': 54.3, 'truth_best': 93.5}
    assert json.loads((tmp_path / 'genotype.json').read_text()) == '111111'
    for name in ('cell.png', 'curve.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')


# ------------------------------------------------------------------------------------ a run

TINY = (
    ('model.cells', '2'),
    ('model.nodes', '1'),
    ('model.filters', '4'),
    ('model.operations', "('none', 'skip_connect', 'sep_conv_3x3')"),
    ('batch', '16'),
    ('duration', '12 steps'),
    ('log_every', '1 steps'),
    ('eval.every', ''),
    ('checkpoint.every', '3 steps'),
    ('checkpoint.keep', '9'),
)


def test_both_streams_continue_where_they_were():
    setup = set_up(configs.load('configs/search/darts.py', (('batch', '48'), *TINY[5:])))
    assert (len(setup.train), len(setup.test)) == (721, 721)
    batches = train_batches(setup)
    seen = [next(batches) for _ in range(17)]
    assert batches.get_state() == {'step': 17}
    batches.close()
    again = train_batches(setup)
    again.set_state({'step': 15})
    for batch in seen[15:]:
        for name, array in jax.tree.leaves_with_path(next(again)):
            there = functools.reduce(lambda tree, key: tree[key.key], name, batch)
            np.testing.assert_array_equal(array, there)
    again.close()
    whole = datasets.load(configs.load('configs/resnet.py').data, 'train')
    halves = np.concatenate([half.take(np.arange(721))[0] for half in (setup.train, setup.test)])
    np.testing.assert_array_equal(halves, whole.take(np.arange(1442))[0])


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('search.table', 'nowhere.csv', "there is no table 'nowhere.csv'"),
        ('accumulate', '2', 'config.accumulate is 2: the training of a supernet takes 1'),
        ('ema', '0.9', 'config.ema is 0.9'),
        ('model.nods', '3', 'has no field'),
    ],
)
def test_mistakes(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('configs/search/darts.py', ((field, value),)))


def run(workdir, environment):
    fields = [f'--config.{name}={value}' for name, value in TINY]
    command = [sys.executable, '-m', 'cls.main', '--config', 'configs/search/darts.py', *fields]
    return subprocess.Popen(
        [*command, f'--workdir={workdir}'],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.sweep
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    environment = kept | {'CLS_CACHE_DIR': str(tmp_path / 'cache'), 'PYTHONUNBUFFERED': '1'}
    environment['XLA_FLAGS'] = ' '.join(f'--{name}={int(on)}' for name, on in FAST.items())
    whole = run(tmp_path / 'whole', environment)
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    assert f'--config.model.genotype={tmp_path}/whole/genotype.json' in output

    killed = run(tmp_path / 'killed', environment)
    for line in killed.stdout:
        if 'step 7/' in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.1)
    assert not (tmp_path / 'killed' / 'result.json').exists()
    resumed = run(tmp_path / 'killed', environment)
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output

    def final(name):
        folder = tmp_path / name / 'checkpoints' / '12' / 'state'
        return ocp.StandardCheckpointer().restore(folder.absolute())

    jax.tree.map(np.testing.assert_array_equal, final('whole'), final('killed'))
    files = [(tmp_path / name / 'genotype.json').read_text() for name in ('whole', 'killed')]
    assert files[0] == files[1]
    result = json.loads((tmp_path / 'killed' / 'result.json').read_text())
    assert result['genotype'] == json.loads(files[0])
    assert result['restarts'] == 1
    assert 0 <= result['validation/top1'] <= 100
    assert (result['split'], 'test/top1' in result) == ('train[50%:]', False)
    told = report.read(tmp_path / 'killed')
    assert told['genotype'] == result['genotype']
    assert (tmp_path / 'killed' / 'curve.png').exists()
    genotypes.structure(result['genotype'], Genotype)
