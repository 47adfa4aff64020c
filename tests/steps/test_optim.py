"""Schedules against closed forms; update rules against the papers' formulas in NumPy float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

from cls.errors import UserError
from cls.recipes import common
from cls.steps.optim import OptimSpec, make_optimizer
from cls.steps.schedule import ScheduleSpec, make_schedule
from cls.steps.state import initial_opt_state

STEPS_PER_EPOCH = 10


def to_steps(text):
    number, unit = text.split()
    return round(float(number) * {'steps': 1, 'epochs': STEPS_PER_EPOCH}[unit])


def schedule_of(lr=0.4, total=100, **fields):
    config = common.base()
    config.optim.lr = lr
    config.schedule.update(fields)
    return make_schedule(ScheduleSpec.from_config(config, to_steps=to_steps, total=total))


def curve(total=100, **fields):
    """The learning rates of steps 0..total, computed at once."""
    rate = schedule_of(total=total, **fields)
    return np.asarray(jit(jax.vmap(rate))(jnp.arange(total + 1)))


# --------------------------------------------------------------------------------- schedules

T = np.arange(101)


def from_one(t):
    return 0.1 + 0.9 * (1 + np.cos(np.pi * t)) / 2


SCHEDULES = {
    'constant': ({}, np.full(101, 0.4)),
    'step': (
        {'milestones': ('3 epochs', '60 steps'), 'gamma': 0.1},
        np.where(T < 30, 0.4, np.where(T < 60, 0.04, 0.004)),
    ),
    'exponential': ({'gamma': 0.97, 'every': '2.4 epochs'}, 0.4 * 0.97 ** (T / 24)),
    'cosine': ({'end': 0.1}, 0.4 * (0.1 + 0.9 * (1 + np.cos(np.pi * T / 100)) / 2)),
    'cosine_restarts': (
        {'milestones': ('4 epochs',), 'gamma': 0.5, 'end': 0.1},
        np.where(T < 40, 0.4 * from_one(T / 40), 0.2 * from_one((T - 40) / 60)),
    ),
    'polynomial': ({'end': 0.1, 'power': 2.0}, 0.4 * (0.1 + 0.9 * (1 - T / 100) ** 2)),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedule_without_warmup(name):
    fields, expected = SCHEDULES[name]
    np.testing.assert_allclose(curve(name=name, **fields), expected, rtol=1e-5)


@pytest.mark.parametrize('name', ['constant', 'step', 'exponential'])
def test_warmup_replaces_the_first_steps(name):
    fields, plain = SCHEDULES[name]
    expected = np.where(T < 40, 0.1 + (0.4 - 0.1) * T / 40, plain)
    got = curve(name=name, warmup='4 epochs', warmup_init=0.1, **fields)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_cosine_and_polynomial_run_from_the_end_of_the_warmup():
    t = np.clip((T - 20) / 80, 0, 1)
    expected = {
        'cosine': 0.4 * (0.1 + 0.9 * (1 + np.cos(np.pi * t)) / 2),
        'polynomial': 0.4 * (0.1 + 0.9 * (1 - t) ** 2),
    }
    for name, after in expected.items():
        got = curve(name=name, warmup='20 steps', **SCHEDULES[name][0])
        np.testing.assert_allclose(got, np.where(T < 20, 0.4 * T / 20, after), rtol=1e-5)


def test_staircase_jumps_at_exact_multiples():
    # 41, 47, 55, 61: n * float32(1 / n) < 1, where the floor of a float quotient is a step late.
    for every in (1, 24, 41, 47, 55, 61):
        got = curve(name='exponential', gamma=0.5, every=f'{every} steps', staircase=True)
        np.testing.assert_allclose(got, 0.4 * 0.5 ** (T // every), rtol=1e-5)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_schedule_by_epochs_holds_the_rate_of_their_first_steps(name):
    """Also in the warm-up, and for epochs of 10 / 3 steps, rounded as all durations."""
    fields = {'name': name, 'warmup': '12 steps', **SCHEDULES[name][0]}
    by_step = curve(**fields)
    np.testing.assert_array_equal(curve(per='epoch', **fields), by_step[T // 10 * 10])
    config = common.base()
    config.optim.lr = 0.4
    config.schedule.update({'per': 'epoch', **fields})

    def thirds(text):
        number, unit = text.split()
        return int(float(number) * (10 / 3 if unit == 'epochs' else 1) + 0.5)

    spec = ScheduleSpec.from_config(config, to_steps=thirds, total=100)
    plain = dataclasses.replace(spec, epochs=())
    rates = [np.asarray(jit(jax.vmap(make_schedule(x)))(jnp.arange(101))) for x in (spec, plain)]
    starts = np.array([int(epoch * 10 / 3 + 0.5) for epoch in range(32)])
    first = starts[np.searchsorted(starts, T, side='right') - 1]
    np.testing.assert_array_equal(rates[0], rates[1][first])


@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_are_float32_scalars_and_python_steps_will_do(name):
    rate = schedule_of(name=name, warmup='5 steps', **SCHEDULES[name][0])
    for step in (0, 5, 50, 1000):
        eager, traced = rate(step), jit(rate)(jnp.int32(step))
        assert (eager.shape, eager.dtype) == ((), jnp.float32)
        np.testing.assert_allclose(eager, traced, rtol=1e-6)


@pytest.mark.parametrize('name', ['cosine', 'polynomial'])
def test_the_rate_stays_at_its_end(name):
    rate = schedule_of(name=name, end=0.1)
    np.testing.assert_allclose([rate(100), rate(200)], 0.04, rtol=1e-5)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_run_as_long_as_its_warmup_sees_only_the_warmup(name):
    got = curve(total=10, name=name, warmup='10 steps', **SCHEDULES[name][0])
    np.testing.assert_allclose(got[:10], 0.4 * np.arange(10) / 10, rtol=1e-5)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'cosin'}, 'Did you mean cosine'),
        ({'name': 'step'}, r'config\.schedule\.milestones'),
        ({'name': 'step', 'milestones': ('6 epochs', '3 epochs')}, r'\(60, 30\)'),
        ({'name': 'step', 'milestones': ('3 epochs', '30 steps')}, r'\(30, 30\)'),
        ({'name': 'cosine_restarts'}, r'config\.schedule\.milestones'),
        ({'name': 'exponential', 'every': '0 steps'}, r'config\.schedule\.every'),
    ],
)
def test_bad_schedules_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        schedule_of(**fields)


# -------------------------------------------------------------------------------- optimizers

RNG = np.random.default_rng(1)
SHAPES = {
    'conv': {'kernel': (3, 2), 'bias': (2,)},
    'bn': {'scale': (2,), 'bias': (2,)},
    'head': {'kernel': (2, 4), 'bias': (4,)},
}
COUNT = 6


def draw(scale):
    """A tree of SHAPES with normal float64 leaves."""
    return jax.tree.map(
        lambda shape: RNG.normal(size=shape) * scale, SHAPES, is_leaf=lambda x: type(x) is tuple
    )


PARAMS = draw(1.0)
GRADS = [draw(scale) for scale in (1.0, 5.0, 0.01, 1.0, 0.1, 2.0)]
RATES = np.array([0.1, 0.2, 0.3, 0.03, 0.02, 0.01])


def rate(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def as32(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def optimizer_of(params=PARAMS, head=(), depthwise=(), layers=None, **fields):
    config = common.base()
    config.optim.update(fields)
    spec = OptimSpec.from_config(config)
    groups = {'head': frozenset(head), 'depthwise': frozenset(depthwise), 'layers': layers}
    return make_optimizer(spec, rate, params, **groups)


@jit(static_argnums=0)
def one_update(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def run(tx, params=PARAMS, state=None, grads=GRADS):
    """(parameters, optimizer state) after the updates."""
    params = as32(params)
    state = tx.init(params) if state is None else state
    for g in grads:
        params, state = one_update(tx, params, state, as32(g))
    return params, state


def follow(rule, coupled=0.0, clip=np.inf, clip_after_decay=False, decays=None):
    """The parameters after COUNT steps of a rule, in float64.

    `rule(w, g, lr, t, memory, decays)` returns one leaf's new w; t counts from 1, memory is a dict
    of the leaf's own. `decays`: by path, whether a leaf's weights decay.
    """
    decays = decays or {path: path[1] == 'kernel' for path in leaf_paths()}
    w = {path: PARAMS[path[0]][path[1]] for path in leaf_paths()}
    memory = {path: {} for path in w}
    for t, (lr, grads) in enumerate(zip(RATES, GRADS, strict=True), 1):
        g = {path: grads[path[0]][path[1]] for path in w}

        def add_l2(g, w=w):
            return {p: g[p] + coupled * w[p] * decays[p] for p in g}

        def clipped(g):
            norm = np.sqrt(sum((leaf**2).sum() for leaf in g.values()))
            return {p: leaf * min(1.0, clip / norm) for p, leaf in g.items()}

        g = clipped(add_l2(g)) if clip_after_decay else add_l2(clipped(g))
        w = {p: rule(w[p], g[p], lr, t, memory[p], decays[p]) for p in w}
    return w


def leaf_paths():
    return [(layer, name) for layer, names in SHAPES.items() for name in names]


def assert_same(params, expected, rtol=2e-5):
    for (layer, name), value in expected.items():
        np.testing.assert_allclose(
            params[layer][name], value, rtol=rtol, atol=rtol, err_msg=f'{layer}/{name}'
        )


def sgd(momentum, nesterov):
    """torch.optim.SGD, as its documentation writes it (dampening 0)."""

    def rule(w, g, lr, t, memory, decays):
        b = g if t == 1 else momentum * memory['b'] + g
        memory['b'] = b
        return w - lr * (g + momentum * b if nesterov else b)

    return rule


def tf_rmsprop(momentum, decay, eps):
    """tf.compat.v1.train.RMSPropOptimizer: ApplyRMSProp's documentation, slot 'rms' of ones."""

    def rule(w, g, lr, t, memory, decays):
        memory['ms'] = decay * memory.get('ms', np.ones_like(w)) + (1 - decay) * g**2
        memory['mom'] = momentum * memory.get('mom', 0) + lr * g / np.sqrt(memory['ms'] + eps)
        return w - memory['mom']

    return rule


