"""What a run says of its surroundings, on machines that have less than this one."""

import logging
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from cls import config as configs
from cls import runtime
from cls.errors import UserError


def test_a_checkout_tells_its_commit():
    git = ['git', '-C', str(Path(runtime.__file__).parent), 'rev-parse', 'HEAD']
    if not shutil.which('git') or subprocess.run(git, capture_output=True).returncode:
        pytest.skip('no checkout')
    head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert runtime.environment()['commit'].removesuffix('-dirty') == head


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    found = runtime.environment()
    assert found['commit'] is None
    assert found['device_count'] == jax.device_count()


def test_an_unpacked_archive_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, '__file__', str(tmp_path / 'runtime.py'))
    assert runtime.environment()['commit'] is None


@pytest.mark.parametrize('name', ['.lock', 'metrics.jsonl', 'history.jsonl', 'evaluation.json'])
@pytest.mark.parametrize('there', [True, False])
def test_a_run_folder_s_links_lead_to_no_file_outside(tmp_path, name, there):
    """It may come from anybody; locking, logging and appending would change what it links to."""
    other = tmp_path / 'other'
    if there:
        other.write_text('of somebody')
    (tmp_path / 'run').mkdir()
    config = configs.load('configs/resnet.py')
    (tmp_path / 'run' / 'config.json').write_text(configs.to_json(config))
    (tmp_path / 'run' / name).symlink_to(other)
    with (
        pytest.raises(UserError, match=rf'{name} is a link to {other}'),
        runtime.claim(tmp_path / 'run', config),
    ):
        raise AssertionError('claimed')
    assert (other.read_text() if there else other.exists()) == ('of somebody' if there else False)
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == sorted({name, 'config.json'})


def test_a_folder_on_another_disk_is_said(tmp_path, caplog):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'checkpoints').symlink_to(tmp_path / 'disk')
    with (
        caplog.at_level(logging.WARNING),
        runtime.claim(tmp_path / 'run', configs.load('configs/resnet.py')),
    ):
        pass
    assert f'what is written there goes to {tmp_path / "disk"}' in caplog.text
