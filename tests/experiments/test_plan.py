"""The trials of a sweep: combinations, seeds, names, contradictions."""

import json

import pytest

from cls.errors import UserError
from cls.experiments import plan as plan_module
from cls.experiments.plan import Plan, make_plan, readable, split_values


def test_a_grid_has_every_combination_with_every_seed():
    plan = make_plan(
        'resnet', [('duration', '2 epochs')], ['optim.lr=0.1,0.2', 'model.name=a,b'], 2
    )
    names = [trial.name for trial in plan.trials()]
    assert names[:3] == [
        'optim.lr=0.1,model.name=a,seed=0',
        'optim.lr=0.1,model.name=a,seed=1',
        'optim.lr=0.1,model.name=b,seed=0',
    ]
    assert len(names) == len(set(names)) == 8
    last = plan.trials()[-1]
    assert plan.all_overrides(last) == (
        ('duration', '2 epochs'), ('optim.lr', '0.2'), ('model.name', 'b'), ('seed', '1')
    )  # fmt: skip
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_seeds_count_from_the_given_one():
    plan = make_plan('resnet', [('seed', '7')], [], 2)
    assert [trial.seed for trial in plan.trials()] == [7, 8]
    assert plan.fields == ()
    plan = make_plan('resnet', [], ['seed=5,3'], None)
    assert [trial.name for trial in plan.trials()] == ['seed=5', 'seed=3']


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('0.1,0.2', ('0.1', '0.2')),
        ("('30 epochs','60 epochs'),()", ("('30 epochs','60 epochs')", '()')),
        ("'a,b',c", ('a,b', 'c')),
        ("1 epochs, 2 epochs", ('1 epochs', '2 epochs')),
    ],
)  # fmt: skip
def test_commas_within_brackets_and_quotes_do_not_separate(text, values):
    assert split_values(text) == values


def test_names_are_readable_and_fit_into_a_folder():
    assert readable((('data.name', 'folder:/home/me/my birds'), ('seed', '0'))) == (
        'data.name=folder_home_me_my_birds,seed=0'
    )
    long = [('schedule.milestones', str(tuple(range(i, 40)))) for i in range(9)]
    plan = make_plan('resnet', [], [f'{name}={value}' for name, value in long[:1]], 1)
    assert len(plan.trials()[0].name) < 100
    assert len(readable((*long, ('seed', '0'))).encode()) <= 200
    same = make_plan('resnet', [], ["data.name='a b','a  b'"], 1)
    assert [trial.name for trial in same.trials()] == [
        'data.name=a_b,seed=0',
        'data.name=a_b,seed=0-2',
    ]


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        ({'grid': ['optim.lr']}, "--grid 'optim.lr': expected FIELD=VALUE"),
        ({'grid': ['optim.lr=0.1,']}, '--grid optim.lr has no value'),
        ({'grid': ['optim.lr=0.1,0.1']}, "has the value '0.1' twice"),
        ({'grid': ['optim.lr=1', 'optim.lr=2']}, 'config.optim.lr is varied twice'),
        ({'fields': [('optim.lr', '1')], 'grid': ['optim.lr=2']}, 'expected one of the two'),
        ({'grid': ['seed=1,2'], 'seeds': 2}, '--seeds and --grid seed'),
        ({'grid': ['seed=1,x']}, "a seed is 'x'"),
        ({'seeds': -1}, '--seeds is -1: expected 1 or more'),
        ({'seeds': 0}, '--seeds is 0: expected 1 or more'),
        ({'search': ['optim.lr=log:1:2'], 'seeds': 3}, 'expected no --grid and no --seeds'),
        ({'config': 'resnett'}, "no config 'resnett'.*Did you mean resnet"),
        ({'seeds': 10_001}, '10,001 trials: expected at most 10,000'),
    ],
)
def test_contradictions_are_one_line(flags, said):
    flags = {'config': 'resnet', 'fields': [], 'grid': [], 'seeds': None} | flags
    with pytest.raises(UserError, match=said):
        make_plan(**flags)


class Counted(str):
    """A text that counts the comparisons with it."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize('different', [500, 1])
def test_names_are_not_compared_with_all_before(different, monkeypatch):
    numbers = iter(range(500))
    monkeypatch.setattr(
        plan_module, 'readable', lambda _: Counted(f'name{next(numbers) % different}')
    )
    monkeypatch.setattr(Counted, 'compared', 0)
    names = plan_module._names([()] * 500)
    assert len(set(map(str, names))) == 500
    assert str(names[-1]) == ('name499' if different > 1 else 'name0-500')
    assert Counted.compared <= 5 * 500
