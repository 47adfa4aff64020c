"""Tar files of torch before 0.1.10, written here as it wrote them."""

import io
import pickle
import struct
import sys
import tarfile
import types

import numpy as np
import pytest

from cls import weights
from cls.errors import UserError


class FloatStorage:
    """A storage type, under torch's name."""


FloatStorage.__module__ = 'torch'


class InTar(pickle.Pickler):
    """A pickler that writes keys for arrays."""

    def persistent_id(self, thing):
        return str(100 + thing[0]) if isinstance(thing, tuple) and thing[1] == 'key' else None


def tar_file(path, arrays, content, numel=None):
    """Writes a file as torch 0.1.9 did; `content` has (number, 'key') for each array.

    torch.load(path, weights_only=False) of torch 2.13 reads it.
    """
    parts = {name: io.BytesIO() for name in ('storages', 'tensors', 'pickle')}

    def dump(name, thing):
        InTar(parts[name], 2).dump(thing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'torch', types.SimpleNamespace(FloatStorage=FloatStorage))
        for name in ('storages', 'tensors'):
            dump(name, len(arrays))
        for i, array in enumerate(arrays):
            dump('storages', (i, 'cpu', FloatStorage))
            parts['storages'].write(struct.pack('<q', numel or array.size) + array.tobytes())
            dump('tensors', (100 + i, i, FloatStorage))
            strides = [n // 4 for n in array.strides]
            parts['tensors'].write(
                struct.pack(f'<i4x{2 * array.ndim + 1}q', array.ndim, *array.shape, *strides, 0)
            )
        dump('storages', [])
        dump('pickle', content)
    with tarfile.open(path, 'w:', format=tarfile.PAX_FORMAT) as tar:
        for name, part in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(part.getvalue())
            tar.addfile(info, io.BytesIO(part.getvalue()))
    return path


def test_tar_files_of_the_first_releases(tmp_path):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([0.5, -1])]
    content = {'state_dict': {'a.weight': (0, 'key'), 'a.bias': (1, 'key')}, 'epoch': 3}
    read = weights.read(tar_file(tmp_path / 'old.pth', arrays, content))
    assert read.keys() == {'a.weight', 'a.bias'}
    for value, array in zip(read.values(), arrays, strict=True):
        np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize('numel', [-1, 7, 1 << 60])
def test_tar_files_with_impossible_storages(tmp_path, numel):
    file = tar_file(tmp_path / 'old.pth', [np.zeros(6, np.float32)], {'a': (0, 'key')}, numel)
    with pytest.raises(UserError, match='damaged or incomplete') as caught:
        weights.read(file)
    assert '\n' not in str(caught.value)


def test_other_tar_files_are_archives(tmp_path):
    with tarfile.open(tmp_path / 'net.tar', 'w:') as tar:
        tar.addfile(tarfile.TarInfo('storages'))
    with pytest.raises(UserError, match='a compressed or tar archive; unpack it'):
        weights.read(tmp_path / 'net.tar')


def test_classes_in_a_tar_file_are_never_imported(tmp_path):
    file = tar_file(tmp_path / 'old.pth', [np.zeros(6, np.float32)], {'a': print})
    with pytest.raises(UserError, match='holds no tensors|no weights|no tensors'):
        weights.read(file)
