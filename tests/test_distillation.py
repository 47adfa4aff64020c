"""Distillation from the run of another network."""

import dataclasses
import json

import jax
import pytest

from cls import distillation, main
from cls.config import load as configs
from cls.errors import UserError
from cls.models import registry
from cls.setup import set_up

pytestmark = pytest.mark.usefixtures('quick_programs')

FILE = """
import flax.linen as nn
from cls import models
from cls.recipes import common


class Small(nn.Module):
    num_classes: int = 10
    width: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(images))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


MINE = models.System('Mine', 'A small model', '', '', None, None)
models.register(models.Variant('small', MINE, Small, {}, input_size=8, params=0, macs=0))


def get_config(argument):
    c = common.base()
    common.use_digits(c)
    c.model.name = 'small'
    c.duration, c.batch, c.log_every = '2 steps', 64, '1 steps'
    return c
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    registry.names()
    monkeypatch.setattr(registry, '_VARIANTS', dict(registry._VARIANTS))
    monkeypatch.setattr(registry, '_ORIGINS', {})


def test_a_run_learns_from_another_run(tmp_path, capfd):
    file, teacher, student = (tmp_path / name for name in ('own.py', 'teacher', 'student'))
    file.write_text(FILE)
    assert main.main(['--config', str(file), '--workdir', str(teacher)]) == 0
    fields = (('distill.teacher', str(teacher)), ('model.width', '4'), ('data.mean', '(9.0,)'))
    flags = [f'--config.{name}={value}' for name, value in fields]
    capfd.readouterr()
    assert main.main(['--config', str(file), '--workdir', str(student), *flags]) == 0
    assert 'teacher: Model(small, 10 classes, 170 parameters' in capfd.readouterr().out
    lines = [json.loads(line) for line in (student / 'metrics.jsonl').read_text().splitlines()]
    values = [line['train/distillation'] for line in lines if 'train/loss' in line]
    assert len(values) == 2
    assert min(values) > 0

    setup = set_up(configs.load(str(file), fields), jax.devices()[:1])
    assert not distillation.load(setup).teacher.outputs
    names = setup.info.class_names
    other = dataclasses.replace(
        setup, info=dataclasses.replace(setup.info, class_names=names[::-1])
    )
    assert distillation.load(other).teacher.outputs == tuple(range(10))[::-1]
    other = dataclasses.replace(
        setup, info=dataclasses.replace(setup.info, class_names=('ten', *names[1:]))
    )
    with pytest.raises(UserError, match="have no 'ten'"):
        distillation.load(other)
    other = dataclasses.replace(setup, model=setup.model.clone(num_classes=11))
    with pytest.raises(UserError, match='a network of 10 classes: expected 11'):
        distillation.load(other)
    other = dataclasses.replace(setup, info=dataclasses.replace(setup.info, image_shape=(8, 8, 3)))
    with pytest.raises(UserError, match='does not take images of 8 x 8 x 3'):
        distillation.load(other)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ((('data.contrast', 'global'),), 'this loses them'),
        ((('distill.temperature', '0'),), 'temperature'),
    ],
)
def test_fields_that_contradict_a_teacher_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('resnet', (('distill.teacher', 'resnet18'), *fields)))
