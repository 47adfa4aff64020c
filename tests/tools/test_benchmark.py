"""python -m cls.tools.benchmark: it runs and prints what it should; how fast is not tested."""

import re

import jax
import pytest

from cls.errors import UserError
from cls.tools.benchmark import main


def test_bare_step_and_loop_in_one_run(capsys):
    batch = str(len(jax.devices()))
    arguments = ['--model=resnet20_cifar', '--size=8', '--steps=2', '--loop', '--batch', batch]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    bare, loop = (
        float(re.search(rf'{what}: ([\d,.]+) images/s', printed)[1].replace(',', ''))
        for what in ('bare step', 'training loop')
    )
    ratio = float(re.search(r'loop / bare step: ([\d.]+) %', printed)[1])
    assert ratio == pytest.approx(100 * loop / bare, rel=0.01)


def test_what_it_needs_is_said():
    with pytest.raises(UserError, match='--model NAME and --batch N'):
        main(['--model=resnet20_cifar'])