def adam_direction(g, t, memory, b1, b2, eps):
    memory['m'] = b1 * memory.get('m', 0) + (1 - b1) * g
    memory['v'] = b2 * memory.get('v', 0) + (1 - b2) * g**2
    return memory['m'] / (1 - b1**t) / (np.sqrt(memory['v'] / (1 - b2**t)) + eps)


def adam(b1, b2, eps):
    """Kingma & Ba, algorithm 1."""

    def rule(w, g, lr, t, memory, decays):
        return w - lr * adam_direction(g, t, memory, b1, b2, eps)

    return rule


def adamw(b1, b2, eps, weight_decay):
    """torch.optim.AdamW: w <- w - lr * weight_decay * w, then Adam's step."""

    def rule(w, g, lr, t, memory, decays):
        direction = adam_direction(g, t, memory, b1, b2, eps)
        return w * (1 - lr * weight_decay * decays) - lr * direction

    return rule


def lamb(b1, b2, eps, weight_decay):
    """You et al., algorithm 2."""

    def rule(w, g, lr, t, memory, decays):
        u = adam_direction(g, t, memory, b1, b2, eps) + weight_decay * decays * w
        return w - lr * np.linalg.norm(w) / np.linalg.norm(u) * u

    return rule


ADAM = {'b1': 0.8, 'b2': 0.95, 'eps': 0.01}  # an eps that shows where it stands
RULES = {
    'sgd': ({'momentum': 0.9}, sgd(0.9, False)),
    'sgd without momentum': ({'momentum': 0.0}, sgd(0.0, False)),
    'sgd nesterov': ({'momentum': 0.9, 'nesterov': True}, sgd(0.9, True)),
    'rmsprop': ({'momentum': 0.9, 'decay': 0.8, 'eps': 1.0}, tf_rmsprop(0.9, 0.8, 1.0)),
    'rmsprop plain': ({'momentum': 0.0, 'decay': 0.8, 'eps': 1e-3}, tf_rmsprop(0.0, 0.8, 1e-3)),
    'adam': (ADAM, adam(**ADAM)),
}


