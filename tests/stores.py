"""Fixtures of object stores: real clients, and servers on this machine."""

import functools

import pytest

from cls.errors import UserError
from cls.storage import download, paths


@pytest.fixture(scope='session')
def s3_server():
    """A server with the S3 protocol; yields the settings of its clients."""
    pytest.importorskip('s3fs', reason='s3fs is not installed, see tests/requirements.txt')
    moto = pytest.importorskip('moto.server', reason='moto is not installed')
    server = moto.ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        'AWS_ENDPOINT_URL': f'http://{host}:{port}',
        'AWS_ACCESS_KEY_ID': 'test',
        'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_DEFAULT_REGION': 'us-east-1',
    }
    server.stop()


@pytest.fixture(scope='session')
def gs_server():
    """A server of Google's protocol, for fsspec, TensorStore (so Orbax), and array_record."""
    pytest.importorskip('gcsfs', reason='gcsfs is not installed, see tests/requirements.txt')
    emulator = pytest.importorskip(
        'gcp_storage_emulator.server', reason='gcp-storage-emulator is not installed'
    )
    server = emulator.create_server('127.0.0.1', 0, in_memory=True, default_bucket='bucket')
    server.start()
    url = f'http://127.0.0.1:{server._api._httpd.server_address[1]}'
    names = ('STORAGE_EMULATOR_HOST', 'TENSORSTORE_GCS_HTTP_URL', 'CLOUD_STORAGE_EMULATOR_ENDPOINT')
    # Without this, clients would ask a missing metadata server for credentials.
    yield dict.fromkeys(names, url) | {
        'GOOGLE_CLOUD_PROJECT': 'test',
        'GCE_METADATA_ROOT': '127.0.0.1:1',
        'NO_GCE_CHECK': 'true',
    }
    server.stop()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache folder for one test."""
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    download._copied.cache_clear()
    return tmp_path / 'cache'


@pytest.fixture(params=['s3', 'gs'])
def bucket(request, monkeypatch, cache):
    """An empty bucket of either kind of store."""
    for name, value in request.getfixturevalue(f'{request.param}_server').items():
        monkeypatch.setenv(name, value)
    return _empty_bucket(request.param)


@pytest.fixture
def s3_bucket(s3_server, monkeypatch, cache):
    """An empty bucket of S3, a store that Orbax cannot write to."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    return _empty_bucket('s3')


def _empty_bucket(scheme):
    found = paths.path(f'{scheme}://bucket')
    system = paths.filesystem(found)
    if system.exists('bucket'):
        if paths.find(found):
            paths.remove(found / '*')
    else:
        system.mkdir('bucket')
    return found


def emulated(test):
    """Skips a test in which the emulator of Google's protocol lost an answer, as under load.

    TensorStore then finds no generation of the file that it wrote.
    """

    @functools.wraps(test)
    def checked(*args, **kwargs):
        try:
            return test(*args, **kwargs)
        except UserError as error:
            if 'Malformed StorageGeneratio' not in str(error):  # cut off
                raise
            pytest.skip('the emulator of Google Cloud Storage lost an answer')

    return checked
