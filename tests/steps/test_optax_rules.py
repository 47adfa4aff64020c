"""Optax's optimizers over 30 steps against the papers, or the authors' code, in NumPy float64.

Those in `DEPARTS` are compared with both forms: another form than the paper's is a fact about this
version of Optax, and if it changes, the line that a run prints is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import jit

from cls.errors import UserError
from cls.recipes import common
from cls.steps import optax_rules
from cls.steps.optim import OptimSpec, make_optimizer
from cls.steps.state import initial_opt_state

RNG = np.random.default_rng(2)
SHAPES = {
    ('conv', 'kernel'): (3, 3, 2, 5),
    ('conv', 'bias'): (5,),
    ('bn', 'scale'): (5,),
    ('fc', 'kernel'): (5, 7),
    ('head', 'kernel'): (7, 4),
    ('head', 'bias'): (4,),
}
STEPS = 30
RATES = 0.05 * (1.2 + np.sin(np.arange(STEPS)))
START = {path: RNG.normal(size=shape) for path, shape in SHAPES.items()}
GRADS = [
    {path: RNG.normal(size=shape) * 2 ** RNG.normal() for path, shape in SHAPES.items()}
    for _ in range(STEPS)
]
HEAD = frozenset({'head/kernel', 'head/bias'})


def nested(flat):
    tree = {}
    for (layer, leaf), value in flat.items():
        tree.setdefault(layer, {})[leaf] = np.asarray(value, np.float32)
    return tree


def spec_of(**fields):
    config = common.base()
    config.optim.update(fields)
    return OptimSpec.from_config(config)


def optimizer_of(**fields):
    rates = jnp.asarray(RATES, jnp.float32)
    return make_optimizer(spec_of(**fields), lambda step: rates[step], nested(START), head=HEAD)


def run(tx):
    """The parameters after 30 updates, by path."""
    grads = jax.tree.map(lambda *each: np.stack(each), *map(nested, GRADS))

    @jit
    def steps(params, state, grads):
        def step(carry, grad):
            params, state = carry
            updates, state = tx.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), grads)[0]

    params, _ = steps(nested(START), initial_opt_state(tx, nested(START)), grads)
    return {(layer, leaf): params[layer][leaf] for layer, leaf in SHAPES}


def follow(rule, decay=0.0, everywhere=False):
    """The parameters after 30 steps of rule(w, g, lr, t, memory, decay, path), t from 1."""
    w, memory = dict(START), {path: {} for path in SHAPES}
    for t, (lr, grads) in enumerate(zip(RATES, GRADS, strict=True), 1):
        for path in SHAPES:
            decays = decay if everywhere or path[1] == 'kernel' else 0.0
            w[path] = rule(w[path], grads[path], lr, t, memory[path], decays, path)
    return w


def distance(one, other):
    """The largest difference of parameters, in parts of the largest move."""
    move = max(np.abs(other[path] - START[path]).max() for path in SHAPES)
    return max(np.abs(one[path] - other[path]).max() for path in SHAPES) / move


def moments(g, t, memory, b1, b2):
    """Adam's bias-corrected moments."""
    memory['m'] = b1 * memory.get('m', 0) + (1 - b1) * g
    memory['v'] = b2 * memory.get('v', 0) + (1 - b2) * g**2
    return memory['m'] / (1 - b1**t), memory['v'] / (1 - b2**t)


def lion(w, g, lr, t, memory, decay, path):
    """Chen et al. 2023, algorithm 2."""
    m = memory.get('m', 0)
    memory['m'] = 0.99 * m + 0.01 * g
    return w - lr * (np.sign(0.9 * m + 0.1 * g) + decay * w)


def adan(weight, proximal):
    """Xie et al. 2022, algorithm 1, in the betas of the authors' code."""

    def rule(w, g, lr, t, memory, decay, path):
        b1, b2, b3 = 0.98, 0.92, 0.99
        difference = g - memory.get('g', g)
        memory['g'] = g
        memory['m'] = b1 * memory.get('m', 0) + (1 - b1) * g
        memory['d'] = b2 * memory.get('d', 0) + (1 - b2) * difference
        memory['n'] = b3 * memory.get('n', 0) + (1 - b3) * (g + weight * difference) ** 2
        top = memory['m'] / (1 - b1**t) + weight * memory['d'] / (1 - b2**t)
        step = lr * top / (np.sqrt(memory['n'] / (1 - b3**t)) + 1e-8)
        return (w - step) / (1 + lr * decay) if proximal else w - step - lr * decay * w

    return rule


