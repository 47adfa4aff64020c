"""ProxylessNAS: costs, space, gates and their gradients, REINFORCE, the supernet, the step."""

import dataclasses
import functools
import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from compiling import jit

from cls import models
from cls.config import load as configs
from cls.errors import UserError
from cls.models.proxylessnas import CPU, GPU, MOBILE
from cls.models.registry import genotypes
from cls.models.registry.complexity import complexity
from cls.models.registry.init import init
from cls.nn.inverted import Genotype, blocks, scaled
from cls.search import latency
from cls.search.spaces.proxylessnas import ProxylessNAS as Space
from cls.search.supernets import proxyless_paths, proxylessnas
from cls.search.supernets.proxyless_paths import Costs
from cls.search.supernets.proxylessnas import ProxylessNAS, Training
from cls.setup import set_up
from cls.steps import sharding as meshes
from cls.steps.state import new_state
from cls.steps.train_step import Recipe

RNG = np.random.default_rng(3)
# Two places with two blocks; the first has no shortcut, the second may also be empty.
TINY = Space(8, (8,), (2,), (2,), (3,), (3, 6))


# -------------------------------------------------------------------------------------- costs


def test_a_table_made_by_hand(tmp_path):
    """The first two layers, a block with a shortcut, and the last two."""
    net = (('r1_k3_s1_e1_o8',), ('r1_k5_s1_e6_o8',))
    shapes = {
        'Conv-input:8x8x1-output:4x4x16': 1,
        'expanded_conv-input:4x4x16-output:4x4x8-expand:1-kernel:3-stride:1-idskip:0': 20,
        'expanded_conv-input:4x4x8-output:4x4x8-expand:6-kernel:5-stride:1-idskip:1': 300,
        'Conv_1-input:4x4x8-output:4x4x32': 4000,
        'Logits-input:4x4x32-output:10': 50000,
    }
    file = tmp_path / 'table.yaml'
    file.write_text(
        yaml.safe_dump({key: {'mean': mean, 'var': 9.0} for key, mean in shapes.items()})
    )
    runs = [run for _, run in blocks(scaled(Genotype(net)))]
    cost = latency.measured(file)
    assert sum(map(cost, latency.layers(runs, 8, 1, 16, 32, 10))) == 54321
    with pytest.raises(UserError, match='has no Conv-input:16x16x1-output:8x8x16.* Did you mean'):
        cost(latency.layers(runs, 16, 1, 16, 32, 10)[0])
    file.write_text('[1, 2]')
    with pytest.raises(UserError, match='not a table of latencies'):
        latency.measured(file)
    with pytest.raises(UserError, match='there is no table'):
        latency.measured(tmp_path / 'nowhere.yaml')


@pytest.mark.parametrize(('name', 'classes'), [('mobile', 1000), ('gpu', 10)])
def test_multiply_adds_are_those_that_are_counted(name, classes):
    model = models.create(f'proxyless_{name}', num_classes=classes)
    runs = [run for _, run in blocks(scaled(model.genotype))]
    shape = (224, 3, model.stem_features, model.head_features, classes)
    found = sum(map(latency.multiply_adds, latency.layers(runs, *shape)))
    assert found * 1000 == pytest.approx(complexity(model, 224).macs, rel=1e-9)


@pytest.mark.tables
def test_the_authors_table():
    """A13: sums of all networks with the same block everywhere, in milliseconds."""
    folder = os.environ.get('CLS_NASDATA', '')
    if not folder:
        pytest.skip('CLS_NASDATA, the folder with tables of trained architectures, is not set')
    cost = latency.measured(Path(folder) / 'proxyless_lut' / 'mobile_trim.yaml')
    costs = proxyless_paths.costs_of(proxylessnas.Net(), 224, 3, cost)
    sums = costs.fixed + costs.candidates.sum(0)
    expected = [76.05, 136.47, 87.72, 158.95, 103.67, 191.03]  # by window, then expansion
    np.testing.assert_allclose(sums[:-1], expected, atol=0.01)


def test_the_gradient_of_the_expected_cost():
    """dE/dalpha_j = p_j (F_j - E[F]) for each place."""
    costs = Costs(2.0, RNG.uniform(1, 5, (3, 4)))
    alpha = jnp.asarray(RNG.normal(size=(3, 4)))
    p = np.asarray(jax.nn.softmax(alpha))
    mean = (p * costs.candidates).sum(1, keepdims=True)
    found = jax.grad(lambda alpha: costs.expected(jax.nn.softmax(alpha)))(alpha)
    np.testing.assert_allclose(found, p * (costs.candidates - mean), rtol=1e-4, atol=1e-6)
    assert costs.expected(p) == pytest.approx(2 + mean.sum(), rel=1e-6)


