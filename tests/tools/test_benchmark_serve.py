"""The comparison of `cls serve` with onnxruntime: a stand-in of known speed, and the real sides."""

import json

import numpy as np
import pytest
from PIL import Image

from cls.errors import UserError
from cls.inference import loading
from cls.tools import benchmark_serve, benchmark_server
from cls.tools.benchmark import main

SIDE = """
import json, pathlib, sys

kind, name, folder, *numbers = sys.argv[1:]
own = {'cls': 1, 'onnxruntime': 2, 'onnxruntime, one by one': 4}[kind]
print('ready', json.dumps({'versions': {kind: '1'}, 'pixels': 224}), flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    seconds = own if int(work) > 1 else 1 / own
    (pathlib.Path(folder) / f'{kind} {work}.json').write_text(json.dumps([seconds] * 3))
    print(seconds * int(count), flush=True)
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.png')
    return folder


def test_the_better_way_of_onnxruntime_is_the_peer(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_serve, 'SERVE', SIDE)
    report = tmp_path / 'report.json'
    flags = ['--at-once', '1', '8', '--requests=10', '--rounds=2', f'--json={report}']
    assert main(['serve', str(photos), 'resnet50', *flags]) == 0
    rows = json.loads(report.read_text())['rows']
    one, many = rows['resnet50 x 1'], rows['resnet50 x 8']
    assert (one['peer'], many['peer']) == ('onnxruntime, one by one', 'onnxruntime')
    assert one['throughput']['ratio'] == pytest.approx(1 / 4)
    assert (one['p50']['ratio'], one['p99']['ratio']) == (4, 4)
    assert many['throughput']['ratio'] == pytest.approx(2)
    assert many['p99']['ratio'] == pytest.approx(0.5)
    assert 'resnet50, 8 at once: 1.0 requests/s, onnxruntime 0.5' in capsys.readouterr().out


def test_a_client_asks_a_server_over_onnxruntime(photos, tmp_path):
    pytest.importorskip('onnxruntime')
    model, same = loading.create('resnet20_cifar'), loading.create('resnet20_cifar')
    benchmark_server.of_onnxruntime(model, tmp_path / 'model.onnx')
    pixels = same.preprocess.pixels([str(photos / '0.png'), str(photos / '1.png')])
    np.testing.assert_allclose(model.of_pixels(pixels), same.of_pixels(pixels), atol=1e-5)
    address = benchmark_server.started(model, (1,))
    output = tmp_path / 'seconds.json'
    files = [str(file) for file in sorted(photos.iterdir())]
    client = benchmark_server.Asking(address, 2, files, output)
    assert client.ask(4) > 0
    client.ask(3)
    assert len(json.loads(output.read_text())) == 7
    half, most = benchmark_server.percentiles(output)
    assert 0 < half <= most
    (photos / 'broken.png').write_bytes(b'no image')
    broken = benchmark_server.Asking(address, 1, [str(photos / 'broken.png')], output)
    with pytest.raises(UserError, match='400.*cannot be read'):
        broken.ask(1)


@pytest.mark.parametrize(
    ('flags', 'said'),
    [(['--at-once', '0'], '--at-once is 0'), (['--requests=0'], '--requests is 0')],
)
def test_mistakes_are_refused(photos, flags, said):
    with pytest.raises(UserError, match=said):
        main(['serve', str(photos), *flags])