def amsgrad(correct_m, correct_v, correct_max=False):
    """Reddi et al. 2018, algorithm 2: without any correction."""

    def rule(w, g, lr, t, memory, decay, path):
        g = g + decay * w
        m, v = moments(g, t, memory, 0.9, 0.999)
        v = v if correct_v else memory['v']
        memory['max'] = np.maximum(memory.get('max', 0), v)
        top = memory['max'] / (1 - 0.999**t) if correct_max else memory['max']
        return w - lr * (m if correct_m else memory['m']) / (np.sqrt(top) + 1e-8)

    return rule


def lars(norm_of_sum):
    """You et al. 2017, algorithm 1, for kernels; other parameters have plain momentum."""

    def rule(w, g, lr, t, memory, decay, path):
        norm = np.linalg.norm
        below = norm(g + decay * w) if norm_of_sum else norm(g) + decay * norm(w)
        local = 0.02 * norm(w) / below if path[1] == 'kernel' else 1.0
        memory['v'] = 0.9 * memory.get('v', 0) + lr * local * (g + decay * w)
        return w - memory['v']

    return rule


def orthogonal(matrix):
    """Five steps of the authors' Newton-Schulz iteration, in float64."""
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def muon(corrected, nesterov=True):
    """Jordan et al. 2024, muon.py; a filter's inputs are the rows of its matrix."""

    def rule(w, g, lr, t, memory, decay, path):
        if path[1] != 'kernel' or path[0] == 'head':
            m, v = moments(g, t, memory, 0.9, 0.999)
            if nesterov:  # NAdam
                m = 0.9 * memory['m'] / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
            return w * (1 - lr * decay) - lr * m / (np.sqrt(v) + 1e-8)
        memory['m'] = 0.95 * memory.get('m', 0) + 0.05 * g
        one, two = (1 - 0.95 ** (t + 1), 1 - 0.95**t) if corrected else (1, 1)
        update = 0.95 * memory['m'] / one + 0.05 * g / two if nesterov else memory['m']
        matrix = orthogonal(update.reshape(-1, w.shape[-1]))
        inputs, outputs = matrix.shape
        scale = max(1, outputs / inputs) ** 0.5
        return w * (1 - lr * decay) - lr * scale * matrix.reshape(w.shape)

    return rule


def novograd(w, g, lr, t, memory, decay, path):
    """Ginsburg et al. 2019, algorithm 1."""
    square = (g**2).sum()
    memory['v'] = square if t == 1 else 0.25 * memory['v'] + 0.75 * square
    memory['m'] = 0.9 * memory.get('m', 0) + g / (np.sqrt(memory['v']) + 1e-6) + decay * w
    return w - lr * memory['m']


def adabelief(w, g, lr, t, memory, decay, path):
    """Zhuang et al. 2020, algorithm 2, with L2 in the gradient."""
    g = g + decay * w
    memory['m'] = 0.9 * memory.get('m', 0) + 0.1 * g
    memory['s'] = 0.999 * memory.get('s', 0) + 0.001 * (g - memory['m']) ** 2 + 1e-16
    m, s = memory['m'] / (1 - 0.9**t), memory['s'] / (1 - 0.999**t)
    return w - lr * m / (np.sqrt(s) + 1e-16)


def radam(w, g, lr, t, memory, decay, path):
    """Liu et al. 2020, algorithm 2, with the authors' threshold of 5."""
    m, v = moments(g + decay * w, t, memory, 0.9, 0.999)
    most = 2 / 0.001 - 1
    length = most - 2 * t * 0.999**t / (1 - 0.999**t)
    if length < 5:
        return w - lr * m
    over = (length - 4) * (length - 2) * most
    under = (most - 4) * (most - 2) * length
    return w - lr * np.sqrt(over / under) * m / (np.sqrt(v) + 1e-8)


def adamax(w, g, lr, t, memory, decay, path):
    """Kingma & Ba 2015, algorithm 2."""
    g = g + decay * w
    m, _ = moments(g, t, memory, 0.9, 0.999)
    memory['u'] = np.maximum(0.999 * memory.get('u', 0), np.abs(g))
    return w - lr * m / memory['u']


