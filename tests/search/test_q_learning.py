"""Q-learning: updates by hand, searches against an independent account, and resuming.

The space has three digits below three; the fitness of a code is a closed formula.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from cls.errors import UserError
from cls.recipes.search import block_qnn, metaqnn
from cls.search import loop, registry
from cls.search.evaluators.table import Table
from cls.search.history import FILE, History
from cls.search.searcher import FAILED
from cls.search.searchers.q_learning import BLOCK_QNN, METAQNN, QLearning, scaled
from cls.search.spaces.tabular import FixedOps, NasBench201

SPACE = FixedOps(3, 3)
RANDOM = ((1.0, 1000),)


def worth(code):
    """Additive, with an interaction: no two codes of SPACE have the same fitness."""
    return sum((choice + 1) * 3**-place for place, choice in enumerate(code, 1)) / 2 * code[0] + 0.1


def told(searcher, count, worth=worth):
    """Asks for a number of trials, one at a time, and returns them."""
    trials = []
    while len(trials) < count and (trial := searcher.ask()) is not None:
        searcher.tell(trial, worth(trial.code))
        trials.append(trial)
    return trials


def path(searcher, code):
    return [
        (searcher.values.setdefault(searcher.space.state(code[:i]), [searcher.initial] * 3), choice)
        for i, choice in enumerate(code)
    ]


@pytest.mark.parametrize(
    ('shaped', 'discount', 'expected'),
    [
        # last: .5 + .1 (1 - .5) = .55; middle: .5 + .1 (.55 - .5); first: .5 + .1 (.505 - .5)
        (False, 1.0, (0.5005, 0.505, 0.55)),
        # middle: .5 + .1 (.8 * .55 - .5) = .494; first: .5 + .1 (.8 * .5 - .5): .5 is the best
        (False, 0.8, (0.49, 0.494, 0.55)),
        # last: .5 + .1 (1/3 - .5); middle: .5 + .1 (1/3 + .5 - .5), .5 being the best;
        # first: .5 + .1 (1/3 + .533333 - .5)
        (True, 1.0, (0.536666667, 0.533333333, 0.483333333)),
    ],
)
def test_a_trajectory_of_three_steps(shaped, discount, expected):
    searcher = QLearning(SPACE, 0, rate=0.1, discount=discount, shaped=shaped)
    steps = path(searcher, (0, 2, 1))
    searcher.update(steps, 1.0)
    assert [values[choice] for values, choice in steps] == pytest.approx(expected, abs=1e-9)
    assert sum(value != 0.5 for values in searcher.values.values() for value in values) == 3


def test_a_second_trajectory_looks_at_the_best_of_what_follows():
    searcher = QLearning(SPACE, 0, rate=0.1)
    searcher.update(path(searcher, (0, 2, 1)), 1.0)
    searcher.update(path(searcher, (0, 2, 0)), 0.0)  # the same states, another last choice
    values = searcher.values
    assert values[2, (2,)] == pytest.approx([0.45, 0.55, 0.5])
    assert values[1, (0,)] == pytest.approx([0.5, 0.5, 0.505 + 0.1 * (0.55 - 0.505)])
    assert values[0, ()] == pytest.approx([0.5005 + 0.1 * (0.5095 - 0.5005), 0.5, 0.5])


def test_the_papers_schedules():
    assert sum(models for _, models in METAQNN) == 2700
    assert sum(batches for _, batches in BLOCK_QNN) == 178
    assert [epsilon for epsilon, _ in METAQNN] == [epsilon for epsilon, _ in BLOCK_QNN]
    assert scaled(METAQNN, 27) == tuple(
        zip([epsilon for epsilon, _ in METAQNN], (15, 1, 1, 1, 1, 2, 1, 2, 1, 2), strict=True)
    )
    assert sum(models for _, models in scaled(METAQNN, 500)) == 500


def test_epsilon_counts_models_that_are_new():
    searcher = QLearning(SPACE, 0, schedule=((1.0, 3), (0.25, 2)), replay=1)
    seen = []
    for _ in range(5):
        seen.append(searcher.epsilon())
        told(searcher, 1)
    assert seen == [1.0, 1.0, 1.0, 0.25, 0.25]
    assert searcher.epsilon() is None and searcher.ask() is None


@pytest.mark.parametrize('epsilon', [0.0, 0.3, 1.0])
def test_decisions_are_the_best_but_for_epsilon(epsilon):
    searcher = QLearning(SPACE, 0)
    searcher.values[0, ()] = [0.5, 0.7, 0.7]
    rng, draws = np.random.default_rng(0), 6000
    counts = np.bincount([searcher._draw(epsilon, rng)[0] for _ in range(draws)], minlength=3)
    expected = draws * np.array([epsilon / 3, *2 * [(1 - epsilon) / 2 + epsilon / 3]])
    assert np.all(np.abs(counts - expected) <= 4 * np.sqrt(expected))


def test_the_course_of_a_search():
    """An independent account of the algorithm, with the same random numbers."""
    searcher = QLearning(SPACE, 5, schedule=((1.0, 8), (0.2, 12)), rate=0.1, replay=7)
    asked = [trial.code for trial in told(searcher, 20)]

    table = {}  # (position, last digit, choice) -> value
    value = lambda i, code: table.get((i, code[i - 1] if i else None, code[i]), 0.5)  # noqa: E731
    best = lambda i, code: max(value(i, (*code[:i], c)) for c in range(3))  # noqa: E731
    memory, codes = [], []

    def replay(rng):
        for pick in rng.integers(len(memory), size=7):
            code = memory[pick]
            for i in (2, 1, 0):
                target = worth(code) if i == 2 else best(i + 1, code)
                key = (i, code[i - 1] if i else None, code[i])
                table[key] = value(i, code) + 0.1 * (target - value(i, code))

    for number in range(20):
        rng, epsilon, repeated = (
            np.random.default_rng([5, number, 0]),
            1.0 if number < 8 else 0.2,
            [],
        )
        while True:
            code = ()
            for i in range(3):
                if rng.random() < epsilon:
                    code += (int(rng.integers(3)),)
                else:
                    found = [c for c in range(3) if value(i, (*code, c)) == best(i, code)]
                    code += (found[rng.integers(len(found))],)
            if code not in codes:
                break
            repeated.append(code)
        for again in repeated:
            memory.append(again)
            replay(rng)
        codes.append(code)
        memory.append(code)
        replay(np.random.default_rng([5, number, 1]))

    assert asked == codes
    assert len(searcher.memory) == len(memory) > 20
    for i, last, choice in table:
        state = (i, () if last is None else (last,))
        assert searcher.values[state][choice] == pytest.approx(table[i, last, choice], rel=1e-12)


def test_no_model_is_asked_twice_and_a_small_space_ends():
    searcher = QLearning(FixedOps(2, 3), 0, schedule=RANDOM, replay=1)
    assert {trial.code for trial in told(searcher, 100)} == set(searcher.space.codes())
    assert searcher.asked == 9 and searcher.ask() is None
    assert len(searcher.memory) > 9  # codes drawn again are replayed again


def test_running_models_are_not_asked_again_but_replayed_as_often_as_drawn():
    searcher = QLearning(FixedOps(2, 3), 0, schedule=RANDOM, replay=1)
    trials = [searcher.ask() for _ in range(9)]
    assert {trial.code for trial in trials} == set(searcher.space.codes())
    assert searcher.ask() is None
    drawn = sum(searcher._waiting.values())
    for trial in trials:
        searcher.tell(trial, 0.5)
    assert len(searcher.memory) == drawn > 9


def test_batches_are_drawn_from_the_same_values():
    searcher = QLearning(SPACE, 0, schedule=((1.0, 2), (0.0, 1)), batch=4, replay=3, rate=0.5)
    trials = []
    while (trial := searcher.ask()) is not None:
        trials.append(trial)
    assert sum(searcher._waiting.values()) == 4 and searcher.batches == 1
    for trial in trials[1:]:
        searcher.tell(trial, 1.0)
        assert searcher.ask() is None
        assert {value for values in searcher.values.values() for value in values} == {0.5}
    updates, update = [], searcher.update
    searcher.update = lambda path, worth: (updates.append(worth), update(path, worth))
    searcher.tell(trials[0], 1.0)
    assert len(searcher.memory) == 4 and len(updates) == 3 * 4
    assert max(value for values in searcher.values.values() for value in values) > 0.5
    assert searcher.ask() is not None and searcher.batches == 2


def test_batches_without_anything_new_are_learned_from_until_the_schedule_ends():
    searcher = QLearning(FixedOps(1, 2), 0, schedule=((1.0, 20),), batch=3, replay=2)
    told(searcher, 100)
    assert searcher.asked == 2 and searcher.batches == 20 and len(searcher.memory) == 60


def test_what_failed_is_worth_nothing():
    searcher = QLearning(FixedOps(1, 1), 0, schedule=((1.0, 1),), replay=1, rate=0.5)
    told(searcher, 1, lambda code: FAILED)
    assert searcher.values[0, ()] == [0.25]


@pytest.mark.parametrize('batch', [0, 4])
@pytest.mark.parametrize('lines', [0, 1, 17, 30])
def test_a_search_continues(tmp_path, batch, lines):
    def run(folder):
        fields = {'schedule': ((1.0, 6), (0.1, 40)), 'rate': 0.1, 'replay': 9, 'batch': batch}
        searcher = QLearning(SPACE, 3, **fields)
        submit = loop.submit_inline(lambda trial: {'accuracy': worth(trial.code)})
        accuracy = registry.create('objective', {'name': 'accuracy'})
        history = History(folder / FILE)
        loop.search(searcher, submit, accuracy, history, evaluations=20, max_concurrent=3)
        return searcher

    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    whole.mkdir(), cut.mkdir()
    searcher = run(whole)
    written = (whole / FILE).read_bytes()
    (cut / FILE).write_bytes(b''.join(written.splitlines(keepends=True)[:lines]))
    continued = run(cut)
    assert (cut / FILE).read_bytes() == written
    assert continued.values == searcher.values and continued.memory == searcher.memory


def sampled(space, worth, seed, shaped, **fields):
    """Returns the fitness of the models of the last epsilon, repetitions included."""
    searcher = QLearning(space, seed, BLOCK_QNN, shaped=shaped, replay=64, **fields)
    told(searcher, 10**6, worth)
    return np.mean([worth for _, worth in searcher.memory[-BLOCK_QNN[-1][1] * searcher.batch :]])


def test_shaped_rewards_find_more():
    """The value of the first of six decisions is known late."""
    space = FixedOps(6, 4)
    worth = lambda code: 0.1 + 0.12 * sum(choice == 3 for choice in code)  # noqa: E731
    found = {
        shaped: np.mean([sampled(space, worth, seed, shaped, batch=2) for seed in range(4)])
        for shaped in (True, False)
    }
    assert found[True] > found[False] + 0.12  # measured: 0.25


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'schedule': ((1.5, 3),)}, 'schedule'),
        ({'schedule': ((0.5, 0),)}, 'schedule'),
        ({'replay': 0}, 'replay 0'),
        ({'batch': -1}, 'batch is -1'),
    ],
)
def test_values_that_do_not_fit(fields, says):
    with pytest.raises(UserError, match=says):
        registry.create('searcher', {'name': 'q_learning', **fields}, SPACE, 0)


def test_it_is_made_from_a_config():
    config = registry.defaults('searcher', 'q_learning', replay=3)
    searcher = registry.create('searcher', config, SPACE, 0)
    assert searcher.schedule == METAQNN and searcher.replay == 3 and searcher.initial == 0.5


@pytest.mark.parametrize(
    ('system', 'arm', 'models', 'trials'),
    [
        (metaqnn, 'digits', 60, 60),
        (metaqnn, 'paper', 2700, 2700),
        (metaqnn, 'svhn', 2700, 2700),
        (metaqnn, 'mnist', 2700, 2700),
        (metaqnn, 'nasbench201', 500, 500),
        (metaqnn, 'macro', 500, 500),
        (metaqnn, 'whole', 2700, 2700),
        (block_qnn, 'digits', 15, 60),
        (block_qnn, 'paper', 178, 11_392),
        (block_qnn, 'nasbench201', 62, 496),
        (block_qnn, 'macro', 62, 496),
        (block_qnn, 'whole', 178, 1424),
    ],
)
def test_arms(system, arm, models, trials):
    search = system.get_config(arm).search
    space = registry.create('space', search.space)
    searcher = registry.create('searcher', search.searcher, space, 0)
    assert sum(count for _, count in searcher.schedule) == models
    assert search.evaluations == trials
    space.check(searcher.ask().code)


# ---------------------------------------------------------------------------- on real tables


@pytest.fixture
def nasbench201():
    if not os.environ.get('CLS_NASDATA'):
        pytest.skip('CLS_NASDATA names no folder of tables')
    file = Path(os.environ['CLS_NASDATA']) / 'nasbench201/nb201.csv.gz'
    return Table(NasBench201(), file, 'ops', ('c10_val_12ep',), 'c10_test_200ep')


@dataclasses.dataclass(frozen=True)
class Asked:
    number: int
    code: tuple[int, ...]


@pytest.mark.tables
@pytest.mark.sweep
def test_models_improve_as_epsilon_falls(nasbench201):
    """The paper's claim, over its whole schedule; three repeats."""
    rises = []
    for seed in range(3):
        searcher = QLearning(nasbench201.space, seed, initial=50.0)
        seen = [
            nasbench201(trial)['accuracy']
            for trial in told(searcher, 2700, lambda c: nasbench201(Asked(0, c))['accuracy'])
        ]
        rises.append(np.mean(seen[-450:]) - np.mean(seen[:1500]))
    assert np.mean(rises) > 3  # measured, 10 seeds: 4.3, standard deviation 0.9


@pytest.mark.tables
def test_shaped_rewards_find_more_on_nasbench201(nasbench201):
    """Block-QNN's 178 iterations, of 8 models."""
    worth = lambda code: nasbench201(Asked(0, code))['accuracy']  # noqa: E731
    found = {
        shaped: np.mean(
            [
                sampled(nasbench201.space, worth, seed, shaped, batch=8, initial=50.0)
                for seed in range(3)
            ]
        )
        for shaped in (True, False)
    }
    assert found[True] > 81.5 and found[True] - found[False] > 2
