"""GeNet's algorithm: probabilities by hand, generations against an independent loop, finds."""

import nasdata
import numpy as np
import pytest

from cls.errors import UserError
from cls.search import loop
from cls.search.history import History
from cls.search.searcher import FAILED
from cls.search.searchers.genetic import Genetic, survival
from cls.search.searchers.random import Random
from cls.search.space import Space
from cls.search.spaces.genet import GeNetBits
from cls.search.spaces.tabular import FixedOps


@pytest.mark.parametrize(
    ('fitnesses', 'chances'),
    [
        ([0.5, 0.7, 0.6, 0.6], [0, 0.5, 0.25, 0.25]),  # 0.2, 0.1, 0.1 above the least
        ([3.0, FAILED, 1.0, 2.0], [2 / 3, 0, 0, 1 / 3]),
        ([0.4, 0.4], [0.5, 0.5]),
        ([0.4, FAILED], [0.5, 0.5]),
        ([FAILED, FAILED], [0.5, 0.5]),
    ],
)
def test_survival(fitnesses, chances):
    np.testing.assert_allclose(survival(fitnesses), chances)


def worth(trial):
    """A fitness with noise, so that means over several evaluations matter."""
    return sum(trial.code) + np.random.default_rng(trial.number).normal()


def generation(searcher, fitness=worth):
    trials = [searcher.ask() for _ in range(searcher.population)]
    assert searcher.ask() is None
    return trials, [fitness(trial) for trial in trials]


def test_generations_are_those_of_algorithm_1():
    """The next generation, with the generator of its last `tell`, in the order of its draws."""
    space = GeNetBits((2, 3))  # 1 and 3 bits
    searcher = Genetic(space, 3, population=7, crossover=0.5, crossover_rate=0.5, mutation_rate=0.3)
    seen = {}
    expected, parents = None, None
    crossed = 0
    for round_ in range(12):
        trials, fitnesses = generation(searcher)
        if expected:
            assert [trial.code for trial in trials] == expected
            assert [trial.parents for trial in trials] == parents
        for trial, fitness in zip(trials, fitnesses, strict=True):
            seen.setdefault(trial.code, []).append(fitness)
            searcher.tell(trial, fitness)
        means = np.array([sum(seen[t.code]) / len(seen[t.code]) for t in trials])
        rng = np.random.default_rng([3, 7 * round_ + 6, 1])
        above = means - means.min()
        drawn = rng.choice(7, size=7, p=above / above.sum())
        codes = [list(trials[i].code) for i in drawn]
        parents = [(trials[i].number,) for i in drawn]
        for one in (0, 2, 4, 6):
            pair = [one, one + 1] if one < 6 else [one]
            if len(pair) == 2 and rng.random() < 0.5:
                crossed += 1
                for stage, swap in zip([slice(0, 1), slice(1, 4)], rng.random(2), strict=True):
                    if swap < 0.5:
                        a, b = codes[one][stage], codes[one + 1][stage]
                        codes[one][stage], codes[one + 1][stage] = b, a
                first, second = parents[one], parents[one + 1]
                parents[one], parents[one + 1] = first + second, second + first
                continue
            for i in pair:
                if rng.random() < 0.8:
                    for place in np.flatnonzero(rng.random(4) < 0.3):
                        rng.integers(1)
                        codes[i][place] = 1 - codes[i][place]
        expected = [tuple(code) for code in codes]
    assert 5 < crossed < 31
    assert max(len(values) for values in seen.values()) > 3


def test_order_of_telling_changes_nothing():
    codes = []
    for order in (1, -1):
        searcher = Genetic(GeNetBits((3, 3)), 5)
        for _ in range(4):
            trials, fitnesses = generation(searcher)
            for trial, fitness in list(zip(trials, fitnesses, strict=True))[::order]:
                searcher.tell(trial, fitness)
        codes.append([trial.code for trial in generation(searcher)[0]])
    assert codes[0] == codes[1]


def test_fitness_is_the_mean_of_all_evaluations():
    searcher = Genetic(FixedOps(1, 1), 0, population=2)
    for fitness in (0.2, 0.4, FAILED, 0.9):
        searcher.tell(searcher.ask(), fitness)
    assert searcher.fitness((0,)) == pytest.approx(0.5)
    assert searcher.fitness((1,)) == FAILED


@pytest.mark.parametrize('lines', [1, 29, 46, 90])
def test_a_search_continues_as_it_would_have_gone_on(tmp_path, lines):
    """A search continues from any part of its history on the disk."""

    def run(file):
        searcher = Genetic(GeNetBits((3, 3)), 5, population=8)
        submit = loop.submit_inline(lambda trial: {'accuracy': worth(trial)})
        search = History(file)
        loop.search(
            searcher, submit, lambda m: m['accuracy'], search, evaluations=60, max_concurrent=3
        )
        assert len(search.results) == 60

    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    run(whole)
    cut.write_text(''.join(whole.read_text().splitlines(keepends=True)[:lines]) + '{"asked": 5')
    run(cut)
    results = [
        [line for line in file.read_text().splitlines() if 'told' in line] for file in (whole, cut)
    ]
    assert results[0] == results[1]


def test_rates_of_change():
    """Every pair exchanges, or every bit of every individual flips, or nothing changes."""
    space = GeNetBits((3, 3))

    def bred(**rates):
        searcher = Genetic(space, 1, population=10, **rates)
        trials, fitnesses = generation(searcher)
        codes = {trial.number: trial.code for trial in trials}
        for trial, fitness in zip(trials, fitnesses, strict=True):
            searcher.tell(trial, fitness)
        return codes, generation(searcher)[0]

    codes, trials = bred(crossover=0.0, mutation=0.0)
    assert all(trial.code == codes[trial.parents[0]] for trial in trials)
    codes, trials = bred(crossover=1.0, crossover_rate=1.0)
    assert all(trial.code == codes[trial.parents[1]] for trial in trials)
    codes, trials = bred(crossover=0.0, mutation=1.0, mutation_rate=1.0)
    for trial in trials:
        assert trial.code == tuple(1 - bit for bit in codes[trial.parents[0]])


def test_it_reaches_the_best_of_an_enumerated_space():
    """Mean over 20 seeds of the first generation with one of the best 5 % of 64 codes."""
    space = GeNetBits((3, 3))
    weights = np.array([3, -2, 1.5, 1, 2.5, -1])
    values = {code: float(weights @ np.array(code)) for code in space.codes()}
    least = sorted(values.values())[-3]
    first = []
    for seed in range(20):
        searcher = Genetic(space, seed)
        while True:
            trials, fitnesses = generation(searcher, lambda trial: values[trial.code])
            for trial, fitness in zip(trials, fitnesses, strict=True):
                searcher.tell(trial, fitness)
            if max(fitnesses) >= least:
                break
        first.append(searcher.asked // 20 - 1)
    assert np.mean(first) <= 3


def test_what_does_not_fit_is_refused():
    class Bare(Space):
        choices = genotype = code = None

    with pytest.raises(UserError, match='no crossover and no redrawn'):
        Genetic(Bare(), 0)
    with pytest.raises(UserError, match='expected 2 or more'):
        Genetic(FixedOps(2, 2), 0, mutation=1.1)


@pytest.mark.tables
@pytest.mark.sweep
def test_it_finds_better_models_than_random_search():
    """Measured separately: 0.111."""
    assert nasdata.gain(Genetic, Random, nasdata.macro, 500, 50).mean() > 0.05
