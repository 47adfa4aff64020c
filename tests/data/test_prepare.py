"""python -m cls.tools.prepare: prepared data sets, and its error messages."""

import os
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from etils import epath

from cls.data import datasets
from cls.data.prepare import imagenet
from cls.errors import UserError
from cls.tools import prepare


@pytest.fixture(autouse=True)
def no_extra_modules(monkeypatch):
    """Hides the optional packages, installed or not."""
    monkeypatch.setattr(prepare, 'EXTRA_MODULES', {'no_such_module': 'tensorflow-cpu'})
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)


@pytest.fixture
def no_need(monkeypatch):
    """Makes speckles need nothing of TensorFlow; TFDS knows it while it is registered."""
    monkeypatch.setattr(prepare, 'EXTRA_MODULES', {})


def test_prepares_and_says_so(tmp_path, make_data, no_need, capsys, speckles):
    assert prepare.main(['speckles', '--data_dir', str(tmp_path)]) == 0
    folder = tmp_path / 'speckles' / '1.2.0'
    assert f'speckles: prepared in {folder}\n' in capsys.readouterr().out
    source = datasets.load(make_data(name='tfds:speckles', dir=str(tmp_path)), 'train')
    assert len(source) == 20
    before = folder.stat().st_mtime_ns
    assert prepare.main(['speckles', '--data_dir', str(tmp_path)]) == 0
    assert f'speckles: already prepared in {folder}\n' in capsys.readouterr().out
    assert folder.stat().st_mtime_ns == before


def test_no_connection(tmp_path, no_need, monkeypatch, speckles):
    def fail(*args, **options):
        raise ConnectionError('no route\nto host')

    monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
    with pytest.raises(UserError, match=r'speckles cannot be downloaded .*: no route to host\.'):
        prepare.main(['speckles', '--data_dir', str(tmp_path)])


def test_digits_need_nothing(tmp_path, capsys):
    assert prepare.main(['digits', '--data_dir', str(tmp_path)]) == 0
    assert capsys.readouterr().out == f'digits: prepared in {tmp_path}/digits/1.0.0\n'


def test_missing_packages(tmp_path):
    with pytest.raises(UserError, match='Preparing kmnist needs tensorflow-cpu .*`pip install'):
        prepare.main(['kmnist', '--data_dir', str(tmp_path)])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mnits', "'mnits' is not known to TFDS.*Did you mean mnist"),
        (
            'imagenet_resized/7x7',
            "'7x7' is not a configuration .* expected one of 8x8, 16x16, 32x32",
        ),
        ('mnist/a', "'a' is not a configuration of mnist: expected just mnist."),
        ('imagenet2012_real', 'downloaded by hand, into .*downloads/manual'),
    ],
)
def test_errors(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as raised:
        prepare.main([name, '--data_dir', str(tmp_path)])
    assert '\n' not in str(raised.value)


def test_imagenet_tars(tmp_path):
    """They are looked for by name and size, in TFDS's folder or in --manual_dir."""
    train, val = imagenet.SIZES
    with pytest.raises(UserError, match=f'{train} and {val} not found in {tmp_path}/downloads/man'):
        prepare.main(['imagenet2012', '--data_dir', str(tmp_path)])
    (tmp_path / train).touch()
    with pytest.raises(UserError, match=f'^{val} not found in {tmp_path}: .*not extracted'):
        prepare.main(['imagenet2012', '--manual_dir', str(tmp_path)])
    (tmp_path / val).touch()
    with pytest.raises(UserError, match=f'{train} has 0 bytes: expected 147,897,477,120'):
        prepare.main(['imagenet2012', '--manual_dir', str(tmp_path), '--data_dir', str(tmp_path)])


def test_a_bucket_is_no_place_to_prepare_in():
    with pytest.raises(UserError, match='gs://mine/data is not on this machine'):
        prepare.check('cifar10', 'gs://mine/data', epath.Path('/nowhere'))


def test_as_a_program(tmp_path):
    run = subprocess.run(
        [sys.executable, '-m', 'cls.tools.prepare', 'mnits', '--data_dir', str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert run.returncode == 2
    assert run.stdout == ''
    assert run.stderr.startswith("error: 'mnits' is not known to TFDS")
    assert run.stderr.count('\n') == 1
