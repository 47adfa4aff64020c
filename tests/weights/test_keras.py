"""Tensors of Keras and TF-Slim models, with the names and layout of torch."""

import jax
import numpy as np
import pytest
from shared import SHARED

from cls import weights
from cls.errors import UserError
from cls.nn.conv import conv
from cls.weights.convert import convert
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
