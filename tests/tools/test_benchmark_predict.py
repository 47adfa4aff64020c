"""The comparison of `cls predict` with its parts and timm, against stand-ins of known speed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cls.errors import UserError
from cls.inference import loading
from cls.tools import benchmark_predict, benchmark_predictor
from cls.tools.benchmark import main

SIDE = """
import json, pathlib, sys

print('ready', json.dumps(about), flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    print(int(count) * seconds(work), flush=True)
"""
OURS = """
about = {'params': 7, 'versions': {'jax': '1'}, 'preparation': {'size': 224}}
about['images'] = 4
about['classes'] = ['ant', 'bee', 'cat', 'dog']
def seconds(work):
    folder = pathlib.Path(sys.argv[2])
    names = [file.name for file in sorted((folder / 'images').iterdir())]
    labels = [about['classes'][i % 2] for i in range(len(names))]
    lines = [f'/x/{name},{label},x' for name, label in zip(names, labels)]
    lines.insert(0, 'image,class1,name1')
    (folder / 'ours.csv').write_text('\\n'.join(lines))
    return {'predict': 10, 'step': 4, 'decode': 2}[work]
"""
# Slower with channels last and with workers; the second half of its classes differ.
PEER = """
if sys.argv[3:] == ['save']:
    pathlib.Path(sys.argv[2]).touch()
    sys.exit()
about = {'params': int(pathlib.Path(__file__).with_name('params').read_text())}
about['versions'] = {'timm': '2'}
def seconds(work):
    images, few, output, batch, threads, layout, workers, preparation = sys.argv[3:]
    assert json.loads(preparation) == {'size': 224}
    names = [file.name for file in sorted(pathlib.Path(images).iterdir())]
    lines = [f'{name},{i % 2 if 2 * i < len(names) else 3},x' for i, name in enumerate(names)]
    pathlib.Path(output).write_text('\\n'.join(lines))
    return 20 + 10 * (layout == 'channels_last') + 10 * int(workers)
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos' / 'deep'
    folder.mkdir(parents=True)
    for number, name in enumerate(('a.JPEG', 'b.png', 'c.png', 'd.png', 'e.jpg', 'f.png')):
        pixels = np.random.default_rng(number).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / 'notes.txt').write_text('no image')
    return folder.parent


@pytest.fixture
def sides(tmp_path, monkeypatch):
    first = SIDE.split('\n\n')[0]
    (tmp_path / 'predict_with_timm.py').write_text(first + PEER + SIDE)
    (tmp_path / 'params').write_text('7')
    monkeypatch.setattr(benchmark_predict, 'PEERS', tmp_path)
    monkeypatch.setattr(benchmark_predict, 'SERVE', first + OURS + SIDE)
    return tmp_path


def test_predictions_are_compared_with_step_parts_and_the_fastest_timm(
    photos, sides, tmp_path, capsys
):
    report = tmp_path / 'report.json'
    flags = ['--images=40', '--batch=4', '--rounds=2', f'--torch={sys.executable}']
    assert main(['predict', str(photos), 'resnet50', *flags, f'--json={report}']) == 0
    row = json.loads(report.read_text())['rows']['resnet50']
    assert (row['format'], row['workers'], row['same']) == ('contiguous', 0, 0.5)
    # 40 images in 10 s, a batch of 4 in 4 s, 40 decoded in 2 s, 40 by timm in 20 s.
    assert row['of_step']['ratio'] == pytest.approx(4 / 1)
    assert row['of_parts']['ratio'] == pytest.approx(4 / (1 / (1 / 1 + 1 / 20)), rel=1e-3)
    assert row['of_timm']['ratio'] == pytest.approx(4 / 2)
    printed = capsys.readouterr().out
    assert 'cls predict / the step 4.000, / step and decoding 4.200, / timm 2.000' in printed


def test_without_torch_only_our_parts_are_compared(photos, sides, capsys):
    assert main(['predict', str(photos), 'resnet50', '--images=8', '--rounds=1']) == 0
    assert 'timm' not in capsys.readouterr().out


def test_another_network_of_timm_is_refused(photos, sides):
    (sides / 'params').write_text('8')
    flags = ['--images=8', '--rounds=1', f'--torch={sys.executable}']
    with pytest.raises(UserError, match='timm:resnet50 has 8 parameters and our network 7'):
        main(['predict', str(photos), 'resnet50', *flags])


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['nowhere'], 'nowhere: expected a folder of images'),
        (['{photos}', '--images=0'], '--images is 0'),
        (['{photos}', 'shufflenetv2_50', '--torch=python'], 'has no reference in PyTorch'),
        (['{photos}', 'resnet50', '--torch=/nopython', '--images=1'], 'nopython cannot be run'),
    ],
)
def test_mistakes_are_refused(photos, flags, said):
    with pytest.raises(UserError, match=said):
        main(['predict', *(flag.format(photos=photos) for flag in flags)])


def test_images_are_repeated_with_their_formats_mixed(photos, tmp_path):
    files = benchmark_predict.photos_of(photos)
    benchmark_predict.repeat(files, 8, tmp_path / 'links')
    names = [link.resolve().name for link in sorted((tmp_path / 'links').iterdir())]
    assert names == ['a.JPEG', 'c.png', 'e.jpg', 'b.png', 'd.png', 'f.png', 'a.JPEG', 'c.png']


def test_our_side_predicts_steps_and_decodes(photos, tmp_path):
    model = loading.create('resnet20_cifar')
    model.batch = 1
    output = tmp_path / 'ours.csv'
    benchmark_predictor.Predictions(model, photos, output).passes(2)
    assert len(output.read_text().splitlines()) == 1 + 6
    files = [str(file) for file in benchmark_predict.photos_of(photos)]
    steps = benchmark_predictor.Steps(model, files[:3])
    assert steps.images.shape == (model.mesh.size, 32, 32, 3)
    steps.run(2)
    benchmark_predictor.decode(model, files, 1)
    with pytest.raises(UserError, match='cannot be read'):
        benchmark_predictor.decode(model, [str(Path(tmp_path, 'nothing'))], 1)
