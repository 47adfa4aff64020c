"""The names of loggers, and their packages."""

import sys

import pytest

from cls.config import load as configs
from cls.config.durations import steps
from cls.errors import UserError, require
from cls.main import main
from cls.run.loggers import spec as specs
from cls.run.loggers.spec import LogSpec
from cls.setup import set_up


def read(*overrides):
    config = configs.load('configs/resnet.py', overrides)
    return LogSpec.from_config(
        config, to_steps=lambda text: steps(text, batch=64, examples=640, total=100)
    )


def test_the_defaults_are_those_of_the_table():
    assert read() == LogSpec()


def test_the_fields_are_read():
    spec = read(
        ('log.to', "('csv', 'tensorboard', 'wandb')"),
        ('log.project', 'birds'),
        ('log.images', '0'),
        ('log.histograms_every', '2 epochs'),
    )
    assert spec == LogSpec(('csv', 'tensorboard', 'wandb'), 'birds', 0, 20)
    assert (spec.files, spec.services) == (('csv', 'tensorboard'), ('wandb',))


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('to', "('wandbs',)", "config.log.to has 'wandbs': .*trackio. Did you mean wandb"),
        ('to', "('csv', 'csv')", 'expected each logger once'),
        ('project', ' ', 'expected a name'),
        ('histograms_every', '0 steps', 'expected at least one step'),
    ],
)
def test_a_mistake_is_refused(field, value, said):
    with pytest.raises(UserError, match=said) as caught:
        read((f'log.{field}', value))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', specs.SERVICES)
def test_a_service_without_its_package_is_refused_before_anything_is_written(
    name, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, name, None)
    fields = ['--config.duration=1 steps', f"--config.log.to=('csv', '{name}')"]
    with pytest.raises(UserError, match=rf"pip install 'cls\[{name}\]'"):
        main(['--config=configs/resnet.py', f'--workdir={tmp_path / "run"}', *fields])
    assert not (tmp_path / 'run').exists()


def test_an_evaluation_does_not_need_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    config = configs.load('configs/resnet.py', (('log.to', "('wandb',)"),))
    assert set_up(config, classes=()).log.to == ('wandb',)


def test_a_folder_of_the_name_of_a_package_is_not_the_package(tmp_path, monkeypatch):
    """The package wandb makes a folder wandb/ in the current one."""
    (tmp_path / 'wandbish').mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match='wandbish is not installed'):
        require('wandbish', 'wandb')


def test_histograms_of_a_supernet_are_refused():
    config = configs.load('configs/search/darts.py', (('log.histograms_every', '1 epochs'),))
    with pytest.raises(UserError, match="histograms_every is set: expected ''"):
        set_up(config)


def test_all_loggers_have_the_module_of_their_name():
    assert [specs.module(name).__name__.rpartition('.')[2] for name in specs.FILES] == [
        *specs.FILES
    ]
