"""Files of Keras, TensorFlow, Caffe and Flax; make_formats.py made them with these packages."""

import shutil
import struct
import zipfile
from pathlib import Path

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from cls import weights
from cls.errors import UserError
from cls.weights import convert, hub, tensorflow

FORMATS = Path(__file__).parent / 'formats'


def array(start, *shape):
    """The values of make_formats.py."""
    return (start + np.arange(np.prod(shape, dtype=int))).reshape(shape).astype(np.float32)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def refused(path, **options):
    """Returns the message of the UserError that reading must raise: one line with the path."""
    with pytest.raises(UserError) as error:
        weights.read(path, **options)
    assert str(error.value).startswith(f'{path}: ')
    assert '\n' not in str(error.value)
    return str(error.value)


# --- Keras ------------------------------------------------------------------------------------

# In the order of the model's weights, from which make_formats.py takes the first number of each.
KERAS = {
    'stem.weight': array(0, 3, 3, 3, 4).transpose(3, 2, 0, 1),
    'stem_bn.weight': array(1, 4),
    'stem_bn.bias': array(2, 4),
    'stem_bn.running_mean': array(3, 4),
    'stem_bn.running_var': array(4, 4),
    'dw.weight': array(5, 3, 3, 4, 1).transpose(2, 3, 0, 1),
    'batch_normalization.bias': array(6, 4),
    'batch_normalization.running_mean': array(7, 4),
    'batch_normalization.running_var': array(8, 4),
    'separable.weight': array(9, 3, 3, 4, 1).transpose(2, 3, 0, 1),
    'separable.pointwise.weight': array(10, 1, 1, 4, 5).transpose(3, 2, 0, 1),
    'predictions.weight': array(11, 5, 2).T,
    'predictions.bias': array(12, 2),
}


@pytest.mark.parametrize('name', ['net.keras', 'net.h5', 'net.weights.h5'])
def test_a_keras_file_with_a_stored_lambda(name):
    assert_same(weights.read(FORMATS / name), KERAS)


def test_brain_floats_of_keras():
    found = weights.read(FORMATS / 'bfloat16.weights.h5')
    assert found['stem.weight'].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        found['stem.weight'], KERAS['stem.weight'].astype(ml_dtypes.bfloat16)
    )


def test_arrays_are_views_of_the_file():
    found = weights.read(FORMATS / 'net.weights.h5')
    assert not found['stem.weight'].flags.writeable


def keras_2(path, layers, **attributes):
    """Writes a file as Keras 1 and 2 did: groups of layers with the names of their weights."""
    with h5py.File(path, 'w') as file:
        file.attrs['layer_names'] = [name.encode() for name in layers]
        for key, value in attributes.items():
            file.attrs[key] = value
        for layer, tensors in layers.items():
            group = file.create_group(layer)
            group.attrs['weight_names'] = [name.encode() for name in tensors]
            for name, value in tensors.items():
                group.create_dataset(name, data=value)


def test_names_of_older_releases_of_keras(tmp_path):
    kernel, bias = array(0, 3, 3, 2, 4), array(1, 4)
    layers = {
        'block1_conv1': {'block1_conv1_W_1:0': kernel, 'block1_conv1_b_1:0': bias},
        'bn1': {'bn1_gamma:0': bias, 'bn1_running_mean:0': bias, 'bn1_running_std:0': bias},
        'conv2': {'conv2_1/kernel:0': kernel, 'conv2_1/bias:0': bias},
        'Conv/BatchNorm': {'Conv/BatchNorm/beta:0': bias},
        'pool': {},
        'net': {'a/kernel:0': kernel, 'a/bias:0': bias, 'b/kernel:0': kernel},
    }
    keras_2(tmp_path / 'old.h5', layers, backend=b'tensorflow')
    turned = kernel.transpose(3, 2, 0, 1)
    expected = {
        'block1_conv1.weight': turned,
        'block1_conv1.bias': bias,
        'bn1.weight': bias,
        'bn1.running_mean': bias,
        'bn1.running_var': bias,
        'conv2.weight': turned,
        'conv2.bias': bias,
        'Conv.BatchNorm.bias': bias,
        'a.weight': turned,
        'a.bias': bias,
        'b.weight': turned,
    }
    assert_same(weights.read(tmp_path / 'old.h5'), expected)
    keras_2(tmp_path / 'theano.h5', layers, backend=b'theano')
    assert 'Theano' in refused(tmp_path / 'theano.h5')


