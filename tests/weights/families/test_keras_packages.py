"""Files of packages for Keras 2 are recognized without a name, or refused by their tensors."""

import numpy as np
import pytest
from golden import rows

from cls import weights
from cls.errors import UserError

CASES = [
    (package, variant)
    for package in ('image_classifiers', 'keras_efficientnets')
    for variant in rows.read(f'../weights/families/{package}')
]


def zeros(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(('package', 'variant'), CASES)
def test_numbered_layers(package, variant):
    """Numbers continue those of a network before it in the session: conv2d_7 may be the first."""
    shapes = rows.read(f'../weights/families/{package}')[variant].tensors
    later = {}
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition('.')
        kind, number = layer.rstrip('0123456789').rstrip('_'), layer.rpartition('_')[2]
        later[f'{kind}_{int(number if number.isdecimal() else 0) + 7}.{leaf}'] = shape
    for names in (shapes, later):
        match = weights.identify(zeros(names))
        assert (match.variant, match.family.replace('-', '_')) == (variant, package)
        assert match.num_classes == 10 and not match.left_out


def test_depthwise_layers_of_groups():
    shapes = rows.read('../weights/families/keras_applications')['resnext50_32x4d'].tensors
    assert shapes['conv2_block1_2_conv.weight'] == (512, 1, 3, 3)
    match = weights.identify(zeros(shapes))
    assert (match.variant, match.family) == ('resnext50_32x4d', 'keras-applications')
    assert match.num_classes == 10 and not match.left_out


def resnet18():
    """Returns the tensors of image-classifiers' ResNet-18, as classification_models builds it."""
    shapes = {f'bn_data.{leaf}': (3,) for leaf in ('bias', 'running_mean', 'running_var')}

    def norm(name, size):
        leaves = ('weight', 'bias', 'running_mean', 'running_var')
        shapes.update({f'{name}.{leaf}': (size,) for leaf in leaves})

    shapes['conv0.weight'] = (64, 3, 7, 7)
    norm('bn0', 64)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for unit in (1, 2):
            place = f'stage{stage}_unit{unit}_'
            norm(f'{place}bn1', inputs)
            if unit == 1:
                shapes[f'{place}sc.weight'] = (width, inputs, 1, 1)
            shapes[f'{place}conv1.weight'] = (width, inputs, 3, 3)
            norm(f'{place}bn2', width)
            shapes[f'{place}conv2.weight'] = (width, width, 3, 3)
            inputs = width
    norm('bn1', 512)
    return shapes | {'fc1.weight': (1000, 512), 'fc1.bias': (1000,)}


@pytest.mark.parametrize('hints', [{}, {'file': 'resnet18_imagenet_1000.h5'}])
def test_a_network_that_normalizes_images_itself_is_refused(hints):
    with pytest.raises(
        UserError, match=r"image-classifiers's .*\(a norm of the images, .*not here"
    ):
        weights.identify(zeros(resnet18()), hints)