# -------------------------------------------------------------------------------------- space


def test_the_authors_space():
    space = Space()
    assert space.size == 6**6 * 7**15
    assert space.places[0].strides == 2 and not space.places[0].skip
    assert [place.features for place in space.places] == [24] * 4 + [40] * 4 + [80] * 4 + [
        96
    ] * 4 + [192] * 4 + [320]


@pytest.mark.parametrize(
    ('net', 'first', 'widths'),
    [
        (MOBILE, 16, (32, 40, 80, 96, 192, 320)),
        (CPU, 24, (32, 48, 88, 104, 216, 360)),
        (GPU, 24, (32, 56, 112, 128, 256, 432)),
    ],
)
def test_published_models(net, first, widths):
    """Codes and genotypes correspond, and codes differ in the positions of empty places."""
    space = Space(first, widths)
    code = space.code(net)
    space.check(code)
    assert space.genotype(code) == net
    assert genotypes.structure(genotypes.plain(net), Genotype) == space.key(code)


def test_the_gpu_model_s_code():
    """Figure 4 by hand: windows and expansions of blocks, 6 for no block."""
    code = Space(24, (32, 56, 112, 128, 256, 432)).code(GPU)
    assert code == (2, 6, 6, 6, 4, 0, 6, 6, 5, 2, 6, 6, 3, 0, 2, 6, 5, 5, 5, 3, 5)


def test_models_of_the_space_are_built():
    space = Space(16, (24, 40), (2, 2), (2, 1))
    for seed in range(5):
        code = space.sample(np.random.default_rng(seed))
        net = models.create(
            'proxyless_mobile', genotype=genotypes.plain(space.genotype(code)), num_classes=10
        )
        assert space.genotype(space.code(net.genotype)) == space.genotype(code)
        assert models.abstract_variables(net, 16)['params']
    for stages in ((('r1_k3_s1_e1_o8',),), (('r1_k3_s1_e1_o16',), ('r1_k9_s2_e3_o24',))):
        with pytest.raises(ValueError):
            space.code(Genotype(stages))


# -------------------------------------------------------------------------------------- gates


def training(space=TINY, costs=None, **options):
    """The training of a supernet of a space, without warm-up."""
    costs = costs or Costs(1.0, np.zeros((len(space.counts), space.none + 1)))
    return Training(ProxylessNAS(**options), space, costs, 0, 0)


def linear(values):
    """A loss: the sum of gates times (places, choices) values."""

    def held(alpha, paths, gates):
        here = values if paths is None else jnp.take_along_axis(values, paths, 1)
        return (gates * here).sum(), None

    return held


def exact(p, values):
    """The gradient by alpha of sum_j p_j values_j, for one place."""
    return p * (values - (p * values).sum())


def average_of_two(search, alpha, values, place):
    """The expected gradient of mode two for one place, over all pairs and drawn paths."""
    p = np.asarray(jax.nn.softmax(search.masked(alpha)), float)[place]
    gradient = jit(lambda paths, drawn: jax.grad(search.gated)(alpha, linear(values), drawn, paths))
    total = np.zeros(len(p))
    for a, b in itertools.permutations(np.flatnonzero(p), 2):
        paths = jnp.zeros((len(alpha), 2), int).at[:, 1].set(1).at[place].set(jnp.array([a, b]))
        for drawn in (0, 1):
            chance = p[a] * p[b] / (1 - p[a]) * p[(a, b)[drawn]] / (p[a] + p[b])
            total += chance * np.asarray(gradient(paths, jnp.full(len(alpha), drawn))[place])
    return p, total


def test_two_paths_of_two_are_exact():
    """With two choices the gates' average gradient is that of the expected loss."""
    alpha, values = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(RNG.normal(size=(2, 3)))
    p, found = average_of_two(training(cost_loss=''), alpha, values, 0)
    np.testing.assert_allclose(found, exact(p, np.asarray(values[0])), rtol=1e-4, atol=1e-6)
    assert p[2] == found[2] == 0


def test_two_paths_of_three_are_the_weighted_pairs():
    """Each pair has the part of the exact gradient that its probability gives it."""
    alpha, values = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(RNG.normal(size=(2, 3)))
    p, found = average_of_two(training(cost_loss=''), alpha, values, 1)
    expected, v = np.zeros(3), np.asarray(values[1])
    for a, b in itertools.permutations(range(3), 2):
        drawn = p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b]))
        expected[a] += drawn * p[a] * p[b] / (p[a] + p[b]) ** 2 * (v[a] - v[b])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found - exact(p, v)).max() > 1e-3