def test_an_hdf5_file_reads_nothing_but_itself(tmp_path):
    keras_2(tmp_path / 'other.h5', {'a': {'a/kernel:0': array(0, 2, 3)}})
    path = tmp_path / 'linked.h5'
    for link, reason in (
        (h5py.ExternalLink('other.h5', '/a'), 'a is a link, which is not followed'),
        (h5py.SoftLink('/b'), 'a is a link, which is not followed'),
    ):
        with h5py.File(path, 'w') as file:
            file['b/b/kernel:0'] = array(0, 2, 3)
            file['a'] = link
        assert reason in refused(path)
    with h5py.File(path, 'w') as file:
        group = file.create_group('a')
        group['a'] = group
    assert 'contain each other' in refused(path)
    (tmp_path / 'raw').write_bytes(bytes(24))
    with h5py.File(path, 'w') as file:
        file.create_dataset('a/kernel:0', (2, 3), 'f4', external=[(tmp_path / 'raw', 0, 24)])
    assert 'in another file' in refused(path)
    layout = h5py.VirtualLayout((2, 3), 'f4')
    layout[:] = h5py.VirtualSource(tmp_path / 'other.h5', 'a/a/kernel:0', (2, 3))
    with h5py.File(path, 'w') as file:
        file.create_virtual_dataset('a/kernel:0', layout)
    assert 'in another file' in refused(path)


def test_an_hdf5_file_with_other_content(tmp_path):
    path = tmp_path / 'net.h5'
    with h5py.File(path, 'w') as file:
        file.create_dataset('a/kernel:0', (2**12, 2**12), 'f4')  # no data: zeros
    assert '67,108,864 bytes in a file of' in refused(path)
    assert weights.read(path, inflation=1e5)['a.weight'].shape == (2**12, 2**12)
    with h5py.File(path, 'w') as file:
        file['a/kernel:0'] = 'text'
    assert 'not of numbers' in refused(path)
    h5py.File(path, 'w').close()
    assert 'without the weights of a Keras model' in refused(path)
    with h5py.File(path, 'w') as file:
        file['layers/conv2d/vars/0'] = file['layers/conv2d/vars/1'] = array(0, 2)
        file['layers/conv2d/vars/2'] = array(0, 2)
    assert 'has 3 tensors, at most 2' in refused(path)


# --- TensorFlow -------------------------------------------------------------------------------

PLAIN = {
    'Net.Conv2d_1a_3x3.weight': array(0, 3, 3, 2, 4).transpose(3, 2, 0, 1),
    'Net.Conv2d_1a_3x3.BatchNorm.bias': array(1, 4),
    'Net.Conv2d_1a_3x3.BatchNorm.running_mean': array(2, 4),
    'Net.Conv2d_1a_3x3.BatchNorm.running_var': array(3, 4),
    'Net.Logits.weight': array(4, 4, 2).T,
    'Net.Logits.bias': array(5, 2),
}
TWO = 'two.ckpt.index', 'two.ckpt.data-00000-of-00001'


@pytest.mark.parametrize('name', ['one.ckpt', 'two.ckpt', *TWO])
def test_a_checkpoint_of_tensorflow(name):
    """With the variables of an optimizer, a counter, and averages of what is trained."""
    found = weights.open_checkpoint(FORMATS / name)
    assert_same(found.tensors, PLAIN)
    assert found.averages == ('ExponentialMovingAverage',)
    averaged = {k: v + 100 * ('running' not in k) for k, v in PLAIN.items()}
    assert_same(weights.read(FORMATS / name, ema=True), averaged)


