"""What a run says of its surroundings, on machines that have less than this one."""

import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from cls import runtime


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
