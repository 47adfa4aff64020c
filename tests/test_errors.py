"""Mistakes of the user: one clear line each, exit code 2, no partial files."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cls import models
from cls.data import pipeline, sources
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.main import main
from cls.recipes import common
from cls.setup import set_up

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder of 2 x 16 training and 2 x 8 test images."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 16), ('test', 8)):
        for name in ('cat', 'dog'):
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(256, size=(40, 30, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / 'data' / split / name / f'{i}.png'), image)
    return tmp_path / 'data'


def line_of(*arguments):
    """Returns the message of the UserError that these arguments raise."""
    with pytest.raises(UserError) as caught:
        main(list(arguments))
    message = str(caught.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize(
    ('arguments', 'wanted'),
    [
        (['--config=configs/resnet.py', '--config.optim.lrr=1'], ['optim.lrr', 'optim.lr']),
        (['--config=configs/resnet.py', '--config.optim=1'], ['optim is a group', 'momentum']),
        (['--config=configs/resnet.py', '--config.batch=many'], ['batch', 'int', 'many']),
        (['--config=configs/resnet.py', '--config.batch=0.5'], ['batch', 'int']),
        (['--config=configs/resnet.py', '--confg.batch=1'], ['--confg.batch', '--config']),
        (['--config=configs/resnt.py'], ['configs/resnt.py', 'configs/resnet.py']),
        (['--config=configs/resnet.py:cifar'], ['cifar', 'cifar10']),
        (['--config=configs/resnet.py:variant=resnet65_cifar'], ['resnet65', 'resnet56_cifar']),
        (['--config=configs/resnet.py', '--config.model.width=3'], ['width', 'widths']),
        (['--config=configs/resnet.py', '--config.data.name=digit'], ['digit', 'digits']),
        (['--config=configs/resnet.py', '--config.data.name=tfds:cifar'], ['cifar', 'cifar10']),
        (['--config=configs/resnet.py', '--config.optim.name=sdg'], ['sdg', 'sgd']),
        (['--config=configs/resnet.py', '--config.schedule.name=cosin'], ['cosin', 'cosine']),
        (['--config=configs/resnet.py', '--config.duration=3 weeks'], ['3 weeks', 'epochs']),
        (['--config=configs/resnet.py', '--config.log_every=often'], ['often', 'steps']),
        (['--config=configs/resnet.py', '--config.batch=63'], ['63', 'devices']),
        (['--config=configs/resnet.py', '--config.mesh.fsdp=3'], ['fsdp', '8 devices']),
        (['--config=configs/resnet.py', '--config.model.bn_group=48'], ['bn_group', '64']),
        (['--config=configs/resnet.py', '--config.profile=now'], ['profile', 'START:STOP']),
        (['--config=configs/resnet.py', '--config.profile=90000:90002'], ['profile', 'of the run']),
        (['--config=configs/resnet.py', '--config.data.num_classes=5'], ['num_classes', '10']),
        (['--config=configs/resnet.py', '--config.data.train_crop=pads'], ['pads', 'pad']),
        (['--config=configs/resnet.py', '--config.data.mean=(1, 2, 3)'], ['mean', '1 channel']),
        (['--config=configs/resnet.py', '--config.model.num_classes=5'], ['num_classes', '10']),
        (['--config=configs/resnet.py', '--config.log_every=0 steps'], ['log_every', '0 steps']),
        (['--config=configs/resnet.py', '--job=trian'], ['trian', 'train']),
        (['--config=configs/resnet.py', '--config.seed=-1'], ['seed', '-1']),
        (
            ['--config=configs/resnet.py', '--config.optim.freeze=['],
            ['freeze', 'a regular expression'],
        ),
        (
            ['--config=configs/resnet.py', '--config.optim.freeze=fcc'],
            ['fcc', 'none of', 'bn1, conv1, fc'],
        ),
        (
            ['--config=configs/resnet.py', '--config.optim.body_lr_mult=0'],
            ['body_lr_mult', 'optim.freeze'],
        ),
        (['--config=configs/resnet.py', '--config.freeze_bn=soon'], ['soon', 'epochs']),
        (
            ['--config=configs/vgg.py', '--config.freeze_bn=0 steps'],
            ['freeze_bn', 'no batch norms'],
        ),
        (['--config=configs/vgg.py', '--config.eval.precise_bn=9'], ['precise', 'no batch norms']),
        (['--config=configs/resnet.py', '--config.eval.precise_bn=-1'], ['precise_bn', '-1']),
        (['--config=configs/resnet.py', '--config.init=nothing.pth'], ['nothing.pth', 'no such']),
        (['--config=configs/resnet.py', '--config.progressive=(8, 12)'], ['progressive', 'pairs']),
        (
            ['--config=configs/resnet.py', "--config.progressive=(('1 steps', 8),)"],
            ['progressive', 'the first at 0'],
        ),
        (
            ['--config=configs/resnet.py', "--config.progressive=(('0 steps', 8), ('0 steps', 9))"],
            ['progressive', '(0, 0)'],
        ),
        (
            ['--config=configs/googlenet.py', "--config.progressive=(('0 steps', 2),)"],
            ['2 pixels', 'larger'],
        ),
        (
            ['--config=configs/metaqnn.py', '--config.data.eval_size=64'],
            ['config.data.eval_size is 64', 'parameters that depend on the size'],
        ),
        (
            ['--config=configs/googlenet.py', '--config.data.eval_size=2'],
            ['config.data.eval_size is 2', 'choose larger ones'],
        ),
        (
            ['--config=configs/metaqnn.py', "--config.progressive=(('0 steps', 16),)"],
            ['16 pixels', 'depend on the size'],
        ),
        (['--config=configs/resnet.py', '--config.model.dtype=float33'], ['float33', 'bfloat16']),
        (
            ['--config=configs/resnet.py', '--config.data.eval_fraction=.1'],
            ['eval_fraction', 'It is now called eval.validation.'],
        ),
        (
            ['--config=configs/resnet.py', '--config.data.name=imagenet_r:/d'],
            ['imagenet_r', 'test set'],
        ),
        (['--job=evaluate'], ['--workdir']),
        ([], ['--config']),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_that_names_what_was_meant(arguments, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    workdir = tmp_path / 'run'
    more = [] if arguments[:1] == ['--job=evaluate'] else [f'--workdir={workdir}']
    line = line_of(*arguments, *more)
    for text in wanted:
        assert text in line, line
    assert not workdir.exists()


def test_evaluating_where_nothing_was_trained_makes_no_folder(tmp_path):
    line = line_of('--config=configs/resnet.py', '--job=evaluate', f'--workdir={tmp_path / "run"}')
    assert 'no checkpoint' in line
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('arm', 'name'), [('cifar10', 'cifar10'), ('imagenet2012', 'imagenet2012')]
)
def test_a_data_set_that_is_not_prepared_names_the_command(arm, name, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    line = line_of(f'--config=configs/resnet.py:{arm}', f'--workdir={tmp_path / "run"}')
    assert f'python -m cls.tools.prepare {name}' in line
    assert not (tmp_path / 'run').exists()


def test_an_unreadable_image_is_named_and_counted(folder, tmp_path):
    for name in ('3.png', '5.png'):
        (folder / 'train' / 'cat' / name).write_bytes(b'no image')
    line = line_of(
        f'--config=configs/resnet.py:folder={folder},variant=resnet20_cifar',
        '--config.data.image_size=32',
        '--config.data.workers=0',
        '--config.batch=8',
        '--config.model.bn_group=0',
        f'--workdir={tmp_path / "run"}',
    )
    assert '2 of the 32 images' in line
    assert 'cat/3.png' in line
    assert 'cat/5.png' in line


def test_labels_outside_the_classes_are_named():
    source = sources.InMemory(np.zeros((8, 8, 8, 1), np.uint8), np.arange(8, dtype=np.int32), 8)
    data = DataSpec(image_size=8)
    batches = pipeline.train_batches(source, data, batch=8, seed=0, num_classes=5)
    with pytest.raises(UserError, match='label [567].*0 to 4'):
        next(batches)


def test_a_folder_that_holds_another_run_is_left_alone(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    config = main_config('--config.batch=32')
    (workdir / 'config.json').write_text(config)
    (workdir / 'metrics.jsonl').write_text('{"step": 1}\n')
    line = line_of('--config=configs/resnet.py', f'--workdir={workdir}')
    assert 'batch (32, now 64)' in line
    assert (workdir / 'config.json').read_text() == config
    assert sorted(p.name for p in workdir.iterdir()) == ['config.json', 'metrics.jsonl']


def test_a_folder_with_other_things_in_it_is_no_run_folder(tmp_path):
    (tmp_path / 'thesis.tex').write_text('')
    assert 'not empty' in line_of('--config=configs/resnet.py', f'--workdir={tmp_path}')


def main_config(*overrides):
    """The output of `--job print`."""
    command = [sys.executable, '-m', 'cls.main', '--config=configs/resnet.py', '--job=print']
    return subprocess.run(
        [*command, *overrides], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    'command',
    [
        ['cls.main', '--config=configs/resnet.py', '--config.batch=7.5'],
        ['cls.tools.models', 'no_such_*'],
        ['cls.tools.prepare', 'cifar11'],
        ['cls.tools.benchmark', 'model', 'resnet51', '--batch=8'],
    ],
)
def test_programs_exit_with_2_and_one_line(command):
    done = subprocess.run(
        [sys.executable, '-m', *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == 2
    assert done.stdout == ''
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ')


def test_nearest_says_nothing_where_nothing_is_near():
    assert nearest('resnet5', models.names()).startswith(' Did you mean resnet5')
    assert nearest('zzz', models.names()) == ''
    assert nearest('ResNet5', models.names()) == nearest('resnet5', models.names())
    assert nearest('batchnorm', ['BatchNorm', 'other']) == ' Did you mean BatchNorm?'


def test_a_sound_config_sets_up():
    config = common.base()
    common.use_digits(config)
    config.model.name = 'resnet20_cifar'
    setup = set_up(config)
    assert (setup.info.num_train, setup.info.num_eval) == (1442, 355)
    assert setup.total_steps == 338  # 30 epochs of 1,442 / 128 steps, rounded
    assert sum(batch['mask'].sum() for batch in setup.eval_batches()) == 355


def test_a_field_with_a_space_may_follow_workdir(capsys):
    arguments = ['--job', 'print', '--config', 'configs/resnet.py', '--workdir', 'somewhere']
    assert main([*arguments, '--config.duration=2 epochs']) == 0
    assert '"duration": "2 epochs"' in capsys.readouterr().out
