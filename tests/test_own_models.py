"""Models of users: plain Flax modules that a config file registers."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls import main, models
from cls.config import load as configs
from cls.config import runs
from cls.errors import UserError
from cls.models import registry
from cls.models.registry.init import init
from cls.nn.dense import Dense
from cls.setup import set_up

pytestmark = pytest.mark.usefixtures('quick_programs')

FILE = """
import flax.linen as nn
from cls import models
from cls.recipes import common


class Plain(nn.Module):
    num_classes: int = 10
    width: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(images))
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = x * self.param('gain', nn.initializers.normal(1.0), (self.width,))
        x = nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(self.num_classes)(x)


MINE = models.System('Mine', 'A model of my own', '', '', None, None)
models.register(models.Variant('plain', MINE, Plain, {'width': 4}, input_size=8, params=0, macs=0))


def get_config(argument):
    c = common.base()
    common.use_digits(c)
    c.model.name = 'plain'
    c.duration, c.batch, c.log_every = '2 steps', 64, '1 steps'
    return c
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """A function that removes the models registered by config files, as in a new process."""

    def forget():
        monkeypatch.setattr(registry, '_VARIANTS', dict(before))
        monkeypatch.setattr(registry, '_ORIGINS', {})

    models.names()
    before = dict(registry._VARIANTS)
    forget()
    return forget


@pytest.fixture
def file(tmp_path):
    (tmp_path / 'own.py').write_text(FILE)
    return tmp_path / 'own.py'


def edited(file, old, new):
    assert old in FILE
    file.write_text(FILE.replace(old, new))
    return str(file)


def test_a_model_of_ones_own_trains_and_is_evaluated_with_its_file(
    file, tmp_path, forgotten, capfd
):
    run = tmp_path / 'run'
    command = ['--config', str(file), '--workdir', str(run), '--config.model.width=6']
    assert main.main(command) == 0
    trained = json.loads((run / 'result.json').read_text())
    forgotten()
    marker = tmp_path / 'executed'  # files that a run folder names are not executed
    file.write_text(f'open({str(marker)!r}, "w")\n{FILE}')
    for job in (['--job', 'evaluate'], []):
        with pytest.raises(UserError, match=f"'plain'.*--config {file}"):
            main.main(['--workdir', str(run), *job])
    assert not marker.exists()
    capfd.readouterr()
    assert main.main(['--workdir', str(run), '--job', 'evaluate', '--config', str(file)]) == 0
    evaluated = json.loads((run / 'evaluation.json').read_text())  # with the width of the run
    (top1,) = {value for name, value in evaluated.items() if name.endswith('/top1')}
    assert top1 == pytest.approx(trained['test/top1'])
    forgotten()
    both = ['--workdir', str(run), str(run), '--job', 'evaluate', '--config', str(file)]
    assert main.main(both) == 0
    assert f'top-1 {top1:.2f} %' in capfd.readouterr().out


@pytest.mark.parametrize('text', ['[]', '{"model": 3}', '{"members": [1], "model": {"name": []}}'])
def test_a_config_that_is_none_has_no_names(tmp_path, text):
    runs.check_names(tmp_path, json.loads(text))


def test_a_file_may_be_loaded_again_and_changed_and_another_may_not_take_the_name(file, tmp_path):
    assert configs.load(str(file)).model.name == 'plain'
    configs.load(edited(file, 'width: int = 8', 'width: int = 8\n    depth: int = 1'))
    assert models.create('plain').depth == 1
    (tmp_path / 'other.py').write_text(FILE)
    with pytest.raises(UserError, match=r"other\.py registers a variant 'plain'.*own\.py"):
        configs.load(str(tmp_path / 'other.py'))
    with pytest.raises(UserError, match=r"'resnet50'.*cls\.models"):
        configs.load(edited(file, "Variant('plain'", "Variant('resnet50'"))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('images, train=False', 'images', r'takes no `train`'),
        ('num_classes', 'outputs', 'no field num_classes'),
    ],
)
def test_a_module_that_does_not_keep_the_contract_is_one_line(file, old, new, message):
    with pytest.raises(UserError, match=message):
        configs.load(edited(file, old, new))


def test_outputs_that_are_no_logits_are_one_line(file):
    config = configs.load(edited(file, 'x.mean((1, 2))', 'x'))
    with pytest.raises(UserError, match=r'Plain returns \(2, 8, 8, 10\)'):
        set_up(config, jax.devices()[:1])


def test_norms_of_flax_are_not_frozen_without_a_word(file):
    for field, value in (('freeze_bn', '1 steps'), ('eval.precise_bn', '64')):
        config = configs.load(str(file), [(field, value)])
        with pytest.raises(UserError, match='norms of Flax .BatchNorm_0.'):
            set_up(config, jax.devices()[:1])


def test_a_plain_module_starts_from_what_flax_draws():
    """Layers with an initializer of cls, and other parts of the network, do not change."""

    class Net(nn.Module):
        num_classes: int = 3
        plain: bool = True

        @nn.compact
        def __call__(self, images, train=False):
            x = Dense(5, name='ours')(images.mean((1, 2)))
            if self.plain:
                x = nn.Dense(4, name='plain', bias_init=nn.initializers.constant(0.5))(x)
                x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
            return Dense(self.num_classes, name='head')(x)

    ours = init(Net(), 7, 8)
    flax = Net().init(jax.random.key(7), jnp.zeros((1, 8, 8, 3)))
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, flax)
    np.testing.assert_allclose(
        ours['params']['plain']['kernel'], flax['params']['plain']['kernel'], rtol=1e-6
    )
    assert (ours['params']['plain']['bias'] == 0.5).all()
    assert (ours['batch_stats']['norm']['var'] == 1).all()
    without = init(Net(plain=False), 7, 8)
    np.testing.assert_array_equal(
        ours['params']['ours']['kernel'], without['params']['ours']['kernel']
    )
    again, other = init(Net(), 7, 8), init(Net(), 8, 8)
    kernels = [tree['params']['plain']['kernel'] for tree in (ours, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
