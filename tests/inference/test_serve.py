"""`cls serve` as a real process, with a real client: answers, refusals, load, and its end."""

import asyncio
import concurrent.futures
import dataclasses
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image
from served import ROOT, Served, png
from tiny_run import write_run

import cls
from cls.errors import UserError
from cls.inference.serving.app import Limits, Server
from cls.inference.serving.batcher import Batcher, Closed
from cls.tools import serve

LIMITS = ('--requests', '40', '--upload', '0.5', '--pixels', '100000')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run folder of a small network of ten classes and gray images, with new weights."""
    classes = tuple(map(str, range(10)))
    folder = tmp_path_factory.mktemp('serve') / 'run'
    return write_run(folder, classes=classes, channels=1, outputs=10)


@pytest.fixture(scope='module')
def server(run):
    served = Served(run, *LIMITS)
    yield served
    served.process.kill()
    served.process.wait()


@pytest.fixture(scope='module')
def model(run):
    return cls.load(run)


def test_an_answer_is_the_models_prediction(server, model):
    content = png()
    status, body = server.ask('POST', '/predict?top=3', content)
    answer = json.loads(body)
    assert status == 200
    assert answer['model'] == 'resnet20_cifar'
    expected = model.predict(content, top=3)
    assert [x['label'] for x in answer['predictions']] == [x.label for x in expected]
    for ours, theirs in zip(answer['predictions'], expected, strict=True):
        assert ours['probability'] == pytest.approx(theirs.probability, abs=1e-5)


def test_a_heat_map_is_that_of_the_model(server, model):
    content = png()
    status, body = server.ask('POST', '/explain?index=3', content)
    assert status == 200
    image = np.asarray(Image.open(io.BytesIO(body)))
    np.testing.assert_array_equal(image, model.explain(content, target=3).overlay())
    best = model.predict(content, top=1)[0].index
    assert server.ask('POST', '/explain', content) == server.ask(
        'POST', f'/explain?index={best}', content
    )


def test_a_form_is_taken_as_the_body_is(server):
    content, boundary = png(), 'xyz'
    form = (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n'
            'Content-Type: image/png\r\n\r\n'
        ).encode()
        + content
        + f'\r\n--{boundary}--\r\n'.encode()
    )
    headers = {'Content-Type': f'multipart/form-data; boundary={boundary}'}
    assert server.ask('POST', '/predict', form, headers) == server.ask('POST', '/predict', content)
    headers = {'Content-Type': f'Multipart/Form-Data; boundary={boundary}'}
    assert server.ask('POST', '/predict', form, headers) == server.ask('POST', '/predict', content)


@pytest.mark.parametrize(
    ('method', 'path', 'body', 'status', 'text'),
    [
        ('POST', '/predict', b'', 400, 'the body is empty'),
        ('POST', '/predict', b'no image', 400, 'cannot be read'),
        ('POST', '/predict', png()[:80], 400, 'cannot be read'),
        ('POST', '/predict', png(size=(400, 300)), 400, 'more than 100,000; see --pixels of cls'),
        ('POST', '/predict', bytes(2**20), 413, 'larger than 0.5 MiB'),
        ('POST', '/predict?top=0', png(), 400, "top is '0': Input should be greater than or equal"),
        ('POST', '/predict?top=many', png(), 400, "top is 'many': Input should be a valid integer"),
        ('POST', '/explain?index=x', png(), 400, "index is 'x': Input should be a valid integer"),
        ('POST', '/explain?index=10', png(), 400, 'expected 0 to 9'),
        ('GET', '/predict', None, 405, 'Method Not Allowed'),
        ('GET', '/other', None, 404, 'Not Found'),
    ],
)
def test_bad_input_is_refused_with_its_reason(server, method, path, body, status, text):
    code, content = server.ask(method, path, body)
    assert code == status
    detail = json.loads(content)['detail']
    assert isinstance(detail, str)
    assert text in detail
    assert server.ask('POST', '/predict', png())[0] == 200


def test_a_form_without_a_file_is_refused(server):
    headers = {'Content-Type': 'multipart/form-data; boundary=x'}
    form = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
    for body, text in ((form, 'has no file'), (b'nothing of a form', 'form')):
        status, content = server.ask('POST', '/predict', body, headers)
        assert status == 400
        assert text in json.loads(content)['detail']


def test_an_upload_of_unknown_length_ends_at_the_limit(server):
    """Sent in chunks, without Content-Length."""
    parts = (bytes(2**16) for _ in range(64))
    with server.connected() as connection:
        try:
            connection.request('POST', '/predict', parts, {'Transfer-Encoding': 'chunked'})
        except (BrokenPipeError, ConnectionResetError):
            return  # the server closed the connection after its answer
        assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ('own', 'said'), [(10**5, '; see --pixels of cls serve)'), (5000, '5,000)')]
)
def test_the_flag_is_named_only_where_it_is_the_limit(own, said):
    network = cls.create('resnet20_cifar', num_classes=10)
    network.preprocess = dataclasses.replace(network.preprocess, max_pixels=own)
    one = Server(network, Limits(pixels=8000), SimpleNamespace(batches={}))
    with pytest.raises(HTTPException) as caught:
        asyncio.run(one.in_thread(one.preprocess.crop, png(size=(120, 100))))
    assert caught.value.detail.endswith(said)


def test_the_description_and_the_page_need_no_other_server(server, model):
    status, body = server.ask('GET', '/model')
    assert status == 200
    described = json.loads(body)
    assert described['num_classes'] == 10
    assert described['classes'] == list(model.names)
    status, page = server.ask('GET', '/')
    assert status == 200
    assert not re.findall(rb'(?:https?:)?//[a-z]', page)
    paths = json.loads(server.ask('GET', '/openapi.json')[1])['paths']
    assert {'/predict', '/explain', '/model', '/health', '/metrics'} == set(paths)
    assert set(paths['/predict']['post']['responses']) >= {'200', '400', '408', '413', '503'}


def counted(server):
    """Returns {(path, status): number} of the server's own counters."""
    text = server.ask('GET', '/metrics')[1].decode()
    pattern = r'cls_requests_total\{path="([^"]*)",status="(\d+)"\} (\S+)'
    return {(path, int(s)): int(float(n)) for path, s, n in re.findall(pattern, text)}


