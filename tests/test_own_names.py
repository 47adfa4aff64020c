"""Losses, optimizers and data sets that a config file of the user registers."""

import dataclasses
import json

import pytest

import cls
from cls import main, registration
from cls.config import load as configs
from cls.data import datasets, registered
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.steps import losses, optax_rules

pytestmark = pytest.mark.usefixtures('quick_programs')

FILE = """
import jax
import jax.numpy as jnp
import numpy as np
import optax
from cls.data import datasets
from cls.data.sources import InMemory
from cls.recipes import resnet
from cls.steps import losses, optim


@losses.register('margin')
def margin(logits, targets, by=1.0):
    right = (logits * targets).sum(-1, keepdims=True)
    return jax.nn.relu(logits - right + by * (1 - targets))


@optim.register('signs')
def signs(learning_rate, b1=0.9, weight_decay=0.0, mask=None):
    return optax.chain(
        optax.trace(b1),
        optax.scale_by_sign(),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


@datasets.register('noise')
def noise(place, split):
    rng = np.random.default_rng(split == 'eval')
    images = rng.integers(256, size=(40, 8, 8, 1), dtype=np.uint8)
    names = ('a', 'b', 'c') if split == 'train' else ('c', 'a')
    labels = np.arange(40, dtype=np.int32) % len(names)
    return InMemory(images, labels, len(names), names)


def get_config(argument):
    c = resnet.get_config('digits')
    c.data.name, c.duration, c.batch, c.log_every = 'noise:here', '2 steps', 16, '1 steps'
    c.schedule.warmup = '0 steps'
    c.model.stage_sizes, c.model.widths = (1,), (4,)
    c.loss.name, c.loss.args = 'margin', {'by': 0.5}
    c.optim.name, c.optim.lr = 'signs', 0.001
    return c
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """A function that removes the names registered by config files, as in a new process."""

    def forget():
        monkeypatch.setattr(registration, '_origins', {})
        monkeypatch.setattr(registered, '_OPENERS', {})
        monkeypatch.setattr(optax_rules, '_REGISTERED', {})
        for name in set(losses.LOSSES) - before:
            del losses.LOSSES[name]

    before = set(losses.LOSSES)
    forget()
    yield forget
    forget()


def test_they_train_and_evaluation_finds_them_again(tmp_path, forget, capfd):
    file, run = tmp_path / 'own.py', tmp_path / 'run'
    file.write_text(FILE)
    args = ['--config', str(file), '--workdir', str(run), '--config.optim.args.b1=0.5']
    assert main.main(args) == 0
    trained = json.loads((run / 'result.json').read_text())
    assert json.loads((run / 'classes.json').read_text()) == ['a', 'b', 'c']
    forget()
    for job in (['--job', 'evaluate'], []):
        with pytest.raises(UserError, match=f"'margin', which cls has not.*--config {file}"):
            main.main(['--workdir', str(run), *job])
    assert cls.load(run).classes == ('a', 'b', 'c')  # its network is one of cls
    assert main.main(['--workdir', str(run), '--job', 'evaluate', '--config', str(file)]) == 0
    evaluated = json.loads((run / 'evaluation.json').read_text())
    assert evaluated['test/top1'] == pytest.approx(trained['test/top1'])


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("losses.register('margin')", "losses.register('bce')", "loss 'bce', which cls has"),
        ("optim.register('signs')", "optim.register('lion')", "optimizer 'lion', which cls has"),
        ("datasets.register('noise')", "datasets.register('folder')", "data set 'folder'"),
        ("datasets.register('noise')", "datasets.register('a b')", 'letters, digits and _'),
    ],
)
def test_a_name_of_cls_is_not_taken(tmp_path, old, new, message):
    assert old in FILE
    file = tmp_path / 'own.py'
    file.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=message):
        configs.load(str(file))


def test_a_file_may_be_loaded_again_and_another_may_not_take_its_names(tmp_path):
    for _ in range(2):
        (tmp_path / 'own.py').write_text(FILE)
        configs.load(str(tmp_path / 'own.py'))
    (tmp_path / 'other.py').write_text(FILE)
    with pytest.raises(UserError, match=r"other\.py registers a loss 'margin', which .*own\.py"):
        configs.load(str(tmp_path / 'other.py'))


def test_a_part_of_a_data_set_of_ones_own_is_held_out_but_it_has_no_named_one(tmp_path):
    (tmp_path / 'own.py').write_text(FILE)
    config = configs.load(str(tmp_path / 'own.py'), [('eval.validation', '0.25')])
    data = DataSpec.from_config(config)
    train, validation = datasets.training(data)
    whole = datasets.load(dataclasses.replace(data, validation=''), 'train')
    assert 0 < len(validation) < len(train) == len(whole) - len(validation)
    assert datasets.testing(data, validation).split == 'test'
    with pytest.raises(UserError, match="validation is 'val', and noise.* expected a fraction"):
        datasets.training(dataclasses.replace(data, validation='val'))
