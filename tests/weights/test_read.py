"""Reading checkpoints: the tensors, and the files that are refused without executing them."""

import io
import logging
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from shared import SHARED

from cls import weights
from cls.errors import UserError
from cls.weights import torch_file, unpickle

FIXTURES = Path(__file__).parent / 'fixtures'
REAL = SHARED / 'realdata' / 'weights'
MARK = Path('/tmp/cls_malicious_pickle_was_here')

BASE = np.arange(12, dtype=np.float32)
# The values of make_fixtures.py.
EXPECTED = {
    'float': BASE[:6].reshape(2, 3),
    'double': np.arange(3, dtype=np.float64),
    'half': np.arange(3, dtype=np.float16),
    'bfloat': np.arange(3).astype(ml_dtypes.bfloat16),
    'long': np.array(7, np.int64),
    'int': np.array([-1, 0, 1], np.int32),
    'bytes': np.arange(3, dtype=np.uint8),
    'bool': np.array([True, False]),
    'transposed': BASE.reshape(3, 4).T,
    'every_second': BASE[1::2],
    'whole': BASE,
    'expanded': np.full((2, 3), 5, np.float32),
    'empty': np.zeros((0, 4), np.float32),
    'parameter': np.ones(2, np.float32),
}


def _assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert actual[name].shape == value.shape, name
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def _refused(path) -> str:
    """Returns the message of the UserError that reading must raise: one line with the path."""
    with pytest.raises(UserError) as error:
        weights.read(path)
    message = str(error.value)
    assert message.startswith(f'{path}: ')
    assert '\n' not in message
    return message


@pytest.mark.parametrize('name', ['zip.pt', 'stream.pth', 'tensors.safetensors'])
def test_every_type_and_layout(name):
    _assert_same(weights.read(FIXTURES / name), EXPECTED)


def test_types_that_only_new_files_know():
    expected = {'uint16': np.arange(3, dtype=np.uint16)}
    _assert_same(weights.read(FIXTURES / 'uint16.pt'), expected)


@pytest.mark.parametrize('name', ['zip.pt', 'stream.pth'])
def test_arrays_are_read_only_views_that_share_what_the_file_shares(name):
    tensors = weights.read(FIXTURES / name)
    assert np.shares_memory(tensors['whole'], tensors['transposed'])
    assert not any(tensor.flags.writeable for tensor in tensors.values() if tensor.size)


def test_the_content_decides_not_the_name(tmp_path):
    for source in ('zip.pt', 'stream.pth', 'tensors.safetensors'):
        path = tmp_path / 'weights.bin'
        path.write_bytes((FIXTURES / source).read_bytes())
        _assert_same(weights.read(path), EXPECTED)


def test_compressed_archives(tmp_path):
    path = tmp_path / 'packed.pt'
    with zipfile.ZipFile(FIXTURES / 'zip.pt') as source, zipfile.ZipFile(path, 'w') as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
    _assert_same(weights.read(path), EXPECTED)


@pytest.mark.parametrize('name', ['nested.pt', 'nested.th'])
def test_state_dict_entry_without_the_wrappers_prefix(name, caplog):
    with caplog.at_level(logging.INFO):
        tensors = weights.read(FIXTURES / name)
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    assert set(tensors) == {'0.weight', '0.bias', *(f'1.{part}' for part in norm)}
    assert "entry 'state_dict'" in caplog.text
    assert 'optimizer' in caplog.text


def test_model_entry_and_an_entry_by_name():
    path = FIXTURES / 'model.pt'
    _assert_same(weights.read(path), {'a': np.ones(2, 'f'), 'b': np.ones(2, 'f')})
    _assert_same(weights.read(path, entry='other'), {'a': np.zeros(2, 'f')})
    with pytest.raises(UserError, match=r"no dict 'othr'.* Did you mean other\?"):
        weights.read(path, entry='othr')
    message = _refused(FIXTURES / 'unnamed.pt')
    assert 'no tensors' in message and 'epoch, generator' in message
    _assert_same(weights.read(FIXTURES / 'unnamed.pt', entry='generator'), {'a': np.ones(2, 'f')})


