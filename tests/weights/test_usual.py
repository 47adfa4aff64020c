"""The preparation of images for weights of Keras, TF-Slim, the TPU models and Caffe."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import cls
from cls import models
from cls.errors import UserError
from cls.tools import import_weights
from cls.weights import convert, hub, pretrained, usual
from cls.weights.families import caffe, keras, slim, tpu
from cls.weights.images import prepared_for


@pytest.mark.parametrize(
    ('package', 'variant', 'mean', 'std', 'space'),
    [
        ('caffe', 'vgg16', (123.68, 116.779, 103.939), 1, 'BGR'),
        ('caffe', 'googlenet', (123, 117, 104), 1, 'BGR'),
        ('keras', 'resnet50_v1', (123.68, 116.779, 103.939), 1, 'BGR'),
        ('keras', 'inception_v3', (127.5,) * 3, 127.5, ''),
        ('keras', 'mobilenetv2_035', (127.5,) * 3, 127.5, ''),
        ('tf-slim', 'vgg16', (123.68, 116.779, 103.939), 1, ''),
        ('tf-slim', 'inception_v4', (127.5,) * 3, 127.5, ''),
        ('tpu', 'tf_efficientnet_lite0', (127,) * 3, 128, ''),
        ('tpu', 'amoebanet_d_n6_f256', (127.5,) * 3, 127.5, ''),
        ('authors', 'igcv3_w1', (123.68, 116.779, 103.939), 1, ''),
        ('authors', 'shufflenetv2_1.0x_released', (0,) * 3, 1, 'BGR'),
        ('tpu', 'mnasnet_a1', (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ''),
    ],
)
def test_images_are_prepared_as_the_package_does(tmp_path, package, variant, mean, std, space):
    (tmp_path / 'own.weights').touch()
    located = hub.Located(tmp_path / 'own.weights', {})
    found = prepared_for(models.variant(variant), located, 'own.weights', package=package)
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)
    np.testing.assert_allclose(found.std, np.broadcast_to(std, 3), atol=1e-3)
    assert found.space == space


def test_each_family_has_a_usual_preparation():
    for family in (caffe, keras, slim, tpu):
        assert usual.row(family.FAMILY.name, 'vgg16') is not None
    assert usual.row('timm', 'vgg16') is None


FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}  # of SqueezeNet 1.1


def squeezenet(names: str) -> dict[str, np.ndarray]:
    """Returns tensors of SqueezeNet 1.1 with Caffe's names, or 'torchvision'."""
    random = np.random.default_rng(0)
    shapes = convert.shapes(models.create('squeezenet1_1'), models.variant('squeezenet1_1'))
    tensors = {
        name: random.normal(0, 1 / np.prod(shape[1:]) ** 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    if names == 'torchvision':
        return tensors
    pairs = {f'features.{at}.': f'fire{number}/' for number, at in FIRES.items()}
    pairs |= {'features.0.': 'conv1.', 'classifier.1.': 'conv10.'}
    pairs |= {'/squeeze.': '/squeeze1x1.'}
    for ours, theirs in pairs.items():
        tensors = {name.replace(ours, theirs): value for name, value in tensors.items()}
    return tensors


@pytest.mark.parametrize(('names', 'bgr'), [('caffe', False), ('torchvision', True)])
def test_each_way_to_load_gives_the_same_weights_of_rgb(names, bgr, tmp_path, capsys):
    tensors, file = squeezenet(names), tmp_path / 'own.safetensors'
    save_file(tensors, file)
    flags = ['--bgr'] if bgr else []
    import_weights.main(['--from', str(file), '--workdir', str(tmp_path / 'run'), *flags])
    assert 'BGR; its first convolution is reversed' in capsys.readouterr().out
    loaded = [cls.load(file, bgr=bgr), cls.load(tmp_path / 'run')]
    first = tensors['features.0.weight' if bgr else 'conv1.weight']
    for model in loaded:
        kernel = model.variables['params']['features.0']['kernel']
        np.testing.assert_array_equal(kernel, first[:, ::-1].transpose(2, 3, 1, 0))
        assert model.preprocess.mean == pytest.approx((123, 117, 104), abs=1e-4)
        assert model.preprocess.std == pytest.approx((1, 1, 1), abs=1e-4)
    assert loaded[0].preprocess == loaded[1].preprocess
    if not bgr:
        spec = pretrained.InitSpec(
            str(file), 'squeezenet1_1', {}, 224, (123, 117, 104), (1,) * 3, 50
        )
        started = pretrained.load(spec, models.create('squeezenet1_1'), (224, 224, 3), 0)
        kernel = started['params']['features.0']['kernel']
        np.testing.assert_array_equal(kernel, first[:, ::-1].transpose(2, 3, 1, 0))


def test_bgr_is_for_files_only(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    for name in (str(tmp_path), 'resnet50'):
        with pytest.raises(UserError, match='bgr is for files of weights'):
            cls.load(name, bgr=True)
