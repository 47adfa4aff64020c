"""Policy gradients: probabilities, gradients and updates against computations by hand."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls.errors import UserError
from cls.search.searcher import FAILED
from cls.search.searchers import lstm
from cls.search.searchers.controller import Factorized, Step
from cls.search.searchers.policy import PolicyGradient
from cls.search.searchers.random import Random
from cls.search.space import Fixed, Space
from cls.search.spaces.tabular import NasBenchMacro
from tests.search import nasdata

COUNTS = (2, 4, 3)
CODES = np.array(list(itertools.product(*map(range, COUNTS))))
REWARDS = np.random.default_rng(5).uniform(size=len(CODES))  # of each code
REINFORCE = Step(learning_rate=0.1, entropy=0.0, clip=0.0, epochs=1)
PPO = dataclasses.replace(REINFORCE, clip=0.2)


@dataclasses.dataclass(frozen=True)
class Small(Fixed):
    """A space with only codes."""

    counts: tuple[int, ...] = COUNTS
    genotype = code = None


def factorized(step=REINFORCE, seed=1):
    policy = Factorized(COUNTS, step)
    policy.logits = policy.logits + np.random.default_rng(seed).normal(size=policy.logits.shape)
    return policy


def recurrent(scale=5.0, units=3, counts=COUNTS):
    """Weights of an LSTM with far from uniform choices, in double precision."""
    params = lstm.init(counts, units, np.random.default_rng(2))
    return {name: scale * np.float64(array) for name, array in params.items()}


def slope(function, x, direction, step=1e-5):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def clipped(ratios, advantages, clip=0.2):
    """The objective of PPO, as in its paper."""
    return np.minimum(ratios * advantages, np.clip(ratios, 1 - clip, 1 + clip) * advantages)


# --- the gradient's weights -----------------------------------------------------------------------


@pytest.mark.parametrize('ratio', [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0])
@pytest.mark.parametrize('advantage', [-2.0, 0.7])
def test_the_weights_of_ppo_are_the_derivative_of_what_it_climbs(ratio, advantage):
    by_log = slope(lambda log: clipped(np.exp(log), advantage), np.log(ratio), 1.0)
    assert PPO.weights(ratio, advantage) == pytest.approx(by_log, abs=1e-8)


# --- one softmax for each decision ----------------------------------------------------------------


def test_a_new_factorized_policy_is_even_and_any_is_a_distribution():
    new = Factorized(COUNTS, REINFORCE)
    assert new.entropy() == pytest.approx(sum(map(math.log, COUNTS)), abs=1e-12)
    logs = factorized().log_probs(CODES)
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-12)
    assert factorized().entropy() == pytest.approx(-(np.exp(logs) * logs).sum(), abs=1e-12)


def test_a_factorized_policy_draws_by_its_probabilities():
    policy, rng = factorized(), np.random.default_rng(0)
    drawn = [policy.sample(rng) for _ in range(20_000)]
    expected = dict(zip(map(tuple, CODES.tolist()), policy.log_probs(CODES), strict=True))
    assert all(log == pytest.approx(expected[code]) for code, log in drawn)
    for code, log in expected.items():
        share = sum(other == code for other, _ in drawn) / len(drawn)
        assert abs(share - np.exp(log)) < 5 * np.sqrt(np.exp(log) / len(drawn))


def test_the_factorized_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(3)
    policy = factorized(dataclasses.replace(REINFORCE, entropy=0.3))
    codes, weights = CODES[rng.integers(len(CODES), size=7)], rng.normal(size=7)
    where = np.isfinite(policy.logits)
    direction = np.where(where, rng.normal(size=where.shape), 0)
    start = policy.logits

    def climbed(logits):
        policy.logits = logits
        return np.mean(weights * policy.log_probs(codes)) + 0.3 * policy.entropy()

    expected = slope(climbed, start, direction)
    policy.logits = start
    found = policy.gradient(codes, weights)
    assert np.sum(found * direction) == pytest.approx(expected, rel=1e-6)
    assert not found[~where].any()


def test_the_expected_factorized_gradient_is_that_of_the_expected_reward():
    policy = factorized()
    start, direction = policy.logits, np.random.default_rng(4).normal(size=policy.logits.shape)
    probabilities = np.exp(policy.log_probs(CODES))
    mean = sum(
        p * policy.gradient(code[None], np.array([reward - 0.4]))  # 0.4: any baseline
        for p, code, reward in zip(probabilities, CODES, REWARDS, strict=True)
    )

    def expected(logits):
        policy.logits = logits
        return np.sum(np.exp(policy.log_probs(CODES)) * REWARDS)

    assert np.sum(mean * direction) == pytest.approx(slope(expected, start, direction), rel=1e-6)


def test_a_factorized_update_by_hand():
    policy = Factorized((2,), dataclasses.replace(REINFORCE, learning_rate=0.5))
    # Gradient: (3 (1/2, -1/2) + 1 (-1/2, 1/2)) / 2 = (1/2, -1/2); Adam's first step is the rate.
    policy.update(np.array([[0], [1]]), np.log([0.5, 0.5]), np.array([3.0, 1.0]))
    np.testing.assert_allclose(policy.logits, [[0.5, -0.5]], atol=1e-7)
    # Now p = 1 / (1 + e^-1) = 0.7310586, and of code 1 only: 2 (-p, p).
    policy.update(np.array([[1]]), np.log([0.5]), np.array([2.0]))
    first = (0.9 * 0.05 + 0.1 * -1.4621172) / 0.19
    second = (0.999 * 0.00025 + 0.001 * 2.1377866) / 0.001999
    moved = 0.5 + 0.5 * first / np.sqrt(second)
    np.testing.assert_allclose(policy.logits, [[moved, -moved]], atol=1e-6)


# --- the LSTM -------------------------------------------------------------------------------------


def by_hand(params, code):
    """The LSTM again, in NumPy: log-probability and summed entropies of a code."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    params = {name: np.asarray(array) for name, array in params.items()}
    h = cell = np.zeros_like(params['first'])
    x, log, entropy = params['first'], 0.0, 0.0
    for d, choice in enumerate(code):
        i, f, g, o = np.split(params['kernel'].T @ np.concatenate([x, h]) + params['bias'], 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        scores = np.exp(params['head'][d].T @ h + params['offset'][d])[: COUNTS[d]]
        p = scores / scores.sum()
        log, entropy = log + np.log(p[choice]), entropy - np.sum(p * np.log(p))
        x = params['embed'][d][choice]
    return log, entropy


def test_the_lstm_is_what_numpy_computes():
    with jax.enable_x64():
        params = recurrent()
        logs, entropies = lstm.score(params, np.array(COUNTS), CODES)
    expected = np.array([by_hand(params, code) for code in CODES])
    np.testing.assert_allclose(np.stack([logs, entropies], 1), expected, rtol=1e-10)
    assert np.exp(logs).max() > 5 * np.exp(logs).min()  # or the comparison would be weak


def test_the_lstms_probabilities_of_all_codes_sum_to_one():
    space = NasBenchMacro()
    params = lstm.init(space.counts, 100, np.random.default_rng(0))
    params = {name: 5 * array for name, array in params.items()}
    codes = np.array(list(space.codes()))
    logs, _ = lstm.score(params, np.array(space.counts), codes)
    assert len(codes) == 3**8
    assert np.exp(np.float64(logs)).sum() == pytest.approx(1, abs=1e-5)


def test_an_lstm_with_zero_logits_is_even():
    with jax.enable_x64():
        params = recurrent()
        params |= {name: 0 * params[name] for name in ('head', 'offset')}
        logs, entropies = lstm.score(params, np.array(COUNTS), CODES)
    total = sum(map(math.log, COUNTS))
    np.testing.assert_allclose(logs, -total, rtol=1e-12)
    np.testing.assert_allclose(entropies, total, rtol=1e-12)


def test_the_lstm_draws_by_its_probabilities():
    with jax.enable_x64():
        params, counts = recurrent(), np.array(COUNTS)
        uniforms = np.random.default_rng(0).random((20_000, len(COUNTS)))
        drawn, logs = jax.vmap(lambda u: lstm.sample(params, counts, u))(uniforms)
        expected, _ = lstm.score(params, counts, CODES)
        last, _ = lstm.sample(params, counts, np.ones(len(COUNTS)))  # sums that round below 1
    assert last.tolist() == [count - 1 for count in COUNTS]
    for code, log in zip(CODES, expected, strict=True):
        found = (np.asarray(drawn) == code).all(1)
        np.testing.assert_allclose(np.asarray(logs)[found], log)
        assert abs(found.mean() - np.exp(log)) < 5 * np.sqrt(np.exp(log) / len(found))


@pytest.mark.parametrize('step', [REINFORCE, dataclasses.replace(PPO, entropy=0.3)])
def test_the_lstms_gradient_is_that_of_finite_differences(step):
    rng = np.random.default_rng(6)
    with jax.enable_x64():
        params, counts = recurrent(), np.array(COUNTS)
        codes = CODES[rng.integers(len(CODES), size=24)]
        logs, _ = lstm.score(params, counts, codes)
        old, advantages = np.array(logs) + rng.normal(size=24) * 0.3, rng.normal(size=24)
        gradient = jax.grad(lstm.loss)(params, counts, codes, old, advantages, step)
        direction = {name: rng.normal(size=array.shape) for name, array in params.items()}

        def climbed(t):
            moved = {name: params[name] + t * direction[name] for name in params}
            logs, entropies = lstm.score(moved, counts, codes)
            gains = clipped(np.exp(logs - old), advantages) if step.clip else advantages * logs
            return float(np.mean(gains + step.entropy * entropies))

        found = -sum(np.vdot(gradient[name], direction[name]) for name in params)
        assert found == pytest.approx(slope(climbed, 0.0, 1.0, 1e-6), rel=1e-5)


def test_the_lstms_expected_gradient_is_that_of_the_expected_reward():
    with jax.enable_x64():
        params, counts = recurrent(), np.array(COUNTS)
        logs, _ = lstm.score(params, counts, CODES)
        # A batch of all codes, each with its expected count; 0.4: any baseline.
        logs = np.array(logs)
        shares = np.exp(logs) * len(CODES) * (REWARDS - 0.4)
        found = jax.grad(lstm.loss)(params, counts, CODES, logs, shares, REINFORCE)

        def expected(params):
            return -jnp.sum(jnp.exp(lstm.score(params, counts, CODES)[0]) * REWARDS)

        exact = jax.grad(expected)(params)
    for name, array in exact.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-10)