@pytest.mark.parametrize('name', ['script.pth.tar', 'script.th'])
def test_a_training_scripts_own_file(name, caplog):
    """With an argparse.Namespace, paths, dates, arrays, a loss, and more (make_fixtures.py)."""
    with caplog.at_level(logging.INFO):
        found = weights.open_checkpoint(FIXTURES / name)
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    assert set(found.tensors) == {'0.weight', '0.bias', *(f'1.{part}' for part in norm)}
    assert found.tensors['1.running_mean'].shape == (2,)
    assert found.card == {
        'architecture': 'resnet50.a1_in1k',
        'model_args': {'act_layer': 'gelu'},
    }
    assert 'criterion' in caplog.text


TRAP = """
import pathlib
pathlib.Path(__file__).with_suffix('.sprung').touch()
class Trap:
    def __new__(cls, *args): raise SystemExit('made')
    def __setstate__(self, state): raise SystemExit('set')
def trap(*args): raise SystemExit('called')
"""
_STATE = b'}X\x01\x00\x00\x00aK\x01s'


@pytest.mark.parametrize(
    'program',
    [
        b'ccls_test_trap\ntrap\n)R',  # REDUCE
        b'ccls_test_trap\nTrap\n)\x81' + _STATE + b'b',  # NEWOBJ, BUILD
        b'ccls_test_trap\nTrap\n)}\x92',  # NEWOBJ_EX
        b'(icls_test_trap\nTrap\n',  # INST
        b'(ccls_test_trap\nTrap\nK\x01o',  # OBJ
        b'ccls_test_trap\nTrap\n)\x81(K\x01K\x02e',  # APPENDS
        b'ccls_test_trap\nTrap\n)\x81(K\x01K\x02u',  # SETITEMS
        b'ccls_test_trap\nTrap\n)\x81(K\x01\x90',  # ADDITEMS
        b'ccls_test_trap\nTrap.deep.name\n)R)R',  # a call of the result of a call
        b'\x8c\x0dcls_test_trap\x8c\x04trap\x93)R',  # STACK_GLOBAL
        b'ccls_test_trap\ntrap\n',  # the name itself
    ],
)
def test_nothing_that_a_file_names_is_imported_made_or_called(tmp_path, monkeypatch, program):
    """The object is left out; the tensors next to it are read."""
    (tmp_path / 'cls_test_trap.py').write_text(TRAP)
    monkeypatch.syspath_prepend(str(tmp_path))
    tensor = _tensor_program(4, 1, 2, 2)[2:-1]  # a dict with the tensor a
    content = b'\x80\x04' + tensor + b'X\x01\x00\x00\x00b' + program + b's.'
    path = _archive(tmp_path, content, **{'data/0': BASE[:4].tobytes()})
    _assert_same(weights.read(path), {'a': BASE[1:4:2]})
    assert 'cls_test_trap' not in sys.modules
    assert not (tmp_path / 'cls_test_trap.sprung').exists()


def test_a_stand_in_is_no_tensor_function(tmp_path):
    """Our functions are called with arguments from the file; stand-ins among them stay inert."""
    for program in (
        b'ctorch._utils\n_rebuild_tensor_v2\n(cx\ny\n)RK\x00)))}tR.',
        b'ctorch._utils\n_rebuild_parameter\n(cx\ny\n)R)}tR.',
        b'cnumpy\ndtype\n(cx\ny\ntR.',
        b'cnumpy.core.multiarray\nscalar\n(cx\ny\ncx\ny\ntR.',
    ):
        _refused(_archive(tmp_path, b'\x80\x02' + program))