async def _load(server, bodies):
    """Posts all bodies at once; returns their answers as (status, JSON)."""
    connector = aiohttp.TCPConnector(limit=0)
    url = f'http://{server.host}:{server.port}/predict?top=1'
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(body):
            async with session.post(url, data=body) as response:
                return response.status, await response.json()

        return await asyncio.gather(*map(one, bodies))


def test_hundreds_of_requests_at_once_are_all_answered_rightly_or_refused(server, model):
    """A third is hostile. Each answer belongs to its own image, and the counters agree."""
    images = [png(seed) for seed in range(200)]
    hostile = [b'no image', images[0][:60], png(size=(400, 300)), b'']
    bodies = [images[i] if i % 3 else hostile[i % len(hostile)] for i in range(len(images))]
    before = counted(server)
    answers = asyncio.run(_load(server, bodies))
    after = counted(server)
    assert {status for status, _ in answers} <= {200, 400, 503}
    for i, (status, answer) in enumerate(answers):
        if status == 503:
            continue
        assert status == (200 if i % 3 else 400)
        if status == 200:
            (expected,) = model.predict(images[i], top=1)
            (ours,) = answer['predictions']
            assert ours['probability'] == pytest.approx(expected.probability, abs=1e-4)
    for status in (200, 400, 503):
        key = ('/predict', status)
        count = sum(code == status for code, _ in answers)
        assert after.get(key, 0) - before.get(key, 0) == count
    assert any(status == 200 for status, _ in answers)
    assert server.ask('POST', '/predict', png())[0] == 200  # everything was released


def test_more_requests_than_allowed_get_503_and_others_their_answer(run):
    """Forty uploads that are not complete hold all places."""
    served = Served(run, *LIMITS)
    held = []
    for _ in range(40):
        connection = socket.create_connection((served.host, served.port))
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc')
        held.append(connection)
    deadline = time.monotonic() + 30
    # A request of our own before all uploads are admitted could take the place of one.
    while b'\ncls_requests_in_progress 40.0\n' not in served.ask('GET', '/metrics')[1]:
        assert time.monotonic() < deadline
    assert served.ask('POST', '/predict', png())[0] == 503
    assert served.ask('GET', '/health')[0] == 200
    for connection in held:
        connection.close()
    while served.ask('POST', '/predict', png())[0] != 200:
        assert time.monotonic() < deadline
    assert served.ended() == (0, '')


