"""MXNet's .params, written here as NDArray::Save and its older forms did."""

import struct

import numpy as np
import pytest

from cls import weights
from cls.errors import UserError

ARRAYS = {
    'arg:conv_weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    'arg:norm_gamma': np.ones(2, np.float64),
    'arg:norm_beta': np.zeros(2, np.float16),
    'aux:norm_moving_mean': np.float32([1, 2]),
    'aux:norm_moving_var': np.float32([3, 4]),
    'features.0.gamma': np.int64([5]),
}
KINDS = {'float32': 0, 'float64': 1, 'float16': 2, 'int64': 6}


def array(value, form='second', storage=0):
    shape = value.shape
    start = {
        'oldest': struct.pack(f'<I{len(shape)}I', len(shape), *shape),
        'first': struct.pack(f'<II{len(shape)}q', 0xF993FAC8, len(shape), *shape),
        'second': struct.pack(f'<IiI{len(shape)}q', 0xF993FAC9, storage, len(shape), *shape),
    }
    return start[form] + struct.pack('<iii', 1, 0, KINDS[value.dtype.name]) + value.tobytes()


def params(path, arrays, names=None, **options):
    """Writes a file; returns its path."""
    names = [*arrays] if names is None else names
    data = struct.pack('<QQQ', 0x112, 0, len(arrays))
    data += b''.join(array(value, **options) for value in arrays.values())
    data += struct.pack('<Q', len(names))
    data += b''.join(struct.pack('<Q', len(name)) + name.encode() for name in names)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('form', ['oldest', 'first', 'second'])
def test_arrays_have_torchs_names(tmp_path, form):
    read = weights.read(params(tmp_path / 'net-0000.params', ARRAYS, form=form))
    names = ('conv.weight', 'norm.weight', 'norm.bias', 'norm.running_mean', 'norm.running_var')
    assert [*read] == [*names, 'features.0.weight']
    for value, expected in zip(read.values(), ARRAYS.values(), strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ('options', 'pattern'),
    [
        ({'names': ['arg:a_weight']}, '6 arrays with 1 names'),
        ({'names': ['arg:a_weight'] * 6}, 'two tensors have the name a.weight'),
        ({'storage': 1}, 'a sparse array'),
    ],
)
def test_other_files_are_refused(tmp_path, options, pattern):
    with pytest.raises(UserError, match=pattern):
        weights.read(params(tmp_path / 'net.params', ARRAYS, **options))


def test_every_truncation_is_refused(tmp_path):
    whole = params(tmp_path / 'net.params', ARRAYS).read_bytes()
    for length in range(16, len(whole), 7):
        (tmp_path / 'net.params').write_bytes(whole[:length])
        with pytest.raises(UserError, match='damaged or incomplete'):
            weights.read(tmp_path / 'net.params')


def test_igcv3_of_its_authors(tmp_path):
    """The layers of symbols/igcv3.py: runs with numbered blocks."""
    arrays = {}

    def unit(name, inputs, outputs, window, groups):
        shape = outputs, inputs // groups, window, window
        arrays[f'arg:{name}-conv2d_weight'] = np.ones(shape, np.float32)
        for leaf in ('arg:{}_gamma', 'arg:{}_beta', 'aux:{}_moving_mean', 'aux:{}_moving_var'):
            arrays[leaf.format(f'{name}-batchnorm')] = np.ones(outputs, np.float32)

    unit('first-3x3-conv', 3, 32, 3, 1)
    inputs = 32
    runs = ((1, 16, 1), (6, 24, 4), (6, 32, 6), (6, 64, 8), (6, 96, 6), (6, 160, 6), (6, 320, 1))
    for run, (expansion, outputs, blocks) in enumerate(runs):
        for block in range(blocks):
            place, inner = f'seq-{run}-block{block}', inputs * expansion
            unit(f'{place}-exp', inputs, inner, 1, 2)
            unit(f'{place}-depthwise', inner, inner, 3, inner)
            unit(f'{place}-linear', inner, outputs, 1, 2)
            inputs = outputs
    unit('last-1x1-conv', 320, 1280, 1, 1)
    arrays['arg:fc_weight'], arrays['arg:fc_bias'] = np.ones((1000, 1280), 'f'), np.ones(1000, 'f')
    match = weights.identify(weights.read(params(tmp_path / 'igcv3.params', arrays)))
    assert (match.variant, match.family, match.num_classes) == ('igcv3_w1', 'authors', 1000)
    assert not match.left_out and not match.part
