"""The scale of the learning rate against PyTorch's rule, and in runs that are resumed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from cls import feed
from cls.config import load as configs
from cls.errors import UserError
from cls.run.checkpoint import Checkpoints
from cls.setup import abstract_state, set_up
from cls.steps import plateau
from cls.train import fit


def torch_scales(values, mode, factor, patience, threshold, least):
    """ReduceLROnPlateau.step of torch/optim/lr_scheduler.py, threshold_mode='rel'."""
    best, bad, rate, rates = np.inf if mode == 'min' else -np.inf, 0, 1.0, []
    for value in values:
        if value < best * (1 - threshold) if mode == 'min' else value > best * (1 + threshold):
            best, bad = value, 0
        else:
            bad += 1
        if bad > patience:
            rate, bad = max(rate * factor, least), 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize('patience', [0, 2])
@pytest.mark.parametrize('mode', ['min', 'max'])
def test_scales_are_those_of_pytorch(mode, patience):
    values = np.random.default_rng(patience).uniform(1, 2, size=40).astype(np.float32)
    values[7] = np.nan
    rule = plateau.scaled(optax.sgd(0.1))
    state, scales = rule.init({'w': jnp.zeros(2)}), []
    options = {'factor': 0.5, 'patience': patience, 'threshold': 0.05, 'least': 1e-3}
    for value in values:
        state = plateau.observed(state, float(value), higher=mode == 'max', **options)
        scales.append(float(state.scale))
    np.testing.assert_allclose(scales, torch_scales(values, mode, *options.values()), rtol=1e-6)
    assert scales[-1] < 0.1


FIELDS = (
    *(('schedule.name', 'plateau'), ('schedule.warmup', '0 steps'), ('schedule.gamma', '0.5')),
    *(('schedule.patience', '0'), ('schedule.threshold', '0.99'), ('eval.every', '2 steps')),
    *(('eval.validation', '0.1'), ('checkpoint.every', '4 steps')),
)


@pytest.mark.usefixtures('quick_programs')
def test_the_rate_falls_after_evaluations_and_a_resumed_run_is_the_same(tmp_path, capfd):
    def state_of(folder, setup):
        shapes, _ = setup.new_state_shapes()
        where = abstract_state(shapes, setup.mesh)
        return Checkpoints(folder / 'checkpoints', 1).restore(where)[0]

    setup = tiny.setup(*FIELDS)
    straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
    fit(setup, straight)
    assert 'step 4: 1 evaluations without a better loss: the learning rate is 0.5' in (
        capfd.readouterr().out
    )
    lines = [json.loads(line) for line in (straight / 'metrics.jsonl').read_text().splitlines()]
    rates = [line['learning_rate'] for line in lines if 'learning_rate' in line]
    np.testing.assert_allclose(rates, [0.1] * 4 + [0.05] * 2 + [0.025] * 2, rtol=1e-6)

    fit(tiny.setup(*FIELDS, ('duration', '4 steps')), resumed)
    fit(setup, resumed)
    states = [state_of(folder, setup) for folder in (straight, resumed)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert plateau.scale(states[0].opt_state) == 0.25


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('eval.every', '', 'evaluations that the rate depends on'),
        ('eval.validation', '', 'of the test split, which must not choose the rate'),
        ('schedule.gamma', '2', 'gamma'),
    ],
)
def test_a_plateau_that_cannot_be_seen_is_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('resnet', (*FIELDS, (field, value))), jax.devices()[:1])


@pytest.mark.usefixtures('quick_programs')
def test_a_run_that_a_broken_image_ended_after_an_evaluation_continues_the_same(
    tmp_path, monkeypatch
):
    """The checkpoint of that step has the state before the evaluation, which is repeated."""
    setup, failing = tiny.setup(*FIELDS), tmp_path / 'failing'
    fit(setup, tmp_path / 'straight')
    taken = feed.Resident.take

    def take(self, most):
        fed = taken(self, most)
        if fed.data['step'] > 6:
            raise UserError('a broken image')
        return fed

    with monkeypatch.context() as patch, pytest.raises(UserError, match='a broken image'):
        patch.setattr(feed.Resident, 'take', take)
        fit(setup, failing)
    assert (failing / 'checkpoints' / '6').is_dir()
    fit(setup, failing)
    lines = [
        [
            (line['step'], line['learning_rate'])
            for line in map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
            if 'learning_rate' in line
        ]
        for folder in (tmp_path / 'straight', failing)
    ]
    assert lines[0] == lines[1]