def test_a_checkpoint_of_tensorflow_that_is_not_whole(tmp_path):
    index = tmp_path / TWO[0]
    shutil.copy(FORMATS / TWO[0], index)
    assert 'its file two.ckpt.data-00000-of-00001 is missing' in refused(index)
    data = (FORMATS / TWO[1]).read_bytes()
    for length in (0, 5, len(data) - 1):
        (tmp_path / TWO[1]).write_bytes(data[:length])
        assert 'is not in the file' in refused(index)
    assert 'stored in slices' in refused(FORMATS / 'sliced.ckpt.index')


def test_a_table_that_is_compressed_or_of_objects(tmp_path):
    data = bytearray((FORMATS / 'one.ckpt').read_bytes())
    footer = memoryview(bytes(data[-48:]))
    (_, position), handles = (0, 0), []
    for _ in range(4):
        value, position = tensorflow.protobuf.varint(footer, position)
        handles.append(value)
    data[handles[2] + handles[3]] = 1
    (tmp_path / 'packed.ckpt').write_bytes(data)
    assert 'a compressed table' in refused(tmp_path / 'packed.ckpt')


# --- Caffe ------------------------------------------------------------------------------------


def test_a_caffe_file():
    """The factor of the norm's statistics is 2."""
    expected = {
        'conv1/7x7_s2.weight': array(0, 4, 3, 3, 3),
        'conv1/7x7_s2.bias': array(1, 4),
        'bn1.running_mean': array(2, 4) / 2,
        'bn1.running_var': array(3, 4) / 2,
        'scale1.weight': array(4, 4),
        'scale1.bias': array(5, 4),
        'fc8.weight': array(6, 2, 4),
        'fc8.bias': array(7, 2),
    }
    assert_same(weights.read(FORMATS / 'net.caffemodel'), expected)


def test_a_caffe_file_of_2014():
    expected = {
        'conv1.weight': array(0, 4, 3, 3, 3),
        'conv1.bias': array(1, 4),
        'fc8.weight': array(6, 2, 4),
        'fc8.bias': array(7, 2),
    }
    assert_same(weights.read(FORMATS / 'old.caffemodel'), expected)


def field(number, data):
    """Returns a field of bytes of a protocol buffer."""
    size, key = len(data), bytes([number << 3 & 127 | 2 | (128 if number > 15 else 0)])
    key += bytes([number >> 4]) if number > 15 else b''
    length = b''
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return key + length + bytes([size]) + data


def layer(kind, *blobs):
    """Returns a network of one layer, with arrays or (shape, values)."""
    parts = field(1, b'a') + field(2, kind)
    for value in blobs:
        shape, values = value if isinstance(value, tuple) else (value.shape, value)
        sizes = field(7, field(1, bytes(shape)))
        parts += field(7, sizes + field(5, np.asarray(values, '<f4').tobytes()))
    return field(100, parts)


def test_a_caffe_file_with_other_content(tmp_path):
    path = tmp_path / 'net.caffemodel'
    for content, reason in (
        (layer(b'Convolution', array(0, 2, 3, 1, 1)), ''),
        (layer(b'Convolution', ((2, 3, 1, 2), array(0, 6))), 'damaged.*6 numbers for the shape'),
        (layer(b'LSTM', array(0, 2)), 'type LSTM has 1 tensors, expected at most 0'),
        (layer(b'BatchNorm', array(0, 2)), 'expected a mean, a variance and their factor'),
        (layer(b'BatchNorm', array(0, 2), array(0, 2), array(0, 1)), ''),
        (2 * layer(b'Scale', array(0, 2)), 'two layers have the name a'),
        (layer(b'ReLU'), 'without tensors'),
        (b'\x0a\x05abc', 'damaged'),
        (b'\x00\x01', 'damaged'),
        (b'\x08' + b'\xff' * 20, 'damaged'),
    ):
        path.write_bytes(content)
        if reason:
            with pytest.raises(UserError, match=reason):
                weights.read(path)
        else:
            assert weights.read(path)