@pytest.mark.parametrize('case', RULES)
@pytest.mark.parametrize('clip_after_decay', [False, True])
def test_rules_with_l2_in_the_gradient(case, clip_after_decay):
    fields, rule = RULES[case]
    tx = optimizer_of(
        name=case.split()[0],
        weight_decay=0.3,
        clip_norm=1.5,
        clip_after_decay=clip_after_decay,
        **fields,
    )
    expected = follow(rule, coupled=0.3, clip=1.5, clip_after_decay=clip_after_decay)
    assert_same(run(tx)[0], expected)


def test_the_order_of_clipping_shows():
    """Or else the test above could not tell the two apart."""
    rule = sgd(0.9, False)
    before = follow(rule, coupled=0.3, clip=1.5)
    after = follow(rule, coupled=0.3, clip=1.5, clip_after_decay=True)
    assert np.abs(before['conv', 'kernel'] - after['conv', 'kernel']).max() > 0.01


@pytest.mark.parametrize(('name', 'rule'), [('adamw', adamw), ('lamb', lamb)])
def test_rules_with_decoupled_decay(name, rule):
    tx = optimizer_of(name=name, weight_decay=0.3, clip_norm=1.5, **ADAM)
    assert_same(run(tx)[0], follow(rule(weight_decay=0.3, **ADAM), clip=1.5))