def _peak(path) -> int:
    """Returns the peak of memory in bytes while reading a file that is refused."""
    tracemalloc.start()
    try:
        _refused(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    'program',
    [
        b'\x80\x05\x96' + struct.pack('<Q', 2**33) + b'ab.',  # BYTEARRAY8
        b'\x80\x04\x8e' + struct.pack('<Q', 2**33) + b'ab.',  # BINBYTES8
        b'\x80\x04\x95' + struct.pack('<Q', 2**33) + b'}.',  # FRAME
        b'\x80\x02X' + struct.pack('<I', 2**31) + b'ab.',  # BINUNICODE
        b'\x80\x02\x8b' + struct.pack('<i', 2**31 - 1) + b'ab.',  # LONG4
        b'\x80\x02}r\xff\xff\xff\x7f.',  # LONG_BINPUT, a large index in the memo
        b'\x80\x02](' + b'K\x00' * 3000 + b'e.',
    ],
)
@pytest.mark.parametrize('stream', [False, True])
def test_sizes_that_a_pickle_states_take_no_memory(tmp_path, monkeypatch, program, stream):
    monkeypatch.setattr(unpickle, 'MAX_READS', 1000)
    path = _archive(tmp_path, program)
    if stream:
        path.write_bytes(torch_file.STREAM_START + pickle.dumps(1001, 2) + program)
    assert _peak(path) < 2**22


def test_hashing_a_key_ends(tmp_path):
    """A key of tuples nested 60 deep, each of the same tuple twice: 2^60 steps to hash."""
    deep = b')' + b'2\x86' * 60  # EMPTY_TUPLE, then DUP and TUPLE2
    for program in (
        b'}' + deep + b'K\x00s.',
        b'(' + deep + b'K\x00d.',
        b'\x8f(' + deep + b'\x90.',
        b'(' + deep + b'\x91.',
        b'cbuiltins\nset\n(]' + deep + b'atR.',
        b'ccollections\nOrderedDict\n(](' + deep + b'K\x00eatR.',
        b'ctorch\ndevice\n' + deep + b'\x85R.',
        deep + b'Q.',
        b'ctorch._utils\n_rebuild_tensor\n(' + deep + deep + deep + deep + b'tR.',
    ):
        _refused(_archive(tmp_path, b'\x80\x04' + program))


def test_an_archive_inflates_within_a_ratio(tmp_path):
    path = tmp_path / 'packed.pt'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', b'\x80\x02]' + b']' * 2**25)
    assert 'inflates to 33,554,4' in _refused(path)
    assert _peak(path) < 2**22

    data = bytearray(path.read_bytes())  # the same archive, with a smaller stated size
    for signature, offset in ((b'PK\x03\x04', 22), (b'PK\x01\x02', 24)):
        place = data.index(signature) + offset
        data[place : place + 4] = struct.pack('<I', 100)
    path.write_bytes(data)
    assert _peak(path) < 2**22


def test_a_tensor_is_no_larger_than_its_file(tmp_path):
    """With a stride of 0 any shape is possible, and a classifier's sets the size of the network."""
    data = {'data/0': BASE[:4].tobytes()}
    small = _archive(tmp_path, _tensor_program(4, 0, 1000, 0), **data)
    assert weights.read(small)['a'].shape == (1000,)
    message = _refused(_archive(tmp_path, _tensor_program(4, 0, 2**31, 0), **data))
    assert 'claims the shape (2147483648,), 8,589,934,592 bytes' in message

    path = _archive(tmp_path, _tensor_program(4, 0, 2**23, 0), **data)
    assert 'cls train and cls import raise this by --config.limits.inflation' in _refused(path)
    times = 2**25 / path.stat().st_size
    assert weights.read(path, inflation=times + 1)['a'].shape == (2**23,)
    with pytest.raises(UserError, match='limits'):
        weights.read(path, inflation=times - 1)


def test_an_npz_files_arrays_are_as_long_as_they_say(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {'descr': '<f4', 'fortran_order': False, 'shape': (2**33,)}
    )
    path = tmp_path / 'net.npz'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('fc/kernel.npy', header.getvalue() + b'1234')
    assert 'damaged' in _refused(path)
    assert _peak(path) < 2**22
    np.savez(path, **{'fc/kernel': np.array([None])})
    assert 'of object, not of numbers' in _refused(path)