@pytest.mark.parametrize('drawn', [(0, 0), (1, 2)])
def test_all_paths_are_exact_whichever_is_drawn(drawn):
    alpha, values = jnp.asarray(RNG.normal(size=(2, 3))), jnp.asarray(RNG.normal(size=(2, 3)))
    search = training(cost_loss='')
    found = jax.grad(search.gated)(alpha, linear(values), jnp.array(drawn))
    p = np.asarray(jax.nn.softmax(search.masked(alpha)))
    for place in (0, 1):
        np.testing.assert_allclose(
            found[place], exact(p[place], np.asarray(values[place])), rtol=1e-4, atol=1e-6
        )
    value, _ = linear(values)(alpha, None, jax.nn.one_hot(jnp.array(drawn), 3))
    assert search.gated(alpha, linear(values), jnp.array(drawn)) == pytest.approx(value)


def test_draws_without_replacement():
    """The first draw follows p, the second the rest of p; a missing choice is never drawn."""
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2, 0.0]]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    pairs = np.asarray(jax.vmap(lambda key: proxyless_paths.draw(key, logits, 2))(keys))[:, 0]
    for a, b in itertools.permutations(range(3), 2):
        p = np.exp(np.asarray(logits[0]))
        share = np.mean((pairs == (a, b)).all(1))
        assert share == pytest.approx(p[a] * p[b] / (1 - p[a]), abs=0.015)
    assert pairs.max() == 2


def test_a_step_of_two_leaves_other_paths_probabilities():
    space = Space(8, (8,), (2,), (2,))
    search = training(space, cost_loss='', lr=0.1)
    alpha = jnp.asarray(RNG.normal(size=(2, 7)), jnp.float32)
    rule = search.optimizer(lambda weights: None, {'alpha': alpha}).alpha
    values = jnp.asarray(RNG.normal(size=(2, 7)), jnp.float32)
    key = jax.random.key(4)
    state = {'alpha': rule.init(alpha), 'baseline': np.float32(-1)}
    moved, after = jit(lambda a, s: search.learn(rule, linear(values), key, a, s))(alpha, state)
    before, now = (jax.nn.softmax(search.masked(a)) for a in (alpha, moved))
    for place in (0, 1):
        changed = np.abs(now[place] - before[place]) > 1e-6
        assert changed.sum() == 2
        pair = np.flatnonzero(changed)
        better = pair[values[place][pair].argmin()]
        assert now[place][better] > before[place][better]
    assert after['baseline'] == -1


# ------------------------------------------------------------------------------ loss and cost


def test_the_paper_s_losses():
    loss, cost = jnp.float32(2.0), jnp.float32(100.0)
    mul = ProxylessNAS().with_cost(loss, cost)
    assert mul == pytest.approx(0.2 * 2 * (np.log(100) / np.log(80)) ** 0.3, rel=1e-5)
    add = ProxylessNAS(cost_loss='add#linear').with_cost(loss, cost)
    assert add == pytest.approx(2 + 0.1 * 20 / 80, rel=1e-6)
    assert ProxylessNAS(cost_loss='').with_cost(loss, cost) == 2
    reward = ProxylessNAS(mode='reinforce').reward(jnp.float32(0.5), cost)
    assert reward == pytest.approx(0.5 * 0.8**0.1, rel=1e-6)


def test_more_weight_of_the_cost_makes_models_cheaper():
    """Costly blocks are better: without a penalty the costliest; with it, the cost falls."""
    space = Space(8, (8, 16), (3, 3), (2, 2))
    price = np.array([1.0, 2, 1.5, 3, 2, 4, 0])
    costs = Costs(2.0, np.tile(price, (6, 1)) * (np.array(space.counts)[:, None] > np.arange(7)))
    held = linear(jnp.asarray(-0.3 * np.sqrt(costs.candidates)))

    def final(penalty):
        search = training(space, costs, cost_loss='add#linear', penalty=penalty, reference=10.0)

        def step(alpha, _):
            return alpha - jax.grad(search.gated)(alpha, held, jnp.zeros(6, int)), None

        alpha, _ = jax.lax.scan(step, jnp.zeros((6, 7)), None, 2000)
        return search.path_metrics(alpha)

    ends = [jit(functools.partial(final, penalty))() for penalty in (0.0, 0.5, 1.0, 2.0, 8.0)]
    found = [float(end['cost']) for end in ends]
    assert found[0] == pytest.approx(2 + 6 * 4, rel=0.03)
    assert all(later < sooner for sooner, later in itertools.pairwise(found))
    assert ends[0]['cost_chosen'] == 2 + 6 * 4
    assert ends[-1]['none'] == sum(place.skip for place in space.places)