def test_sigterm_answers_all_that_was_accepted(run):
    served = Served(run, '--requests', '500')
    content = png()
    connections = [http.client.HTTPConnection(served.host, served.port) for _ in range(60)]
    for connection in connections:  # accepted, and half of the body sent
        connection.putrequest('POST', '/predict')
        connection.putheader('Content-Length', str(len(content)))
        connection.endheaders(content[:50])
    while (
        int(re.search(rb'cls_requests_in_progress (\d+)', served.ask('GET', '/metrics')[1])[1]) < 60
    ):
        time.sleep(0.05)
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert served.process.poll() is None
    with pytest.raises(OSError):
        socket.create_connection((served.host, served.port), timeout=5).close()
    with concurrent.futures.ThreadPoolExecutor(60) as pool:

        def rest(connection):
            connection.send(content[50:])
            return connection.getresponse().status

        assert set(pool.map(rest, connections)) == {200}
    assert served.waited() == (0, '')


def test_a_mistake_is_one_line():
    command = [sys.executable, '-m', 'cls.tools.serve', '--from', 'nothing/there', '--port', '0']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'nothing/there' in done.stderr
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
    ('flags', 'text'),
    [
        (('--port', '70000'), 'expected 0 to 65535'),
        (('--requests', '0'), 'expected more than 0'),
        (('--upload', 'inf'), '--upload is inf: expected'),
        (('--host', 'a..b'), 'cannot be listened on'),
        (('--host', 'no.such.host.invalid'), 'cannot be listened on'),
    ],
)
def test_mistakes_in_flags_are_one_line(flags, text):
    with pytest.raises(UserError) as caught:
        serve.main(['--from', 'x', *flags])
    assert text in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match='in use'):
            serve.main(['--from', 'x', '--port', port])


def test_a_port_is_taken_before_the_model_loads():
    with serve.listening('127.0.0.1', 0) as first, pytest.raises(UserError, match='in use'):
        serve.listening('127.0.0.1', first.getsockname()[1])


def held(sizes, **options):
    """Returns a busy batcher of sums, its sizes of batches, its first result, and an end of it."""
    computed, release = [], threading.Event()

    def compute(images):
        computed.append(len(images))
        release.wait()
        return images.sum((1, 2, 3))

    batcher = Batcher(compute, sizes, **options)
    first = batcher.submit(np.full((2, 2, 1), 7))
    while not computed:
        time.sleep(0.01)
    return batcher, computed, first, release


def test_images_that_wait_are_computed_together():
    batcher, computed, first, release = held((1, 4, 16))
    rest = [batcher.submit(np.full((2, 2, 1), n)) for n in range(21)]
    rest[3].cancel()
    release.set()
    assert first.result() == 28
    assert [f.result() for f in rest if not f.cancelled()] == [4 * n for n in range(21) if n != 3]
    batcher.close()
    assert computed == [1, 16, 16]  # 16 wait, one of them cancelled; then 5 in a batch of 16
    with pytest.raises(Closed):
        batcher.submit(np.zeros((2, 2, 1)))


def test_a_cpu_fills_up_no_batch():
    batcher, computed, first, release = held((1, 2, 4), whole=True)
    images = [batcher.submit(np.full((2, 2, 1), n)) for n in range(11)]
    called = batcher.call(lambda: 'between')
    last = batcher.submit(np.full((2, 2, 1), 2))
    release.set()
    assert [first.result(), last.result(), called.result()] == [28, 8, 'between']
    assert [f.result() for f in images] == [4 * n for n in range(11)]
    batcher.close()
    assert computed == [1, 4, 4, 2, 1, 1]


def test_an_error_of_a_batch_reaches_its_requests_and_no_later_ones():
    def compute(images):
        if images.max() > 5:
            raise ValueError('too large')
        return images[:, 0, 0, 0]

    batcher = Batcher(compute, (1,))
    bad, good = batcher.submit(np.full((1, 1, 1), 9)), batcher.submit(np.full((1, 1, 1), 3))
    with pytest.raises(ValueError, match='too large'):
        bad.result()
    assert good.result() == 3
    assert batcher.call(lambda: 'between').result() == 'between'
    batcher.close()