# --- the searcher ---------------------------------------------------------------------------------

QUICK = {'controller': 'factorised', 'learning_rate': 0.1}
TINY = {'units': 4, 'batch': 3, 'learning_rate': 0.1}


def told(searcher, count, fitness=lambda code: float(sum(code))):
    for _ in range(count):
        trial = searcher.ask()
        searcher.tell(trial, fitness(trial.code))
    return searcher


@pytest.mark.parametrize('fields', [QUICK, pytest.param(TINY, marks=pytest.mark.sweep)])
def test_the_first_step_of_ppo_is_that_of_reinforce(fields):
    def after(**changed):
        searcher = PolicyGradient(Small(), 0, **{**fields, 'batch': 3, **changed})
        policy = told(searcher, 3).controller
        return policy.logits if fields is QUICK else policy.params['head']

    one = after(epochs=1)
    np.testing.assert_array_equal(one, after(algorithm='reinforce'))
    assert not np.array_equal(one, after(epochs=2))


def test_the_baseline_is_a_moving_average_that_begins_at_the_first_batch():
    searcher = PolicyGradient(Small(), 0, **QUICK, algorithm='reinforce', batch=2)
    advantages = []
    searcher.controller.update = lambda codes, log_probs, values: advantages.append(values)
    for reward in (1, 3, 4, 6, 0, 0):
        searcher.tell(searcher.ask(), reward)
    after = 0.95 * (0.95 * 2 + 0.05 * 4) + 0.05 * 6
    np.testing.assert_allclose(advantages, [[-1, 1], [2, 4], [-after, -after]], rtol=1e-12)


