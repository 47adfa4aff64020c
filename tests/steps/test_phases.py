"""Runs with growing images and frozen norms: compiled phases, and restarts."""

import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from cls.steps.phases import Phase
from cls.train import fit
from cls.weights import pretrained

pytestmark = pytest.mark.usefixtures('quick_programs')

GROWING = (
    ('progressive', "(('0 steps', 4), ('50 percent', 8))"),
    ('freeze_bn', '6 steps'),
    ('ema', '0.9'),
    ('optim.freeze', 'body/bias|fc/bias'),  # fc is of the net that the config names
    ('optim.bias_lr_mult', '2.0'),
)


def state_of(workdir, step):
    folder = workdir / 'checkpoints' / str(step) / 'state'
    return ocp.StandardCheckpointer().restore(folder.absolute())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run of eight steps that nothing disturbed, with checkpoints of 3, 6 and 8."""
    workdir = tmp_path_factory.mktemp('runs') / 'whole'
    workdir.mkdir()
    assert fit(tiny.setup(*GROWING), workdir)['step'] == 8
    return workdir


def test_phases():
    setup = tiny.setup(*GROWING)
    first, second, third = Phase(4, False), Phase(8, False), Phase(8, True)
    assert [setup.phases.at(step) for step in range(8)] == [first] * 4 + [second] * 2 + [third] * 2
    assert setup.phases.following(0) == [first, second, third]
    assert setup.phases.following(5) == [second, third]
    assert setup.phases.following(7) == [third]
    plain = tiny.setup()
    assert plain.phases.following(0) == [Phase(8, False)]
    assert tiny.setup(('freeze_bn', '0 steps')).phases.following(0) == [Phase(8, True)]


def test_a_run_that_continues_in_mid_phase_ends_as_if_nothing_had_happened(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'run')
    (tmp_path / 'run' / 'result.json').unlink()
    for step in (6, 8):  # left is that of step 3, in the first phase of four
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(step))
    assert fit(tiny.setup(*GROWING), tmp_path / 'run')['step'] == 8
    expected = state_of(whole, 8)
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / 'run', 8), expected)


def test_statistics_stay_from_the_moment_on(whole):
    stats = {step: state_of(whole, step)['batch_stats'] for step in (3, 6, 8)}
    jax.tree.map(np.testing.assert_array_equal, stats[8], stats[6])
    assert np.any(stats[6]['norm2']['mean'] != stats[3]['norm2']['mean'])


def test_where_no_checkpoint_can_be_read_a_run_starts_from_its_weights_again(tmp_path, monkeypatch):
    setup = tiny.setup(('init', 'weights'), ('duration', '1 steps'), ('optim.lr', '0.0'))
    given = jax.tree.map(lambda x: x + 1, setup.initial())
    monkeypatch.setattr(pretrained, 'load', lambda *_: given)
    (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
    fit(setup, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path, 1)['params'], given['params'])
