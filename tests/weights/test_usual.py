"""The preparation of images for weights of Keras, TF-Slim, the TPU models and Caffe."""

import numpy as np
import pytest

from cls import models
from cls.weights import hub, usual
from cls.weights.families import caffe, keras, slim, tpu


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
        ('tpu', 'mnasnet_a1', (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), ''),
    ],
)
def test_images_are_prepared_as_the_package_does(tmp_path, package, variant, mean, std, space):
    (tmp_path / 'own.weights').touch()
    located = hub.Located(tmp_path / 'own.weights', {})
    found = hub.prepared_for(models.variant(variant), located, 'own.weights', package=package)
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)
    np.testing.assert_allclose(found.std, np.broadcast_to(std, 3), atol=1e-3)
    assert found.space == space


def test_each_family_has_a_usual_preparation():
    for family in (caffe, keras, slim, tpu):
        assert usual.row(family.FAMILY.name, 'vgg16') is not None
    assert usual.row('timm', 'vgg16') is None