@pytest.mark.parametrize('name', ['sgd', 'rmsprop', 'adam', 'adamw', 'lamb'])
def test_masks(name):
    """Without a gradient, only decayed weights change."""
    no_grads = [jax.tree.map(np.zeros_like, PARAMS)]
    for mask, decays in {'kernels': {'kernel'}, 'all': {'kernel', 'bias', 'scale'}}.items():
        tx = optimizer_of(name=name, weight_decay=0.3, decay_mask=mask)
        params, _ = run(tx, grads=no_grads)
        moved = {
            path[-1].key
            for (path, new), old in zip(
                jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(PARAMS), strict=True
            )
            if np.abs(new - old).max() > 1e-4
        }
        assert moved == decays


@pytest.mark.parametrize(
    ('mask', 'decays'),
    [
        ('not_norms', {'conv/kernel', 'conv/bias', 'head/kernel', 'head/bias'}),
        ('not_depthwise', {'head/kernel'}),
    ],
)
def test_masks_by_kind_of_layer(mask, decays):
    no_grads = [jax.tree.map(np.zeros_like, PARAMS)]
    tx = optimizer_of(weight_decay=0.3, decay_mask=mask, depthwise={'conv/kernel'})
    params, _ = run(tx, grads=no_grads)
    moved = {
        f'{layer}/{name}'
        for layer, name in leaf_paths()
        if np.abs(params[layer][name] - PARAMS[layer][name]).max() > 1e-4
    }
    assert moved == decays


@pytest.mark.parametrize('case', RULES)
def test_rates_of_their_own(case):
    """As if each parameter were alone with its own learning rate; a norm's bias is no bias here."""
    fields, rule = RULES[case]
    factors = {
        ('conv', 'kernel'): 0.1,
        ('conv', 'bias'): 0.2,
        ('bn', 'scale'): 0.1,
        ('bn', 'bias'): 0.1,
        ('head', 'kernel'): 1.0,
        ('head', 'bias'): 2.0,
    }
    tx = optimizer_of(
        name=case.split()[0],
        weight_decay=0.3,
        body_lr_mult=0.1,
        bias_lr_mult=2.0,
        head={'head/kernel', 'head/bias'},
        **fields,
    )
    params, _ = run(tx)
    for path, factor in factors.items():

        def scaled(w, g, lr, t, memory, decays, factor=factor):
            return rule(w, g, lr * factor, t, memory, decays)

        expected = follow(scaled, coupled=0.3)
        assert_same(params, {path: expected[path]})


def test_the_rate_decays_by_layers_from_the_classifier_down():
    layers = {'conv/kernel': 0, 'conv/bias': 0, 'bn/scale': 0, 'bn/bias': 1}
    layers |= {'head/kernel': 3, 'head/bias': 3}
    tx = optimizer_of(weight_decay=0.3, layer_decay=0.5, bias_lr_mult=2.0, layers=layers)
    params, _ = run(tx)
    for (layer, leaf), depth in {
        ('conv', 'kernel'): 0,
        ('bn', 'bias'): 1,
        ('head', 'kernel'): 3,
    }.items():
        factor = 0.5 ** (3 - depth)

        def scaled(w, g, lr, t, memory, decays, factor=factor):
            return sgd(0.9, False)(w, g, lr * factor, t, memory, decays)

        assert_same(params, {(layer, leaf): follow(scaled, coupled=0.3)[layer, leaf]})


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_frozen_parameters_stay_and_do_not_count_into_the_norm(name):
    """The others move as if the frozen ones had no gradient."""
    fields = {'name': name, 'weight_decay': 0.3, 'clip_norm': 1.5, 'decay_mask': 'all'}
    params, state = run(optimizer_of(freeze='^(conv|bn/scale)', **fields))
    stays = [('conv', 'kernel'), ('conv', 'bias'), ('bn', 'scale')]
    for layer, leaf in stays:
        np.testing.assert_array_equal(params[layer][leaf], np.float32(PARAMS[layer][leaf]))
    assert len(jax.tree.leaves(state)) < len(jax.tree.leaves(optimizer_of(**fields).init(PARAMS)))
    grads = [
        {
            layer: {k: 0 * g if (layer, k) in stays else g for k, g in of.items()}
            for layer, of in tree.items()
        }
        for tree in GRADS
    ]
    alone, _ = run(optimizer_of(**fields), grads=grads)
    for layer, leaf in set(leaf_paths()) - set(stays):
        np.testing.assert_allclose(params[layer][leaf], alone[layer][leaf], rtol=1e-6)