def test_a_trial_keeps_the_probability_that_it_was_drawn_with():
    searcher = PolicyGradient(Small(), 0, **QUICK, batch=2)
    early = [searcher.ask() for _ in range(3)]
    for trial in early[:2]:
        searcher.tell(trial, float(trial.number))
    policy, batches = searcher.controller, []
    late = searcher.ask()
    log = policy.log_probs(np.array([late.code]))[0]
    policy.update = lambda codes, log_probs, values: batches.append((codes.tolist(), log_probs))
    for trial in (late, early[2]):
        searcher.tell(trial, 1.0)
    [(codes, log_probs)] = batches
    assert codes == [list(late.code), list(early[2].code)]
    even = -sum(map(math.log, COUNTS))
    np.testing.assert_allclose(log_probs, [log, even], rtol=1e-12)
    assert log != pytest.approx(even)


@pytest.mark.parametrize('fields', [QUICK, TINY])
def test_the_same_asks_and_tells_give_the_same_codes(fields):
    def codes():
        searcher, out, rng = PolicyGradient(Small(), 7, **fields), [], np.random.default_rng(0)
        for _ in range(60):
            out.append(searcher.ask())
            if len(out) > 4:
                trial = out.pop(rng.integers(len(out)))
                searcher.tell(trial, float(sum(trial.code)))
        return [searcher.ask().code for _ in range(20)]

    assert codes() == codes()


