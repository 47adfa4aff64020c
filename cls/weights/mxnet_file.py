"""The tensors of MXNet's `.params`, without MXNet.

A file has a list of arrays and a list of their names: `arg:LAYER_weight`, `aux:LAYER_moving_mean`
from the symbolic interface, `features.0.gamma` from Gluon. They become LAYER.weight, ...

Source: src/ndarray/ndarray.cc (NDArray::Save, LegacyLoad).
"""

import math
import re
import struct

import ml_dtypes
import numpy as np

from cls.errors import UserError

START = struct.pack('<QQ', 0x112, 0)
_FIRST, _SECOND, _THIRD = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # marks of an array, by its version
_DENSE = 0
_DEEPEST = 32  # dimensions
_DTYPES = {
    0: np.float32,
    1: np.float64,
    2: np.float16,
    3: np.uint8,
    4: np.int32,
    5: np.int8,
    6: np.int64,
    7: np.bool_,
    12: ml_dtypes.bfloat16,
}
_LEAVES = {
    'gamma': 'weight',
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_var': 'running_var',
}
_LEAF = re.compile(r'[._](weight|bias|gamma|beta|moving_mean|moving_var|running_mean|running_var)$')


class _Reader:
    """A position in the bytes of a file."""

    def __init__(self, data: memoryview):
        self.data, self.position = data, 0

    def take(self, size: int) -> memoryview:
        start, self.position = self.position, self.position + size
        if not 0 <= size <= len(self.data) - start:
            raise ValueError(f'{size} bytes are asked for, but {len(self.data) - start} are left')
        return self.data[start : self.position]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f'<{form}', self.take(struct.calcsize(f'<{form}')))


def load_mxnet(data: memoryview) -> dict[str, np.ndarray]:
    """Returns LAYER.LEAF -> array, a view of the data.

    Raises:
      UserError: arrays without names, sparse ones, or two of one name.
      ValueError: a damaged file.
    """
    reader = _Reader(data)
    reader.take(len(START))
    (count,) = reader.numbers('Q')
    arrays = [_array(reader) for _ in range(_checked(count, reader))]
    (count,) = reader.numbers('Q')
    if count != len(arrays):
        raise UserError(f'{len(arrays)} arrays with {count} names: expected a name for each')
    tensors: dict[str, np.ndarray] = {}
    for array in arrays:
        (length,) = reader.numbers('Q')
        name = _name(bytes(reader.take(length)).decode())
        if name in tensors:
            raise UserError(f'two tensors have the name {name}')
        tensors[name] = array
    return tensors


def _checked(count: int, reader: _Reader) -> int:
    if count > len(reader.data) - reader.position:
        raise ValueError(f'{count} arrays in a file of {len(reader.data)} bytes')
    return count


def _array(reader: _Reader) -> np.ndarray:
    (mark,) = reader.numbers('I')
    if mark in (_SECOND, _THIRD):
        (storage,) = reader.numbers('i')
        if storage != _DENSE:
            raise UserError('it holds a sparse array, which is not read; save it as a dense one')
    if mark in (_FIRST, _SECOND, _THIRD):
        (dimensions,), form = reader.numbers('I'), 'q'
    else:  # the oldest files have no mark
        dimensions, form = mark, 'I'
    if not 0 < dimensions <= _DEEPEST:
        raise ValueError(f'an array of {dimensions} dimensions')
    shape = reader.numbers(f'{dimensions}{form}')
    reader.numbers('ii')  # the device
    (kind,) = reader.numbers('i')
    if kind not in _DTYPES:
        raise UserError(f'it holds an array of the unknown type {kind}')
    dtype = np.dtype(_DTYPES[kind])
    if min(shape) < 0:
        raise ValueError(f'an array of the shape {shape}')
    return np.frombuffer(reader.take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def _name(name: str) -> str:
    """Returns torch's name of a tensor: LAYER.LEAF."""
    plain = re.sub(r'^(arg|aux):', '', name)
    return _LEAF.sub(lambda match: f'.{_LEAVES.get(match[1], match[1])}', plain)