def ademamix(w, g, lr, t, memory, decay, path):
    """Pagliardini et al. 2024, algorithm 1, without the schedules of alpha and beta 3."""
    m, v = moments(g, t, memory, 0.9, 0.999)
    memory['slow'] = 0.9999 * memory.get('slow', 0) + 0.0001 * g
    return w - lr * ((m + 5 * memory['slow']) / (np.sqrt(v) + 1e-8) + decay * w)


def madgrad(w, g, lr, t, memory, decay, path):
    """Defazio & Jelassi 2021, algorithm 1; eps is added to the rate as in the authors' code."""
    g, rate = g + decay * w, (lr + 1e-6) * np.sqrt(t)
    memory.setdefault('x0', w)
    memory['s'] = memory.get('s', 0) + rate * g
    memory['v'] = memory.get('v', 0) + rate * g**2
    z = memory['x0'] - memory['s'] / (np.cbrt(memory['v']) + 1e-6)
    return 0.9 * w + 0.1 * z


def yogi(start, corrected):
    """Zaheer et al. 2018, algorithm 2: without any correction."""

    def rule(w, g, lr, t, memory, decay, path):
        g = g + decay * w
        v = memory.get('v', np.full_like(w, 1e-6))
        memory['v'] = v = v - 0.001 * np.sign(v - g**2) * g**2
        memory['m'] = m = 0.9 * memory.get('m', start) + 0.1 * g
        if corrected:
            m, v = m / (1 - 0.9**t), v / (1 - 0.999**t)
        return w - lr * m / (np.sqrt(v) + 1e-3)

    return rule


AGREE = {
    'lion': ({}, lion),
    'novograd': ({'decay_mask': 'all'}, novograd),
    'adabelief': ({}, adabelief),
    'radam': ({}, radam),
    'adamax': ({}, adamax),
    'ademamix': ({}, ademamix),
    'madgrad': ({'decay_mask': 'all'}, madgrad),
    'amsgrad': (
        {'args': {'bias_correction_mu': False, 'bias_correction_nu': False}},
        amsgrad(False, False),
    ),
    'muon': ({'args': {'nesterov': False}}, muon(False, nesterov=False)),
}
# name: (fields, the form of this version of Optax, the paper's or the authors')
DEPART = {
    'adan': ({'args': {'eps_root': 0.0}}, adan(0.08, False), adan(0.92, True)),
    'amsgrad': ({}, amsgrad(True, True), amsgrad(True, False, correct_max=True)),
    'lars': ({'args': {'trust_coefficient': 0.02}}, lars(True), lars(False)),
    'muon': ({}, muon(True), muon(False)),
    'yogi': ({}, yogi(1e-6, True), yogi(0, False)),
}


@pytest.mark.parametrize('name', AGREE)
def test_30_steps_are_those_of_the_paper(name):
    fields, rule = AGREE[name]
    got = run(optimizer_of(name=name, weight_decay=0.3, **fields))
    everywhere = fields.get('decay_mask') == 'all'
    assert distance(got, follow(rule, 0.3, everywhere)) < 1e-4


@pytest.mark.parametrize('name', DEPART)
def test_30_steps_are_not_those_of_the_paper_and_the_run_says_so(name):
    fields, optax_form, papers_form = DEPART[name]
    got = run(optimizer_of(name=name, weight_decay=0.3, **fields))
    assert distance(got, follow(optax_form, 0.3)) < 1e-4
    assert distance(got, follow(papers_form, 0.3)) > 1e-3
    (note,) = spec_of(name=name).notes()
    assert f'optax.{name} departs' in note


def test_the_list_of_departures_is_the_one_that_is_compared():
    assert DEPART.keys() == optax_rules.DEPARTS.keys()
    assert not list(spec_of(name='lion').notes())


# ----------------------------------------------------------------------------- around a rule


def momentum(g, memory):
    memory['v'] = 0.9 * memory.get('v', 0) + g
    return memory['v']


def looking_ahead(w, g, lr, t, memory, decay, path):
    """Zhang et al. 2019, algorithm 1, with k = 4 and alpha = 0.3."""
    slow = memory.setdefault('slow', w)
    fast = w - lr * momentum(g, memory)
    if t % 4:
        return fast
    memory['slow'] = slow + 0.3 * (fast - slow)
    return memory['slow']


