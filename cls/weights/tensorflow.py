"""The variables of TensorFlow's checkpoints, without TensorFlow.

A checkpoint of version 2 has an index (`model.ckpt.index`), a sorted table of names, and files with
the tensors (`model.ckpt.data-00000-of-00001`). One of version 1 is a single table, `model.ckpt`,
with the tensors in it. The tables have the format of LevelDB.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/util/saved_tensor_slice.proto
and tensorflow/core/lib/io/table_format.txt.
"""

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cls.errors import UserError
from cls.weights import keras, protobuf

AVERAGE = 'ExponentialMovingAverage'
VARIABLES = 'variables'
_MAGIC = struct.pack('<Q', 0xDB4775248B80FB57)
_FOOTER = 48
_DTYPES = {
    1: '<f4',
    2: '<f8',
    3: '<i4',
    4: 'u1',
    5: '<i2',
    6: 'i1',
    9: '<i8',
    10: '?',
    14: ml_dtypes.bfloat16,
    17: '<u2',
    19: '<f2',
    22: '<u4',
    23: '<u8',
}
_STRING = 7
# Fields of a TensorProto with the numbers of a type.
_VALUES = {1: 5, 2: 6}
_INTEGERS = {3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11}
# Variables of a training that belong to no layer.
_COUNTERS = re.compile(
    r'(^|/)(global_step|current_loss_scale|good_steps|beta[12]_power|num_updates|ema_decay)$'
)
_DATA = re.compile(r'\.data-\d{5}-of-\d{5}$')
_OBJECTS = '_CHECKPOINTABLE_OBJECT_GRAPH'


def index_of(path: Path) -> Path:
    """Returns the index of a checkpoint, given its index, one of its files or their prefix."""
    if _DATA.search(path.name):
        return path.with_name(_DATA.sub('.index', path.name))
    index = path.with_name(f'{path.name}.index')
    return index if not path.exists() and index.is_file() else path


def is_table(mapped: mmap.mmap) -> bool:
    """Returns whether the file ends as a table of LevelDB."""
    return len(mapped) >= _FOOTER and mapped[-8:] == _MAGIC


