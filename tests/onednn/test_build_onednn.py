"""Building and loading the extension where something is missing or damaged."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cls.errors import UserError
from cls.onednn import build, load


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(load, '_loaded', [])
    return tmp_path


def compiler(folder, text):
    """Returns a program in place of a compiler."""
    file = folder / 'compiler'
    file.write_text(f'#!/bin/sh\n{text}\n')
    file.chmod(0o755)
    return str(file)


def test_a_build_without_packages_or_compiler_is_one_line(cache, monkeypatch):
    monkeypatch.setenv('CXX', str(cache / 'absent'))
    with pytest.raises(UserError, match='cannot be run'):
        build.build()
    monkeypatch.setattr(build, 'installed', lambda *_: None)
    with pytest.raises(UserError, match='are not installed'):
        build.build()
    assert not list(cache.glob('*.so'))
    assert load.load() == ''


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (
            'echo note: x >&2; for i in 1 2 3; do echo "a.cc:$i: error: y" >&2; done; exit 1',
            r'failed: a.cc:1: error: y \(.*\.log has all of it\)',
        ),
        (r"printf 'error: \\377' >&2; exit 1", 'failed: error: '),
        ('exit 3', 'failed: code 3, without a message'),
        ('exit 0', 'made no file'),
    ],
)
def test_a_failing_compiler_is_one_line(built, cache, monkeypatch, text, said):
    monkeypatch.setenv('CXX', compiler(cache, text))
    with pytest.raises(UserError, match=said) as error:
        build.build()
    assert '\n' not in str(error.value)
    assert not list(cache.glob('*.so'))


def test_a_compiler_that_is_no_command_is_one_line(built, cache, monkeypatch):
    monkeypatch.setenv('CXX', "g++ '-O1")
    with pytest.raises(UserError, match='No closing quotation'):
        build.build()


def test_the_compiler_may_have_arguments(built, cache, monkeypatch):
    log = cache / 'arguments'
    program = compiler(cache, f'echo "$@" > {log}; exit 1')
    monkeypatch.setenv('CXX', f'{program} -m64 "-DX=a b"')
    with pytest.raises(UserError):
        build.build()
    assert log.read_text().startswith('-m64 -DX=a b -std=c++17')


@pytest.mark.parametrize('part', [0, 0.5, 0.999])
def test_a_damaged_file_is_not_loaded_and_is_built_again(built, cache, caplog, part):
    """A shortened library is not opened: that can kill a process."""
    content = built.read_bytes()
    (cache / built.name).write_bytes(content[: int(part * len(content))])
    with caplog.at_level(logging.WARNING):
        assert load.load() == ''
    assert 'is damaged, XLA computes: run cls build-onednn again.' in caplog.text
    if part == 0.5:
        assert build.is_whole(build.build())


def test_the_cache_may_be_a_relative_path(built, extension, cache):
    shutil.copy(built, cache)
    program = 'from cls.onednn import load; print(load.load(), load.registered())'
    variables = os.environ | {'CLS_CACHE_DIR': '.', 'PYTHONPATH': str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, '-c', program],
        env=variables,
        cwd=cache,
        capture_output=True,
        text=True,
        check=True,
    )
    version, file = done.stdout.split()
    assert version == extension
    assert Path(file).parent == cache.resolve()


def test_a_cache_that_cannot_be_read_is_one_warning(built, cache, monkeypatch, caplog):
    monkeypatch.setenv('CLS_CACHE_DIR', str(cache / ('x' * 300)))
    with caplog.at_level(logging.WARNING):
        assert load.load() == ''
    assert 'cannot be loaded, XLA computes' in caplog.text
