"""Condensing a run: the same accuracy in another form, or a clear error."""

import json

import jax
import numpy as np
import pytest

from cls import main
from cls.config import load as configs
from cls.errors import UserError
from cls.evaluate import restore
from cls.models import condensenet
from cls.setup import set_up
from cls.tools import condense, import_weights

SMALL = (
    ('model.stage_sizes', '(1, 1)'),
    ('model.growths', '(4, 8)'),
    ('ema', '0.9'),
    ('eval.batch', '360'),
)
RNG = np.random.default_rng(0)


def learned_run(workdir, divisor):
    """Writes a run in which each group of the network has kept 1 / divisor of its inputs."""
    config = configs.load('configs/condensenet.py', SMALL)
    state, _ = set_up(config).new_state()

    def masked(path, x):
        if x.dtype != bool:
            return x
        count = len(x) // (2 if path[1].key == 'output' else divisor)
        return np.argsort(np.argsort(RNG.random(x.shape), axis=0), axis=0) < count

    variables = jax.tree.map_with_path(masked, state.variables())
    averages = jax.tree.map(lambda x: x if x.dtype == bool else x + np.float32(0.05), variables)
    import_weights.write(config, variables, workdir, averages)


def converted(workdir, output):
    return condense.main(['--workdir', str(workdir), '--output', str(output)])


def state_of(workdir):
    config = configs.from_json((workdir / 'config.json').read_text())
    return jax.device_get(restore(config, workdir)[1])


def test_weights_and_averages_are_converted(tmp_path, capsys):
    learned_run(tmp_path / 'run', divisor=4)
    assert converted(tmp_path / 'run', tmp_path / 'out') == 0
    assert f'--workdir {tmp_path / "out"}' in capsys.readouterr().out
    before, after = (state_of(tmp_path / name) for name in ('run', 'out'))
    for learned, condensed in ((before.variables(), after.variables()), (before.ema, after.ema)):
        jax.tree.map(np.testing.assert_array_equal, condensenet.condense(learned), condensed)
    stem = 'init_block.conv'
    moved = after.ema['params'][stem]['kernel'] - after.params[stem]['kernel']
    np.testing.assert_allclose(moved, 0.05, rtol=1e-4)
    with pytest.raises(UserError, match='converted form already'):
        converted(tmp_path / 'out', tmp_path / 'again')
    with pytest.raises(UserError, match='not empty'):
        converted(tmp_path / 'run', tmp_path / 'out')


def test_a_run_before_its_last_stage_is_refused(tmp_path):
    learned_run(tmp_path / 'run', divisor=2)
    with pytest.raises(UserError, match='condensing stages'):
        converted(tmp_path / 'run', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_other_networks_are_refused(tmp_path):
    config = configs.load('configs/resnet.py')
    (tmp_path / 'config.json').write_text(configs.to_json(config))
    with pytest.raises(UserError, match='only a CondenseNet'):
        converted(tmp_path, tmp_path / 'out')


@pytest.mark.sweep  # compiles a training step
def test_a_trained_run_gives_the_same_in_either_form(tmp_path):
    run, output = tmp_path / 'run', tmp_path / 'out'
    flags = [f'--config.{name}={text}' for name, text in SMALL]
    flags += ['--config.duration=8 steps', '--config.batch=16', '--config.accumulate=2']
    flags += ['--config.schedule.warmup=100 percent']
    assert main.main(['--config', 'configs/condensenet.py', *flags, '--workdir', str(run)]) == 0
    state = state_of(run)
    for stats in (state.batch_stats, state.ema['batch_stats']):
        mask = stats['stage2.unit1']['conv1']['conv']['mask']
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask.sum(axis=0), len(mask) // 4)
    assert converted(run, output) == 0
    assert main.main(['--job', 'evaluate', '--workdir', str(output)]) == 0
    before = json.loads((run / 'result.json').read_text())
    after = json.loads((output / 'evaluation.json').read_text())
    for name in ('test/loss', 'test_ema/loss'):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