def test_lamb_moves_leaves_that_start_at_zero():
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    params, _ = run(optimizer_of(name='lamb'), params=zeros, grads=GRADS[:1])
    assert all(np.isfinite(p).all() and np.abs(p).min() > 0 for p in jax.tree.leaves(params))


def test_gradients_below_the_norm_are_not_clipped():
    free, _ = run(optimizer_of(clip_norm=0.0))
    wide, _ = run(optimizer_of(clip_norm=1e6))
    jax.tree.map(np.testing.assert_array_equal, free, wide)


@pytest.mark.parametrize('name', ['sgd', 'rmsprop', 'adam', 'adamw', 'lamb'])
def test_a_restored_state_continues_exactly(name):
    """The state survives as a list of arrays, and with it the count that the rate is read at."""
    shapes = jax.eval_shape(lambda: as32(PARAMS))
    tx = optimizer_of(params=shapes, name=name, weight_decay=0.1, clip_norm=1.0)
    max_concurrent, _ = run(tx)

    params, state = run(tx, grads=GRADS[:3])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    saved = [np.array(leaf) for leaf in jax.tree.leaves(state)]

    structure = jax.tree.structure(jax.eval_shape(tx.init, shapes))
    restored = jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in saved])
    continued, _ = run(tx, params=params, state=restored, grads=GRADS[3:])
    jax.tree.map(np.testing.assert_array_equal, continued, max_concurrent)


def test_the_rate_used_is_the_schedules_at_the_count_of_updates():
    tx = optimizer_of(name='sgd', momentum=0.0)
    params = as32(PARAMS)
    state = tx.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    for step in range(COUNT):
        updates, state = tx.update(ones, state, params)
        np.testing.assert_array_equal(updates['bn']['bias'], -rate(step))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'freeze': '('}, 'a regular expression'),
        ({'name': 'adma'}, r'config\.optim\.name.*Did you mean adam'),
        ({'name': 'sdg'}, 'known: sgd, rmsprop, adam, adamw, lamb, and the optimizers of Optax'),
        ({'decay_mask': 'kernel'}, r'config\.optim\.decay_mask.*Did you mean kernels'),
        ({'name': 'adamw', 'clip_after_decay': True}, 'clip_after_decay'),
        ({'freeze': 'fc'}, 'none of the 6 parameters'),
        ({'decay_mask': 'not_norm'}, 'Did you mean not_norms'),
    ],
)
def test_bad_optimizers_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        optimizer_of(**fields)


# ------------------------------------------------------------------------------------- state


@pytest.mark.parametrize('name', ['sgd', 'rmsprop', 'adam', 'adamw', 'lamb'])
@pytest.mark.parametrize(
    'fields', [{}, {'momentum': 0.0}, {'freeze': 'bias', 'clip_norm': 1.0, 'bias_lr_mult': 2.0}]
)
def test_the_initial_state_is_that_of_optax(name, fields):
    params = {'a': {'kernel': np.ones((3, 4), np.float32), 'bias': np.ones(4, jnp.bfloat16)}}
    rule = make_optimizer(OptimSpec(name=name, **fields), lambda _: 0.1, params)
    ours, expected = initial_opt_state(rule, params), rule.init(params)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_an_initial_state_that_depends_on_the_parameters_is_computed_from_them():
    params = {'kernel': np.arange(3.0, dtype=np.float32)}

    def init(params):
        return {'copy': params, 'sine': jax.tree.map(jnp.sin, params), 'count': jnp.zeros(())}

    rule = optax.GradientTransformation(init, optax.identity().update)
    state = initial_opt_state(rule, params)
    np.testing.assert_array_equal(state['copy']['kernel'], params['kernel'])
    np.testing.assert_allclose(state['sine']['kernel'], np.sin(params['kernel']), rtol=1e-6)
    with pytest.raises(NotImplementedError, match='sin'):
        initial_opt_state(rule, jax.eval_shape(lambda: params))