@pytest.mark.parametrize(('baseline', 'part'), [(0.3, 0.99), (-1.0, 1.0)])
def test_reinforce_climbs_the_expected_reward(baseline, part):
    """The mean over all batches of two networks; the baseline includes them."""
    search = training(mode='reinforce', samples=2)
    alpha = jnp.asarray(RNG.normal(size=(2, 3)))
    nets = np.array(list(itertools.product(range(2), range(3))))
    rewards = RNG.uniform(size=len(nets))

    def expected(alpha):
        p = jax.nn.softmax(search.masked(alpha))
        return (p[0][nets[:, 0]] * p[1][nets[:, 1]] * rewards).sum()

    p = np.asarray(jax.nn.softmax(search.masked(alpha)))
    chances = p[0][nets[:, 0]] * p[1][nets[:, 1]]
    pairs = np.array(list(itertools.product(range(len(nets)), repeat=2)))
    gradients, baselines = jit(
        jax.vmap(lambda n, r: search.reinforced(alpha, n, r, jnp.float32(baseline)))
    )(nets[pairs], rewards[pairs])
    found = (chances[pairs].prod(1)[:, None, None] * np.asarray(gradients)).sum(0)
    climbed = -(1 - part / 2) * np.asarray(jax.grad(expected)(alpha))
    np.testing.assert_allclose(found, climbed, rtol=1e-3, atol=1e-5)
    old = 0 if baseline < 0 else baseline
    means = rewards[pairs].mean(1)
    np.testing.assert_allclose(baselines, old + part * (means - old), rtol=1e-5)


def test_a_step_of_reinforce():
    """The reward has accuracy and cost, the step is Adam's, the baseline the mean reward."""
    costs = Costs(2.0, np.array([[1.0, 2, 0], [3, 4, 0]]))
    search = training(costs=costs, mode='reinforce', samples=4, lr=0.1, reference=5.0)

    def held(alpha, paths, gates):
        return 0.0, (None, {'top1': 10.0 + 80.0 * (paths[1, 0] == 2)})

    alpha = jnp.zeros((2, 3))
    rule = search.optimizer(lambda weights: None, {'alpha': alpha}).alpha
    state = {'alpha': rule.init(alpha), 'baseline': np.float32(-1)}
    step = jit(lambda key, a, s: search.learn(rule, held, key, a, s))
    for key in jax.random.split(jax.random.key(1), 30):
        alpha, state = step(key, alpha, state)
    p = jax.nn.softmax(search.masked(alpha))
    assert p[1, 2] > 0.8
    assert 0.5 < state['baseline'] < 0.9 * (5 / 3) ** 0.1
    paths = jnp.array([[1], [2]])
    assert search.reward(held, alpha, paths) == pytest.approx(0.9 * (5 / 4) ** 0.1, rel=1e-6)


# ------------------------------------------------------------------------------------ the net

SMALL = {
    'stem_features': 8,
    'first_features': 8,
    'widths': (8,),
    'repeats': (3,),
    'strides': (2,),
    'windows': (3,),
    'head_features': 16,
    'num_classes': 4,
}


def supernet():
    """A small supernet with random variables, and images."""
    net = models.create('proxyless_supernet', **SMALL)
    variables = init(net, 0, 8, 1)
    return net, variables, jnp.asarray(RNG.normal(size=(6, 8, 8, 1)), jnp.float32)


