"""Tensors of Keras and TF-Slim models, with the names and layout of torch."""

import jax
import numpy as np
import pytest
from shared import SHARED

from cls import models, weights
from cls.errors import UserError
from cls.nn.conv import conv
from cls.weights.convert import convert
from cls.weights.families import keras as families
from cls.weights.keras import to_torch


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_names_and_axes():
    given = {
        'stem/kernel:0': numbers(3, 5, 2, 4),
        'stem/bias': numbers(4),
        'bn/gamma': numbers(4),
        'bn/beta': numbers(4),
        'bn/moving_mean': numbers(4),
        'bn/moving_variance': numbers(4),
        'block/dw/depthwise_weights': numbers(3, 3, 4, 2),
        'logits/weights': numbers(8, 10),
        'logits/biases': numbers(10),
    }
    found = to_torch(given)
    assert {name: value.shape for name, value in found.items()} == {
        'stem.weight': (4, 2, 3, 5),
        'stem.bias': (4,),
        'bn.weight': (4,),
        'bn.bias': (4,),
        'bn.running_mean': (4,),
        'bn.running_var': (4,),
        'block.dw.weight': (8, 1, 3, 3),
        'logits.weight': (10, 8),
        'logits.bias': (10,),
    }
    assert found['stem.weight'][3, 1, 2, 4] == given['stem/kernel:0'][2, 4, 1, 3]
    assert found['logits.weight'][7, 2] == given['logits/weights'][2, 7]


def test_a_depthwise_kernel_with_a_multiplier_computes_as_tensorflows():
    """Output channel c * M + m is input channel c under kernel [:, :, c, m]."""
    kernel, image = numbers(1, 1, 3, 2), numbers(1, 2, 2, 3)
    weight = to_torch({'dw/depthwise_kernel': kernel})['dw.weight']
    ours = conv(image, weight.transpose(2, 3, 1, 0), groups=3)
    expected = np.einsum('nhwc,cm->nhwcm', image, kernel[0, 0]).reshape(1, 2, 2, 6)
    np.testing.assert_array_equal(ours, expected)


def test_keras_3_calls_a_depthwise_kernel_a_kernel():
    """The shape of the variable shows it: the values equal those under Keras 2's name."""
    state = {'0.conv_dw/depthwise_kernel': numbers(3, 3, 4, 2), '0.conv_dw/bias': numbers(8)}
    renamed = {name.replace('depthwise_', ''): value for name, value in state.items()}
    shapes = {'kernel': (3, 3, 1, 8), 'bias': (8,)}
    abstract = {
        'params': {
            '0': {'conv_dw': {k: jax.ShapeDtypeStruct(v, 'float32') for k, v in shapes.items()}}
        }
    }
    two, three = (convert(to_torch(x), abstract) for x in (state, renamed))
    jax.tree.map(np.testing.assert_array_equal, two, three)
    plain = {'params': {'0': {'conv_dw': {'kernel': jax.ShapeDtypeStruct((3, 3, 4, 2), 'f')}}}}
    kernel = {'0.conv_dw/kernel': numbers(3, 3, 4, 2)}
    found = convert(to_torch(kernel), plain)['params']['0']['conv_dw']['kernel']
    np.testing.assert_array_equal(found, numbers(3, 3, 4, 2))


def test_a_real_network_under_the_names_of_keras_2_and_3(tmp_path):
    file = SHARED / 'realdata' / 'weights' / 'mobilenet_v1_0.25_224_keras.npz'
    if not file.exists():
        pytest.skip(f'{file} is not on this machine')
    with np.load(file) as tensors:
        renamed = {n.replace('depthwise_kernel', 'kernel'): tensors[n] for n in tensors.files}
    np.savez(tmp_path / 'keras3.npz', **renamed)
    assert sum(name.endswith('kernel') for name in renamed) == 28
    two, three = (
        weights.from_torch(weights.read(path), 'mobilenet_025_tf')
        for path in (file, tmp_path / 'keras3.npz')
    )
    jax.tree.map(np.testing.assert_array_equal, two, three)


def test_foreign_names_are_refused():
    with pytest.raises(UserError, match=r'1 of 2 tensors, as conv/weight,.*one of kernel'):
        to_torch({'conv/weight': numbers(2), 'conv/bias': numbers(2)})
    with pytest.raises(UserError, match='the same'):
        to_torch({'conv/bias': numbers(2), 'conv/bias:0': numbers(2)})


def test_an_npz_file_is_read(tmp_path):
    np.savez(tmp_path / 'net.npz', **{'fc/kernel': numbers(2, 3), 'fc/bias': numbers(3)})
    found = weights.read(tmp_path / 'net.npz')
    assert found.keys() == {'fc.weight', 'fc.bias'}
    np.testing.assert_array_equal(found['fc.weight'], numbers(2, 3).T)


def test_statistics_of_images_in_a_file_are_imagenets_or_none():
    """EfficientNet of Keras normalizes its images itself."""
    variant = models.variant('tf_efficientnet_b0')
    deviation = np.array([0.229, 0.224, 0.225], 'f')
    usual = {
        'normalization.mean': np.array([0.485, 0.456, 0.406], 'f'),
        'normalization.variance': deviation,
        'normalization.count': np.zeros((), 'i8'),
    }
    none = {
        'normalization_1.mean': np.zeros(3, 'f'),
        'normalization_1.variance': np.ones(3, 'f'),
    }
    (table,) = (t for t in families.FAMILY.tables if 'efficientnet' in t.variants)
    for stated in (usual, none):
        assert table.tensors({**stated, 'top_conv.weight': deviation}, variant) == {
            'top_conv.weight': deviation
        }
    with pytest.raises(UserError, match='expected the statistics of ImageNet'):
        table.tensors({**usual, 'normalization.mean': deviation}, variant)


def test_biases_before_a_norm_move_into_its_mean():
    (table,) = (t for t in families.FAMILY.tables if t.variants.startswith('resnet'))
    given = {
        'conv1_conv.weight': numbers(4, 3, 7, 7),
        'conv1_conv.bias': numbers(4),
        'conv1_bn.running_mean': 2 * numbers(4),
        'predictions.bias': numbers(4),
    }
    found = table.tensors(given, models.variant('resnet50_v1'))
    assert found.keys() == given.keys() - {'conv1_conv.bias'}
    np.testing.assert_array_equal(found['conv1_bn.running_mean'], numbers(4))


def test_numbers_of_layers_count_by_rank():
    """A session that has made other models before numbers on."""
    (table,) = (t for t in families.FAMILY.tables if t.variants == 'inception_v3')
    variant = models.variant('inception_v3')

    def named(first):
        norms = {f'batch_normalization_{first + i}.running_var': numbers(2) for i in range(3)}
        convs = {f'conv2d_{first + i}.weight': numbers(2, i + 1) for i in range(3)}
        return table.tensors({**norms, **convs}, variant)

    one, two = named(9), named(94)
    assert one.keys() == two.keys()
    assert one['conv2d.2.weight'].shape == (2, 3)
    np.testing.assert_array_equal(one['batch_normalization.0.weight'], np.ones(2))
