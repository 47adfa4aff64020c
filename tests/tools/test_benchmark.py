"""The benchmark: it runs and prints its measurements; the speeds are not tested."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cls.errors import UserError
from cls.tools import benchmark_augment, benchmark_input, benchmark_turns
from cls.tools.benchmark import main


@pytest.mark.sweep
def test_bare_step_and_loop_in_one_run(capsys):
    batch = str(len(jax.devices()))
    arguments = ['resnet20_cifar', '--size=8', '--steps=2', '--loop', '--batch', batch]
    assert main(['model', *arguments]) == 0
    printed = capsys.readouterr().out
    bare, loop = (
        float(re.search(rf'{what}: ([\d,.]+) images/s', printed)[1].replace(',', ''))
        for what in ('bare step', 'training loop')
    )
    ratio = float(re.search(r'loop / bare step: ([\d.]+) %', printed)[1])
    assert ratio == pytest.approx(100 * loop / bare, rel=0.01)


def test_missing_flags_are_named():
    with pytest.raises(UserError, match='required: --batch'):
        main(['model', 'resnet20_cifar'])


PEER = """
import sys

print('ready {}', flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    print(int(count) * 32 / 50, flush=True)  # 50 images a second
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos' / 'more'
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{number}.jpg')
    return folder.parent


def test_input_with_peers(photos, tmp_path, monkeypatch, capsys):
    """Each peer is compared with our pipeline for the same work; the best peer counts."""
    (tmp_path / 'input_with_tensorflow.py').write_text(PEER)
    (tmp_path / 'input_with_torch.py').write_text(PEER.replace('50', '40'))
    monkeypatch.setattr(benchmark_turns, 'PEERS', tmp_path)
    monkeypatch.setattr(benchmark_input, 'SKIP', 1)
    monkeypatch.setattr(benchmark_input, 'COUNT', 2)
    monkeypatch.setattr(benchmark_input, 'PROCESSES', False)  # their start takes seconds
    report = tmp_path / 'report.json'
    arguments = ['input', str(photos), '--rounds=1', f'--json={report}']
    assert main([*arguments, f'--tensorflow={sys.executable}', f'--torch={sys.executable}']) == 0
    found = json.loads(report.read_text())['rows']
    printed = capsys.readouterr().out
    for work in ('training', 'evaluation'):
        assert (found[f'{work}, tensorflow'], found[f'{work}, torch']) == (50, 40)
        ours = found[f'{work} like tensorflow']
        assert found[f'{work}, ratio to the best peer'] == pytest.approx(ours / 50)
        assert f'{work} like torch / torch' in printed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], 'nowhere: expected a folder of images, digits or cifar-like'),
        (['digits', '--rounds=0'], '--rounds is 0'),
    ],
)
def test_input_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        main(['input', *arguments])


def test_peers_that_do_not_start(photos, tmp_path, monkeypatch):
    (tmp_path / 'input_with_tensorflow.py').write_text('import nothing_of_the_kind')
    monkeypatch.setattr(benchmark_turns, 'PEERS', tmp_path)
    monkeypatch.setattr(benchmark_input, 'PROCESSES', False)
    with pytest.raises(UserError, match='nopython cannot be run'):
        main(['input', str(photos), '--torch=/nopython'])
    with pytest.raises(UserError, match='with_tensorflow.py ended with: .*nothing_of_the_kind'):
        main(['input', str(photos), f'--tensorflow={sys.executable}'])


def test_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_input, 'STEP', 0.001)
    report = tmp_path / 'report.json'
    assert main(['input', 'cifar-like', '--rounds=1', f'--json={report}']) == 0
    assert 0 < json.loads(report.read_text())['rows']['waiting'] < 1


def test_augmentations(monkeypatch, capsys):
    erasing = {'erasing': benchmark_augment.AUGMENTATIONS['erasing']}
    monkeypatch.setattr(benchmark_augment, 'AUGMENTATIONS', erasing)
    assert main(['augment', '--size=8', '--batches', '2', '4']) == 0
    cost = r'[\d.]+ ms, [\d.]+ MB'
    assert re.fullmatch(f'erasing: {cost}; {cost}\n', capsys.readouterr().out)


@pytest.mark.parametrize('flag', ['--batches=0', '--batches=-1', '--size=0'])
def test_augment_refuses_images_of_no_size(flag):
    with pytest.raises(UserError, match='expected 1 or more'):
        main(['augment', flag])
