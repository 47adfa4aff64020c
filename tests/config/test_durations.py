"""Durations: units, the rounding rule, and errors."""

import pytest

from cls.config.durations import steps
from cls.errors import UserError

IMAGENET = {'batch': 256, 'examples': 1_281_167}


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('90 epochs', 450_410),  # 450410.27
        ('2.4 epochs', 12_011),  # 12010.94
        ('1 epoch', 5_005),  # 5004.56
        ('64000 steps', 64_000),
        ('64e3 steps', 64_000),
        ('5e6 examples', 19_531),  # 19531.25
        ('128 examples', 1),  # half a step: up
        ('384 examples', 2),  # 1.5
        ('383 examples', 1),
        ('1 example', 1),  # not nothing
        ('10 percent', 100),
        ('.05 percent', 1),
        ('100 percent', 1000),
        ('0 steps', 0),
        ('0.0 epochs', 0),
        ('  3steps ', 3),
    ],
)
def test_steps(text, expected):
    assert steps(text, total=1000, **IMAGENET) == expected


def test_arithmetic_is_exact():
    # In floating point 0.145 * 100 is 14.499999999999998, and would round down.
    assert steps('0.145 epochs', batch=1, examples=100) == 15


@pytest.mark.parametrize(
    'text',
    [
        '',
        '90',
        'epochs',
        '-1 epochs',
        '90 eons',
        '1,000 steps',
        'nan steps',
        'inf epochs',
        '1e999 steps',
        '1 % ',
        '2 percents',
        '90 epochs 3 steps',
        90,
    ],
)
def test_what_is_no_duration_is_refused_with_the_units(text):
    with pytest.raises(UserError, match='epochs, steps, examples, percent'):
        steps(text, total=1000, **IMAGENET)


def test_percent_of_an_unknown_whole_is_refused():
    with pytest.raises(UserError, match='epochs, steps or examples'):
        steps('10 percent', **IMAGENET)
