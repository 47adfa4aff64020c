"""A sampled table completed by ridge regression, and MnasNet's reward."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from cls.errors import UserError
from cls.recipes.search import common
from cls.search import registry
from cls.search.evaluators import surrogate
from cls.search.searcher import Trial
from cls.search.searchers.evolution import Evolution
from cls.search.searchers.policy import PolicyGradient
from cls.search.searchers.random import Random
from cls.search.spaces.mnasnet import AccelNasBench
from cls.search.spaces.tabular import FixedOps
from tests.search import nasdata

COUNTS = (2, 1, 3, 4)
CODES = np.array(list(itertools.product(*map(range, COUNTS))))


# --- ridge regression -----------------------------------------------------------------------------


def expanded(codes):
    """Every choice and every pair of choices as a column, one by one."""
    columns = []
    free = [i for i, count in enumerate(COUNTS) if count > 1]
    for i in free:
        columns += [codes[:, i] == a for a in range(COUNTS[i])]
    for i, j in itertools.combinations(free, 2):
        pairs = itertools.product(range(COUNTS[i]), range(COUNTS[j]))
        columns += [(codes[:, i] == a) & (codes[:, j] == b) for a, b in pairs]
    return np.stack(columns, 1).astype(float)


def test_choices_and_pairs_have_a_place_each():
    pairs = surrogate.Pairs(COUNTS)
    ones = np.zeros((len(CODES), pairs.size))
    np.put_along_axis(ones, pairs.positions(CODES), 1, 1)
    np.testing.assert_array_equal(ones, expanded(CODES))


def test_the_regression_is_where_its_loss_is_flat():
    rng, penalty = np.random.default_rng(0), 3.0
    codes, values = CODES[rng.permutation(len(CODES))[:15]], rng.normal(size=(15, 2))
    ridge = surrogate.fit(COUNTS, codes, values, penalty)
    x = expanded(codes)
    rest = x @ ridge.weights + ridge.constant - values
    np.testing.assert_allclose(x.T @ rest + penalty * ridge.weights, 0, atol=1e-10)
    np.testing.assert_allclose(rest.sum(0), 0, atol=1e-10)
    np.testing.assert_allclose(ridge(CODES), expanded(CODES) @ ridge.weights + ridge.constant)


@dataclasses.dataclass(frozen=True)
class Words(FixedOps):
    """A space of three digits, in two columns of the table."""

    length: int = 3
    operations: int = 4

    def named(self, name):
        return self.code(name.replace(',', ''))


def write(path: Path, codes, values) -> Path:
    rows = zip(codes, values, strict=True)
    lines = ['a,b,acc,ms', *(f'{c[0]},{c[1]}{c[2]},{v},{t}' for c, (v, t) in rows)]
    path.write_text('\n'.join(lines) + '\n')
    return path


def config_of(file):
    config = common.base()
    config.search.table = str(file)
    return config


def evaluator(space, file, **fields):
    fields = {'key': 'a,b', 'accuracy': 'acc', 'latency': 'ms', **fields}
    return registry.create('evaluator', {'name': 'surrogate', **fields}, space, config_of(file))


def test_what_is_a_sum_over_pairs_is_found_from_a_sample(tmp_path):
    space, rng = Words(), np.random.default_rng(1)
    codes = np.array(list(space.codes()))
    one, pair = rng.normal(size=(3, 4)), rng.normal(size=(4, 4))
    acc = one[np.arange(3), codes].sum(1) + pair[codes[:, 0], codes[:, 2]]
    ms = np.exp(one[np.arange(3), codes].sum(1) / 2)
    some = rng.permutation(len(codes))[:52]
    values = list(zip(acc[some], ms[some], strict=True))
    values[0] = ('', 1.0)  # an incomplete row is left out
    file = write(tmp_path / 'table.csv', codes[some], values)
    evaluate = evaluator(space, file, penalty=1e-7)
    for code, a, t in zip(codes.tolist(), acc, ms, strict=True):
        metrics = evaluate(Trial(0, tuple(code)))
        assert metrics == {'accuracy': pytest.approx(a), 'latency': pytest.approx(t)}


@pytest.mark.parametrize(
    ('codes', 'values', 'message'),
    [
        ([(1, 2, 3)], [(0.5, 0.0)], 'column ms: expected numbers above 0'),
        ([(1, 2, 7)], [(0.5, 1.0)], 'a row that is not of the space'),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, codes, values, message):
    with pytest.raises(UserError, match=message):
        evaluator(Words(), write(tmp_path / 'table.csv', codes, values))


def test_spaces_without_names_and_tables_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match='expected the space accel_nasbench'):
        evaluator(FixedOps(3, 4), tmp_path / 'no.csv')
    with pytest.raises(UserError, match='table is empty: expected .* a,b, acc, ms'):
        evaluator(Words(), '')
    with pytest.raises(UserError, match='there is no table'):
        evaluator(Words(), tmp_path / 'no.csv')


# --- the reward -----------------------------------------------------------------------------------


def reward(metrics, **fields):
    return registry.create('objective', {'name': 'accuracy_latency', **fields})(metrics)


def test_the_soft_reward_takes_the_same_share_for_each_doubling():
    assert reward({'accuracy': 0.76, 'latency': 150.0}) == 0.76 * 2**-0.07
    assert reward({'accuracy': 0.76, 'latency': 37.5}) == 0.76 * 0.5**-0.07
    assert reward({'accuracy': 0.76, 'latency': 75.0}) == 0.76


def test_the_hard_reward_is_the_accuracy_within_the_target():
    hard = {'alpha': 0.0, 'beta': -1.0}
    for ms, expected in ((1.0, 0.76), (75.0, 0.76), (150.0, 0.38)):
        assert reward({'accuracy': 0.76, 'latency': ms}, **hard) == expected


def test_the_reward_takes_other_metrics_and_names_those_there_are():
    assert reward({'accuracy': 0.5, 'macs': 4e6}, metric='macs', target=1e6, beta=-0.5) == 0.25
    with pytest.raises(UserError, match="no metric 'latency'; known: accuracy, macs"):
        reward({'accuracy': 0.5, 'macs': 4e6})
    with pytest.raises(UserError, match='target is 0'):
        reward({}, target=0)


# --- with the tables ------------------------------------------------------------------------------


def anb():
    return evaluator(
        AccelNasBench(),
        nasdata.file('mnasnet_anb/anb.csv.gz'),
        key='e,k,l,se',
        accuracy='val_top1',
        latency='latency_vck190',
    )


@pytest.mark.tables
def test_the_regression_foretells_what_it_has_not_seen():
    evaluate = anb()
    codes, values = evaluate.sample()
    order = np.random.default_rng(0).permutation(len(codes))
    seen, unseen = order[:4096], order[4096:]
    ridge = surrogate.fit(evaluate.space.counts, codes[seen], values[seen], 30.0)
    rest = ((ridge(codes[unseen]) - values[unseen]) ** 2).mean(0)
    r2 = 1 - rest / values[unseen].var(0)
    assert r2[0] > 0.97
    assert r2[1] > 0.99


@pytest.mark.tables
def test_searches_find_better_trade_offs_than_random_search():
    evaluate = anb()
    soft = registry.create('objective', {'name': 'accuracy_latency', 'target': 3.0})

    def found(make):
        """Mean best reward of five seeds, and the share of late trials that are too slow."""
        best, late = [], []
        for seed in range(5):
            searcher, rewards, times = make(evaluate.space, seed), [], []
            for _ in range(700):
                trial = searcher.ask()
                metrics = evaluate(trial)
                rewards.append(soft(metrics))
                times.append(metrics['latency'])
                searcher.tell(trial, rewards[-1])
            best.append(max(rewards))
            late.append(np.mean(np.array(times[-200:]) > 3.0))
        return np.mean(best), np.mean(late)

    base, slow = found(Random)
    assert slow > 0.6
    for make in (
        lambda space, seed: Evolution(space, seed, population=50, sample=10),
        lambda space, seed: PolicyGradient(space, seed, 'factorised', learning_rate=0.1),
    ):
        best, slow = found(make)
        assert best > base + 1.2  # of 65 %
        assert slow < 0.35