def clipped(w, g, lr, t, memory, decay, path):
    """Brock et al. 2021, equation 3, with the units of the authors' code."""
    if path[0] != 'head':
        axes = {1: (0,), 2: (0,), 4: (0, 1, 2)}[w.ndim]
        of_w, of_g = (np.sqrt((x**2).sum(axes, keepdims=True)) for x in (w, g))
        limit = 0.05 * np.maximum(of_w, 1e-3)
        g = np.where(of_g > limit, g * limit / of_g, g)
    return w - lr * momentum(g, memory)


def test_30_steps_of_lookahead():
    got = run(optimizer_of(lookahead=4, lookahead_rate=0.3))
    assert distance(got, follow(looking_ahead)) < 1e-4
    assert distance(got, run(optimizer_of())) > 0.1


def test_30_steps_of_adaptive_clipping():
    got = run(optimizer_of(agc=0.05))
    assert distance(got, follow(clipped)) < 1e-4
    assert distance(got, run(optimizer_of())) > 0.1


# ------------------------------------------------------------------------------- any of them


SOME = {'adafactor', 'prodigy', 'madgrad', 'momo', 'galore', 'scale_by_adam'}


@pytest.mark.parametrize(
    'name',
    [
        name if name in SOME else pytest.param(name, marks=pytest.mark.sweep)
        for name in sorted(optax_rules.factories())
    ],
)
def test_the_state_has_only_arrays_and_is_that_of_optax(name):
    """Its shapes are those of the update, so that a checkpoint restores it."""
    assert not list(optax_rules.mistakes(name, {}, 0.0, 'all'))
    assert not optax_rules.failure(name, {})
    tx = optimizer_of(name=name)
    ours, theirs = initial_opt_state(tx, nested(START)), tx.init(nested(START))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_lookahead_starts_from_the_parameters():
    state = initial_opt_state(optimizer_of(lookahead=4), nested(START))
    jax.tree.map(np.testing.assert_array_equal, state['slow'], nested(START))


def test_a_restored_state_of_lookahead_and_muon_continues_exactly():
    tx = optimizer_of(name='muon', lookahead=4, agc=0.1, weight_decay=0.1)

    @jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def steps(params, state, grads):
        for each in grads:
            params, state = step(params, state, nested(each))
        return params, state

    start = nested(START)
    straight, _ = steps(start, initial_opt_state(tx, start), GRADS[:6])
    params, state = steps(start, initial_opt_state(tx, start), GRADS[:3])
    saved = [np.array(leaf) for leaf in jax.tree.leaves(state)]
    structure = jax.tree.structure(jax.eval_shape(tx.init, start))
    continued, _ = steps(params, jax.tree.unflatten(structure, saved), GRADS[3:6])
    jax.tree.map(np.testing.assert_array_equal, straight, continued)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'lien'}, 'Did you mean lion'),
        ({'name': 'sophia'}, 'second derivatives'),
        ({'name': 'lion', 'args': {'beta1': 0.9}}, r'args\.beta1: optax.lion .*b1, b2, mu_dtype'),
        ({'name': 'lion', 'args': {'b1': 'high'}}, r"args\.b1 is 'high': expected a number"),
        ({'name': 'lion', 'args': {'b1': True}}, r'args\.b1 is True: expected a number'),
        ({'name': 'lion', 'args': {'weight_decay': 0.1}}, r'set config\.optim\.weight_decay'),
        ({'name': 'lion', 'b1': 0.8}, r'set config\.optim\.args\.b1'),
        ({'name': 'muon', 'args': {'preconditioning': 'none'}}, r'frobenius \| spectral'),
        ({'name': 'muon', 'args': {'ns_coeffs': (1.0, 2.0)}}, 'ns_coeffs must have shape'),
        ({'name': 'muon', 'args': {'ns_steps': 2.5}}, 'a whole number'),
        ({'name': 'novograd', 'weight_decay': 0.1}, 'decays all parameters'),
        ({'name': 'lion', 'clip_after_decay': True}, 'clip_after_decay'),
        ({'args': {'b1': 0.9}}, r'arguments of sgd are fields'),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        spec_of(**fields)