def test_files_of_tensornets_are_refused_by_name(tmp_path):
    """Its files have an array of names, and one of arrays (tensornets/utils.py, parse_weights)."""
    values = np.empty(2, object)
    values[:] = [np.ones((3, 3, 3, 8)), np.ones(8)]
    names = np.array([b'conv1/conv/weights:0', b'conv1/bn/beta:0'])
    np.savez(tmp_path / 'mobilenet100.npz', names=names, values=values)
    assert 'a file of tensornets' in _refused(tmp_path / 'mobilenet100.npz')


def test_names_are_short(tmp_path):
    save_file({'a' * 600: BASE}, tmp_path / 'long.safetensors')
    assert 'a name of 600 letters' in _refused(tmp_path / 'long.safetensors')


@pytest.mark.parametrize('name', ['malicious.pt', 'malicious.pth'])
def test_a_malicious_pickle_is_refused_and_not_run(name):
    MARK.unlink(missing_ok=True)
    message = _refused(FIXTURES / name)
    assert '.open' in message and 'nothing was run' in message and 'state_dict' in message
    assert not MARK.exists()


class _Calls:
    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    'content',
    [
        _Calls(os.system, 'true'),
        _Calls(eval, '1'),
        _Calls(getattr, 'a', 'join'),
        _Calls(np.lib.stride_tricks.as_strided, 1),
        _Calls(io.BytesIO),
        np.arange(3),
        np.array([None, 1], object),
        UserError,
    ],
)
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_anything_not_on_the_list_is_refused(tmp_path, content, protocol):
    assert 'refused: it asks for' in _refused(_archive(tmp_path, pickle.dumps(content, protocol)))


@pytest.mark.parametrize(
    'program',
    [
        b'ctorch._utils\n_rebuild_tensor_v2\n}(X\x04\x00\x00\x00callX\x01\x00\x00\x00aub.',
        b'ctorch\nFloatStorage\n}(X\x04\x00\x00\x00textX\x01\x00\x00\x00aub.',
        b'ccollections\nOrderedDict\n)\x81.',  # makes an object by its class, without a call
        b'ccollections\nOrderedDict\nK\x01\x85R.',  # of an integer
        b'ctorch._tensor\n_rebuild_from_type_v2\n(NNN)tR.',
        b'c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.',
        b'Vpid\nQ.',
        b'(VstorageQ.',
        b'\x82\x01.',  # an extension's code
        b'N' * 5,  # never stops
        b'',
    ],
)
def test_programs_that_misuse_what_is_allowed(tmp_path, program):
    _refused(_archive(tmp_path, b'\x80\x02' + program))


def test_a_module_with_its_source_code_is_refused(tmp_path):
    program = b'\x80\x02(X\x06\x00\x00\x00moduleNNNtQ.'
    assert 'whole pickled module' in _refused(_archive(tmp_path, program))


def _archive(tmp_path, pickled: bytes, **entries: bytes) -> Path:
    path = tmp_path / 'made.pt'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('made/data.pkl', pickled)
        for name, data in entries.items():
            file.writestr(f'made/{name}', data)
    return path


def _tensor_program(numel: int, offset: int, size: int, stride: int) -> bytes:
    """Returns a pickle of a dict with one float tensor `a`, in storage 0, with these numbers."""
    numbers = [pickle.dumps(n, 2)[2:-1] for n in (numel, offset, size, stride)]
    return (
        b'\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor\n('
        b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu'
        + numbers[0] + b'tQ' + numbers[1] + numbers[2] + b'\x85' + numbers[3] + b'\x85tRs.'
    )  # fmt: skip