def load_tensorflow(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Returns (the variables, the size of the checkpoint's files).

    The variables have torch's names and axes (see keras.py). With averages they are {'variables':
    ..., 'ExponentialMovingAverage': ...}; in the second, a variable without an average is the
    variable itself, as TensorFlow restores it. Variables of the optimizer, named after one of the
    network, and counters are left out.

    Raises:
      UserError: checkpoints of objects, variables in slices, missing files.
    """
    entries = dict(_table(memoryview(mapped)))
    header = entries.pop(b'', memoryview(b''))
    names = {key.decode('utf-8', 'replace') for key in entries}
    if _OBJECTS in names:
        raise UserError(
            'a checkpoint of objects of TensorFlow 2, which names its tensors by their place in '
            'Python objects; in Keras, model.save_weights("net.weights.h5"), and import that'
        )
    if path.name.endswith('.index'):
        tensors, size = _version_2(path, header, entries)
    else:
        tensors, size = _version_1(header, entries), len(mapped)
    return _networks(tensors), size


def _networks(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the variables of the network, and apart from them their averages."""
    counters = {name for name in tensors if _COUNTERS.search(name)}
    slots = {
        name
        for name in tensors
        if name.rpartition('/')[0] in tensors and not name.endswith(f'/{AVERAGE}')
    }
    averages = {n.removesuffix(f'/{AVERAGE}'): v for n, v in tensors.items() if n.endswith(AVERAGE)}
    plain = {
        name: value
        for name, value in tensors.items()
        if name not in counters and name not in slots and not name.endswith(f'/{AVERAGE}')
    }
    if not averages:
        return dict(keras.to_torch(plain))
    averages = {
        name: value
        for name, value in averages.items()
        if not _COUNTERS.search(name) and name.rpartition('/')[0] not in tensors
    }
    both = {AVERAGE: keras.to_torch({**plain, **averages})}
    return {VARIABLES: keras.to_torch(plain), **both} if plain else both


def _version_2(
    path: Path, header: memoryview, entries: Mapping[bytes, memoryview]
) -> tuple[dict[str, np.ndarray], int]:
    """Returns (name -> view of the files of an index, the size of these files)."""
    count = protobuf.number(header, 1)
    if protobuf.number(header, 2):
        raise UserError('written on a big-endian machine; save it on a little-endian one')
    prefix, files, total = path.name.removesuffix('.index'), {}, 0
    tensors = {}
    for key, entry in entries.items():
        if key.startswith(b'\0'):  # a slice of a variable that has an entry itself
            continue
        name, kind = key.decode(), protobuf.number(entry, 1)
        if kind == _STRING:
            continue
        if next(protobuf.messages(entry, 7), None) is not None:
            raise UserError(f'variable {name} is stored in slices; save it without a partitioner')
        shard = protobuf.number(entry, 3)
        if shard not in files:
            file = path.with_name(f'{prefix}.data-{shard:05d}-of-{count:05d}')
            if not 0 <= shard < count or not file.is_file():
                raise UserError(f'its file {file.name} is missing; fetch all of its files')
            files[shard] = _mapped(file)
            total += len(files[shard])
        start, size = protobuf.number(entry, 4), protobuf.number(entry, 5)
        data = files[shard][start : start + size]
        if len(data) != size:
            raise ValueError(f'variable {name} is not in the file')
        shape = _shape(next(protobuf.messages(entry, 2), memoryview(b'')))
        tensors[name] = np.frombuffer(data, _dtype(name, kind)).reshape(shape)
    return tensors, total


def _mapped(file: Path) -> memoryview:
    if not file.stat().st_size:
        return memoryview(b'')
    with file.open('rb') as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _version_1(header: memoryview, entries: Mapping[bytes, memoryview]) -> dict[str, np.ndarray]:
    """Returns name -> array of a single file; its header has the shapes."""
    shapes = {}
    for meta in protobuf.messages(header, 1):
        for tensor in protobuf.messages(meta, 1):
            name, kind = protobuf.text(tensor, 1), protobuf.number(tensor, 3)
            if len(list(protobuf.messages(tensor, 4))) != 1:
                raise UserError(f'variable {name} is stored in slices; save it without them')
            shapes[name] = _shape(next(protobuf.messages(tensor, 2), memoryview(b''))), kind
    tensors = {}
    for entry in entries.values():
        for saved in protobuf.messages(entry, 2):
            name = protobuf.text(saved, 1)
            shape, kind = shapes[name]
            if kind != _STRING:
                data = next(protobuf.messages(saved, 3), memoryview(b''))
                tensors[name] = _values(name, data, kind).reshape(shape)
    missing = {name for name, (_, kind) in shapes.items() if kind != _STRING} - tensors.keys()
    if missing:
        raise ValueError(f'variable {min(missing)} has no data')
    return tensors


def _values(name: str, data: memoryview, kind: int) -> np.ndarray:
    dtype = np.dtype(_dtype(name, kind))
    if kind in _VALUES:
        return protobuf.floats(data, _VALUES[kind], dtype.str)
    if kind in _INTEGERS:
        return np.array(protobuf.integers(data, _INTEGERS[kind]), dtype)
    raise UserError(f'variable {name} is of {dtype}; save it as float32')


def _dtype(name: str, kind: int) -> Any:
    if kind not in _DTYPES:
        raise UserError(f"variable {name} is of TensorFlow's type {kind}; save it as float32")
    return _DTYPES[kind]


def _shape(data: memoryview) -> tuple[int, ...]:
    shape = [protobuf.integers(dim, 1) for dim in protobuf.messages(data, 2)]
    sizes = tuple(size[-1] if size else 0 for size in shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f'a variable of the shape {sizes}')
    return sizes


# --- Tables of LevelDB ------------------------------------------------------------------------


def _table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the (key, value) pairs of a table. Raises ValueError for a damaged one."""
    footer, position = data[-_FOOTER:], 0
    handles = []
    for _ in range(4):
        value, position = protobuf.varint(footer, position)
        handles.append(value)
    for _, handle in _block(data, *handles[2:]):
        start, position = protobuf.varint(handle, 0)
        size, _ = protobuf.varint(handle, position)
        yield from _block(data, start, size)


def _block(data: memoryview, start: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the pairs of a block, whose keys leave out what they share with the key before."""
    if start + size + 5 > len(data) or size < 4:
        raise ValueError('a block that is not in the file')
    if data[start + size]:
        raise UserError('a compressed table; save the checkpoint without compression')
    block = data[start : start + size]
    (restarts,) = struct.unpack('<I', block[-4:])
    end = size - 4 - 4 * restarts
    if end < 0:
        raise ValueError('a block with an impossible number of parts')
    position, key = 0, b''
    while position < end:
        shared, position = protobuf.varint(block, position)
        own, position = protobuf.varint(block, position)
        length, position = protobuf.varint(block, position)
        if shared > len(key) or position + own + length > end:
            raise ValueError('a key that is not in its block')
        key = key[:shared] + bytes(block[position : position + own])
        position += own
        yield key, block[position : position + length]
        position += length
