"""The extension, for the tests of this folder."""

import fcntl
import os
import shutil

import jax
import pytest

from cls.nn.cpu import native
from cls.onednn import build, load

PACKAGES = build.installed(build.PACKAGES[0], build.LIBRARY) and shutil.which('g++')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The file of the extension, in a cache of these tests."""
    if not PACKAGES:
        pytest.skip('without oneDNN or g++')
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # each worker has a folder of its own there
        folder = folder.parent
    cache = folder / 'onednn'
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, (cache / 'lock').open('w') as lock:
        patch.setenv('CLS_CACHE_DIR', str(cache))
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = build.build()
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield file


@pytest.fixture(scope='module')
def extension(built):
    """The extension registered in this process: the version of oneDNN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, '_enabled', False)
        yield load.load()


@pytest.fixture
def one_device(extension, monkeypatch):
    """A process in which programs call the extension: one with a single device."""
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    jax.clear_caches()
    yield
    jax.clear_caches()