def test_a_path_is_the_model_of_its_genotype():
    """The model of a genotype has the same logits, by batch and by running statistics."""
    net, variables, images = supernet()
    code = (1, 2, 0)
    alpha = jax.nn.one_hot(jnp.array(code), 3)
    assert net.genotype(alpha) == net.space.genotype(code)
    zoo = models.create(
        'proxyless_mobile',
        genotype=net.genotype(alpha),
        stem_features=8,
        head_features=16,
        num_classes=4,
    )

    def renamed(tree):
        same = {name: part for name, part in tree.items() if not name.startswith('places')}
        same.pop('alpha', None)
        moved = {'blocks.1.0': tree['places.0']['k_3_e6'], 'blocks.1.1': tree['places.2']['k_3_e3']}
        return same | moved

    variables['params']['alpha'] = alpha
    there = {name: renamed(tree) for name, tree in variables.items()}
    evaluated, expected = (
        jit(functools.partial(model.apply, train=False))(given, images)
        for model, given in ((net, variables), (zoo, there))
    )
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)
    paths = jnp.array(code)[:, None]
    trained, changed = jit(
        lambda v, x: net.apply(v, x, train=True, paths=paths, mutable=['batch_stats'])
    )(variables, images)
    expected, _ = jit(lambda v, x: zoo.apply(v, x, train=True, mutable=['batch_stats']))(
        there, images
    )
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)
    stats = variables['batch_stats'], changed['batch_stats']
    for i, name in itertools.product(range(3), ('k_3_e3', 'k_3_e6')):
        old, new = (tree[f'places.{i}'][name]['bn3']['mean'] for tree in stats)
        used = (i, name) in {(0, 'k_3_e6'), (2, 'k_3_e3')}
        assert np.any(np.asarray(old) != np.asarray(new)) == used


@pytest.mark.sweep
def test_two_paths_and_all_paths_have_the_same_gates():
    """Logits, and the gradient of the loss by the gates, if the other gates are 0."""
    net, variables, images = supernet()
    pairs = jnp.array([[1, 0], [2, 1], [0, 2]])
    gates = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    whole = jnp.put_along_axis(jnp.zeros((3, 3)), pairs, gates, 1, inplace=False)

    def loss(gates, paths):
        logits, _ = net.apply(
            variables, images, train=True, paths=paths, gates=gates, mutable=['batch_stats']
        )
        return (logits**2).sum()

    two, slopes = jit(jax.value_and_grad(loss))(gates, pairs)
    full, slopes_of_all = jit(jax.value_and_grad(lambda gates: loss(gates, None)))(whole)
    assert two == pytest.approx(float(full), rel=1e-4)
    expected = jnp.take_along_axis(slopes_of_all, pairs, 1)
    np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(slopes) == 0, pairs == 2)  # no block has output 0


@pytest.mark.sweep
def test_steps():
    """The warm-up and the first epoch do not change alpha, nor steps candidates not drawn."""
    config = configs.load('configs/search/proxylessnas.py')
    net = models.create('proxyless_supernet', **SMALL)
    images = RNG.integers(256, size=(2, 8, 8, 8, 1)).astype(np.uint8)
    labels = RNG.integers(4, size=(2, 8)).astype(np.int32)
    batches = [{'image': x, 'label': y} for x, y in zip(images, labels, strict=True)]
    batch = batches[0] | {'valid': batches[1]}
    costs = proxyless_paths.costs_of(net, 8, 1, latency.multiply_adds)
    search = Training(ProxylessNAS(every=2, reference=50.0, lr=0.1), net.space, costs, 2, 3)

    def rule(params):
        return optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9))

    variables = init(net, 0, 8, 1)
    rules = search.optimizer(rule, variables['params'])
    state = new_state(variables, rules, 0, False)
    sharding = meshes.batch_sharding(meshes.make_mesh(1, jax.devices()[:1]))
    recipe = dataclasses.replace(Recipe.from_config(config, 10, 1), mean=(78.0,), std=(96.0,))
    step = jit(search.make_train_step(net, rules, recipe, sharding))
    moved = []
    for _ in range(6):
        before, (state, metrics) = state, step(state, batch)
        for place in range(3):
            names = [
                name
                for name in ('k_3_e3', 'k_3_e6')
                if np.any(
                    before.params[f'places.{place}'][name]['conv_pwl']['kernel']
                    != state.params[f'places.{place}'][name]['conv_pwl']['kernel']
                )
            ]
            assert len(names) <= 1
        moved.append(bool(np.any(before.params['alpha'] != state.params['alpha'])))
        assert all(np.isfinite(float(value)) for value in metrics.values())
    assert moved == [False, False, False, True, False, True]


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('search.supernet.mode', 'tow', r'mode is .tow.\. Did you mean two\?'),
        ('search.supernet.cost_loss', 'add', 'Did you mean add#linear'),
        ('search.supernet.reference', '1.0', 'expected more than 1'),
        ('search.table', 'nowhere.yaml', "there is no table 'nowhere.yaml'"),
        ('eval.precise_bn', '100', 'eval.precise_bn 100'),
        ('ema', '0.9', 'config.ema is 0.9'),
    ],
)
def test_mistakes(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('configs/search/proxylessnas.py', ((field, value),)))