# --- Flax -------------------------------------------------------------------------------------


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(True, name='norm')(nn.Conv(4, (3, 3), name='conv')(x))
        return nn.Dense(2, name='head')(x.mean((1, 2)))


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('chunk', [2**30, 40])
def test_a_flax_file(tmp_path, monkeypatch, dtype, chunk):
    variables = dict(Net().init(jax.random.key(0), jnp.ones((1, 8, 8, 3))))
    variables = jax.tree.map(lambda x: x.astype(dtype), variables)
    monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', chunk)
    path = tmp_path / 'net.msgpack'
    path.write_bytes(serialization.to_bytes(variables))
    found = weights.read(path)
    assert found['conv.weight'].shape == (4, 3, 3, 3)
    assert found['norm.running_var'].dtype == dtype
    back = convert.convert(found, jax.eval_shape(lambda: variables))
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    path.write_bytes(serialization.to_bytes(variables['params']))
    assert found.keys() - weights.read(path).keys() == {'norm.running_mean', 'norm.running_var'}


def test_a_flax_file_with_other_content(tmp_path):
    path = tmp_path / 'net.msgpack'
    whole = serialization.to_bytes({'params': {'a': {'kernel': jnp.ones((2, 3))}}})
    for content, reason in (
        (whole[:-1], 'damaged'),
        (whole.replace(b'\x93\x92\x02\x03', b'\x93\x92\x02\x04'), '24 bytes for an array'),
        (whole.replace(b'float32', b'objects'), 'an array of objects'),
        (serialization.to_bytes({'params': {'a': {'kernel': 'text'}}}), 'a/kernel is a str'),
        (serialization.to_bytes([1, 2]), "is a int|'0'|0 is a int"),
        (b'\x93\x01\x02\x03', 'expected the dict of a Flax module'),
        (b'\x81\xa1a\xd4\x07\x00', 'an extension 7'),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as error:
            weights.read(path)
        assert '\n' not in str(error.value)


# --- All of them ------------------------------------------------------------------------------

FILES = sorted(path.name for path in FORMATS.iterdir() if path.name != 'sliced.ckpt.index')


@pytest.mark.parametrize('name', FILES)
def test_truncated_and_damaged_files_end_in_one_line(tmp_path, name):
    """A changed bit of a value is not noticed, as in the packages themselves."""
    for path in FORMATS.glob(f'{name.partition(".ckpt")[0]}.ckpt*'):
        shutil.copy(path, tmp_path)
    data = (FORMATS / name).read_bytes()
    path = tmp_path / name
    rng = np.random.default_rng(0)
    damaged = [data[:length] for length in range(1, len(data), len(data) // 20 + 1)]
    for position in rng.integers(0, len(data), 60):
        damaged.append(bytearray(data))
        damaged[-1][position] ^= int(rng.integers(1, 256))
    for content in damaged:
        path.write_bytes(content)
        try:
            weights.read(path)
        except UserError as error:
            assert '\n' not in str(error)


def test_an_archive_of_keras_inflates_within_a_ratio(tmp_path):
    path = tmp_path / 'net.keras'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('config.json', '{}')
        archive.writestr('model.weights.h5', bytes(2**25))
    assert 'inflates to 33,554,4' in refused(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('model.weights.h5', struct.pack('<Q', 0))
    assert 'damaged' in refused(path) or 'cannot be read' in refused(path)


def test_a_folder_with_one_checkpoint_of_tensorflow(tmp_path):
    for name in TWO:
        shutil.copy(FORMATS / name, tmp_path)
    assert hub.locate(str(tmp_path)).file == tmp_path / TWO[0]
    shutil.copy(tmp_path / TWO[0], tmp_path / 'other.ckpt.index')
    with pytest.raises(UserError, match='expected one of model.safetensors'):
        hub.locate(str(tmp_path))