def test_tensors_stay_within_their_storage(tmp_path):
    data = BASE[:4].tobytes()
    good = _archive(tmp_path, _tensor_program(4, 1, 2, 2), **{'data/0': data})
    _assert_same(weights.read(good), {'a': BASE[1:4:2]})
    for numbers in ((4, 3, 2, 1), (4, 0, 5, 1), (4, 0, 3, 2), (5, 0, 5, 1), (4, -1, 1, 1)):
        message = _refused(_archive(tmp_path, _tensor_program(*numbers), **{'data/0': data}))
        assert 'damaged' in message
    for numbers in ((4, 0, 2, -1), (4, 0, -2, 1), (-4, 0, 0, 1)):
        _refused(_archive(tmp_path, _tensor_program(*numbers), **{'data/0': data}))


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('module.pt', 'asks for __main__.Net'),
        ('script.pt', 'TorchScript'),
        ('sparse.pt', 'sparse'),
        ('quantized.pt', 'quantized'),
        ('meta.pt', 'without values'),
        ('list.pt', 'holds a list'),
        ('malicious.pkl', 'not a PyTorch checkpoint'),
    ],
)
def test_other_content_than_a_state_dict_is_refused_with_advice(name, reason):
    message = _refused(FIXTURES / name)
    assert reason in message
    assert 'save only the weights' in message


@pytest.mark.parametrize('name', ['zip.pt', 'stream.pth', 'tensors.safetensors', 'nested.th'])
def test_truncated_files(name, tmp_path):
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for length in [*range(0, len(data) - 1, 97), len(data) - 1]:
        path.write_bytes(data[:length])
        _refused(path)


@pytest.mark.parametrize('name', ['zip.pt', 'stream.pth', 'tensors.safetensors'])
def test_damaged_bytes_never_end_in_anything_but_a_user_error(name, tmp_path):
    data = bytearray((FIXTURES / name).read_bytes())
    path = tmp_path / name
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 300):
        damaged = data.copy()
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            weights.read(path)  # a flipped bit of a value is not noticed, as in torch
        except UserError as error:
            assert '\n' not in str(error)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / 'weights.pt'
    assert 'no such file' in _refused(path)
    assert 'cannot be read' in _refused(tmp_path)
    path.write_bytes(b'')
    assert 'empty' in _refused(path)
    path.write_text('<!DOCTYPE html><html>404</html>')
    assert 'not a PyTorch checkpoint' in _refused(path)
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    assert 'git lfs pull' in _refused(path)
    np.savez(tmp_path / 'arrays.npz', a=BASE)
    assert 'expected MODULE/LEAF' in _refused(tmp_path / 'arrays.npz')
    for content, file, advice in (
        (b'HDF', 'net.weights.h5', 'not a Keras file'),
        (b'\x08\x07\x12\x07pytorch', 'net.onnx', 'ONNX.*exported from'),
        (b'name: "CaffeNet"', 'deploy.prototxt', 'Caffe.*its .caffemodel'),
        (b'\x1c\0\0\0TFL3', 'net.bin', 'TensorFlow Lite'),
        (b'\n\x08', 'model.ckpt.meta', 'a TensorFlow file.*import the .index'),
        (b'\n\x08', 'saved_model.pb', 'a TensorFlow file'),
        (b'\x93NUMPY\x01\0', 'net.npy', 'a single NumPy array'),
        (b'\x1f\x8b\x08', 'net.pth.tar.gz', 'unpack it'),
        (bytes(257) + b'ustar' + bytes(250), 'net.tar', 'unpack it'),
    ):
        (tmp_path / file).write_bytes(content)
        message = _refused(tmp_path / file)
        assert re.search(advice, message) and 'torch.save' not in message, message
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        archive.writestr('a.txt', 'text')
    assert 'without a data.pkl' in _refused(tmp_path / 'other.zip')
    big_endian = _archive(tmp_path, pickle.dumps({}, 2), byteorder=b'big')
    assert 'big-endian' in _refused(big_endian)


@pytest.mark.parametrize(
    ('name', 'tensors', 'trained'),
    [('resnet20-12fca82f.th', 97, 269_722), ('resnet56-4bfd9763.th', 277, 853_018)],
)
def test_real_files(name, tensors, trained):
    if not (REAL / name).exists():
        pytest.skip(f'{REAL / name} is not on this machine')
    state_dict = weights.read(REAL / name)
    assert len(state_dict) == tensors
    assert sum(v.size for n, v in state_dict.items() if '.running_' not in n) == trained
    assert state_dict['conv1.weight'].shape == (16, 3, 3, 3)
    assert np.isfinite(state_dict['linear.weight']).all()
