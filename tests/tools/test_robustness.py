"""Robustness benchmarks, compared with a score of each image by itself."""

import json

import cv2
import jax
import numpy as np
import pytest

from cls.config import load as configs
from cls.data import classes as layouts
from cls.data import imagenet_variants
from cls.errors import UserError
from cls.evaluation import robustness as benchmarks
from cls.models.registry import init
from cls.steps.train_step import normalize
from cls.tools import import_weights, robustness

pytestmark = pytest.mark.usefixtures('quick_programs')

WNIDS = tuple(f'n{i:08}' for i in range(12))
SUBSET, EVERY = (1, 4, 7, 11), tuple(range(12))
RIGHT = [[i % 12] if i % 4 else [i % 12, (i + 5) % 12] for i in range(30)]
RIGHT[7] = []


@pytest.fixture
def twelve(monkeypatch):
    """Reduces ImageNet to 12 classes and 30 validation images, and ImageNet-C to four parts."""
    monkeypatch.setattr(layouts, 'wnids', lambda: WNIDS)
    monkeypatch.setattr(imagenet_variants, 'wnids', lambda: WNIDS)
    labels = [WNIDS[i % 12] for i in range(30)]
    monkeypatch.setattr(imagenet_variants, 'validation_labels', lambda: labels)
    few = layouts.Benchmark(subset=SUBSET)
    monkeypatch.setitem(layouts.BENCHMARKS, 'imagenet_a', few)
    monkeypatch.setattr(benchmarks, 'ALEXNET_ERRORS', {'fog': 0.8, 'snow': 0.5})
    monkeypatch.setattr(benchmarks, 'SEVERITIES', (1, 2))


def picture(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(str(file)[-30:].encode(), 'big')
    pixels = np.random.default_rng(seed).integers(256, size=(2, 2, 3), dtype=np.uint8)
    pixels = cv2.resize(pixels, (8, 8))  # noise images would all get about the same logits
    cv2.imwrite(str(file.with_suffix('.png')), pixels)
    file.with_suffix('.png').rename(file)


@pytest.fixture
def data(tmp_path, twelve):
    root = tmp_path / 'data'
    for name in WNIDS:
        for i in range(3):
            picture(root / 'sketch' / name / f'{i}.png')
            for corruption, kind in (('fog', 'weather'), ('snow', '.')):
                for severity in (1, 2):
                    path = root / 'imagenet-c' / kind / corruption / str(severity) / name
                    picture(path / f'{i}.png')
    for place in SUBSET:
        for i in range(9):
            picture(root / 'imagenet-a' / WNIDS[place] / f'{i}.png')
    for i in range(30):
        picture(root / 'imagenet-real' / 'val' / f'ILSVRC2012_val_{i + 1:08}.JPEG')
    (root / 'imagenet-real' / 'real.json').write_text(json.dumps(RIGHT))
    return root


@pytest.fixture
def run(tmp_path):
    """A run folder of a small model with the classes in reverse order."""
    overrides = {'model.stage_sizes': '(1, 1, 1)', 'model.widths': '(8, 8, 8)', 'batch': '16'}
    overrides |= {'model.num_classes': '12', 'eval.batch': '16', 'model.bn_group': '0'}
    overrides |= {'data.mean': '(120.,)', 'data.std': '(30.,)'}
    config = configs.load('configs/resnet.py', tuple(overrides.items()))
    net = configs.create_model(config, 12)
    variables = init.init(net, 3, 8, 3)
    # A new network predicts one class for nearly all images: center its logits.
    noise = np.random.default_rng(1).normal(size=(99, 8, 8, 3)).astype(np.float32)
    noise += np.random.default_rng(2).normal(size=(99, 1, 1, 3)).astype(np.float32) * 2
    bias = variables['params']['fc']['bias']
    apply = jax.jit(net.apply)
    bias -= np.asarray(apply(variables, noise)).mean(0)
    import_weights.write(config, variables, tmp_path / 'run', classes=WNIDS[::-1])
    return tmp_path / 'run', apply, variables


def expected(run, files, right_of, kept=EVERY):
    """Returns top-1 in percent, file by file; `right_of` returns the right WordNet ids."""
    _, apply, variables = run
    images = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
    logits = np.asarray(apply(variables, normalize(images, (120.0,), (30.0,))))
    names = WNIDS[::-1]
    right = 0
    for file, row in zip(files, logits, strict=True):
        best = max((value, name) for value, name in zip(row, names, strict=True)
                   if WNIDS.index(name) in kept)[1]  # fmt: skip
        right += best in right_of(file)
    return 100 * right / len(files)


def by_folder(file):
    return [file.parent.name]


def test_each_set_is_scored_in_its_own_way(data, run, capsys):
    workdir = run[0]
    assert robustness.main(['--workdir', str(workdir), '--data', str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((workdir / 'robustness.json').read_text())
    found = {name: values['top1'] for name, values in result['sets'].items()}
    assert len(lines) == len(found) + 1 == 8
    wanted = {
        'imagenet_sketch': expected(run, sorted(data.glob('sketch/*/*')), by_folder),
        'imagenet_a': expected(run, sorted(data.glob('imagenet-a/*/*')), by_folder, SUBSET),
    }
    labelled = [
        file
        for number, file in enumerate(sorted(data.glob('imagenet-real/val/*')))
        if RIGHT[number]
    ]
    wanted['imagenet_real'] = expected(
        run, labelled, lambda file: [WNIDS[i] for i in RIGHT[int(file.stem[-8:]) - 1]]
    )
    errors = {}
    for name, kind in (('fog', 'weather/'), ('snow', '')):
        for severity in (1, 2):
            files = sorted(data.glob(f'imagenet-c/{kind}{name}/{severity}/*/*'))
            wanted[f'imagenet_c/{name}/{severity}'] = expected(run, files, by_folder)
            errors[name, severity] = 1 - wanted[f'imagenet_c/{name}/{severity}'] / 100
    assert found == pytest.approx(wanted)
    assert result['sets']['imagenet_real']['images'] == 29
    # The validation images are not a new test set, not even with other labels or corrupted.
    of_test = {name for name, values in result['sets'].items() if values['split'] == 'test'}
    assert of_test == {'imagenet_sketch', 'imagenet_a'}
    ce = {name: 100 * sum(errors[name, s] for s in (1, 2)) / (2 * alexnet)
          for name, alexnet in (('fog', 0.8), ('snow', 0.5))}  # fmt: skip
    assert result['imagenet_c']['CE'] == pytest.approx(ce)
    assert result['imagenet_c']['mCE'] == pytest.approx((ce['fog'] + ce['snow']) / 2)
    assert lines[-1] == f'imagenet_c: mCE {result["imagenet_c"]["mCE"]:.2f} %'
    # If all classes competed, or the labels had the wrong order, this number would differ.
    everyone = expected(run, sorted(data.glob('imagenet-a/*/*')), by_folder)
    assert everyone != pytest.approx(wanted['imagenet_a'])


def test_nothing_to_evaluate_on(tmp_path):
    with pytest.raises(UserError, match=r'has none of the test sets: expected one of imagenet2012'):
        robustness.main(['--workdir', '/nowhere', '--data', str(tmp_path)])