def test_what_failed_is_worth_the_worst():
    searcher = PolicyGradient(Small(), 0, **QUICK, algorithm='reinforce', batch=2)
    rewards = []
    searcher.controller.update = lambda codes, log_probs, values: rewards.append(values)
    for reward in (FAILED, FAILED, 5.0, FAILED, 2.0, FAILED, 4.0, FAILED):
        searcher.tell(searcher.ask(), reward)
    assert len(rewards) == 3  # two failures before the first fitness change nothing
    np.testing.assert_allclose(rewards[0], [0, 0])
    assert rewards[1][0] == rewards[1][1]
    assert rewards[2][0] - rewards[2][1] == pytest.approx(2)


@pytest.mark.parametrize('algorithm', ['ppo', 'reinforce'])
def test_it_finds_what_is_best(algorithm):
    searcher = PolicyGradient(Small((2,) * 10), 0, **QUICK, algorithm=algorithm)
    told(searcher, 600)
    assert np.mean([sum(searcher.ask().code) for _ in range(100)]) > 9.5


class Growing(Space):
    """A space with codes of different lengths."""

    choices = genotype = code = None


@pytest.mark.parametrize(
    ('space', 'fields', 'message'),
    [
        (Growing, {}, 'PolicyGradient cannot search Growing, whose codes differ in length'),
        (Small, {'controller': 'gru'}, "controller is 'gru'; known: lstm, factorised"),
        (Small, {'algorithm': 'ddpg'}, "algorithm is 'ddpg'; known: ppo, reinforce"),
        (Small, {'batch': 0}, 'batch 0'),
        (Small, {'baseline': 1.0}, 'baseline 1.0'),
    ],
)
def test_mistakes_are_one_line(space, fields, message):
    with pytest.raises(UserError, match=message):
        PolicyGradient(space(), 0, **fields)


# --- with the tables ------------------------------------------------------------------------------


@pytest.mark.tables
@pytest.mark.parametrize('algorithm', ['ppo', 'reinforce'])
def test_policy_gradients_beat_random_search_on_nasbench201(algorithm):
    def make(space, seed):
        return PolicyGradient(space, seed, **QUICK, algorithm=algorithm)

    assert nasdata.gain(make, Random, nasdata.nasbench201, 500, 50).mean() > 0.08


@pytest.mark.tables
@pytest.mark.sweep
def test_nasnets_controller_beats_random_search_on_nasbench201():
    def make(space, seed):
        return PolicyGradient(space, seed, learning_rate=3.5e-3)

    assert nasdata.gain(make, Random, nasdata.nasbench201, 500, 20).mean() > 0.08
