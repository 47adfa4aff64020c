"""The containers of PyTorch's checkpoints, read without PyTorch and without executing their pickle.

These are the zip format (torch >= 1.6), the stream format before it, and the tar files of torch
before 0.1.10. A pickle is a program. It runs on our own unpickler (see unpickle.py), with a short
list of inert stand-ins, so that nothing that the file names is imported or called.

Refused, with a `UserError` that gives the remedy: TorchScript archives, whole pickled modules,
quantized, sparse, nested and meta tensors, and files of big-endian machines. Sizes that a file
states are compared with the size of the file before any memory is allocated.
"""

import mmap
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

from cls.errors import UserError
from cls.weights.archive import inflated, record
from cls.weights.unpickle import (
    ADVICE,
    Reader,
    Storage,
    Tensor,
    Unpickler,
    dtype_of_storage,
    storage_id,
)

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
STREAM_START = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'
_TAR = ('storages', 'tensors', 'pickle')  # the parts of a tar file
_DEEPEST = 4  # dicts in dicts that may have tensors


def load_zip(archive: zipfile.ZipFile, mapped: mmap.mmap) -> Any:
    """Returns the object of `<root>/data.pkl`, with storages from `<root>/data/<key>`."""
    names = set(archive.namelist())
    roots = [name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')]
    if len(roots) != 1:
        raise UserError(
            'a zip file without a data.pkl in its one folder, thus not a PyTorch checkpoint'
        )
    root = roots[0]
    if f'{root}constants.pkl' in names or any(name.startswith(f'{root}code/') for name in names):
        raise UserError(f'a TorchScript archive, which holds a program; {ADVICE}')
    if f'{root}byteorder' in names and inflated(archive, f'{root}byteorder') != b'little':
        raise UserError(f'written on a big-endian machine; on a little-endian one, {ADVICE}')

    storages: dict[str, Storage] = {}

    def storage(saved_id: Any) -> Storage:
        _, storage_type, key, _, numel = storage_id(saved_id)
        if key not in storages:
            storages[key] = Storage(dtype_of_storage(storage_type), numel)
            storages[key].data = record(mapped, archive, f'{root}data/{key}')
        return storages[key]

    return materialize(Unpickler(Reader(inflated(archive, f'{root}data.pkl')), storage).load())


def load_stream(mapped: mmap.mmap) -> Any:
    """Returns the object of a stream file.

    The file has pickles of magic, version, system, object and storage keys; then the storages.
    """
    reader = Reader(mapped)

    def plain() -> Any:
        return Unpickler(reader, None).load()

    if plain() != _STREAM_MAGIC:
        raise ValueError('wrong magic number')
    plain()  # the version of the protocol, always 1001
    if plain().get('little_endian') is not True:
        raise UserError(f'written on a big-endian machine; on a little-endian one, {ADVICE}')

    storages: dict[str, Storage] = {}

    def storage(saved_id: Any) -> Storage:
        _, storage_type, key, _, numel, view = storage_id(saved_id)
        root = storages.setdefault(key, Storage(dtype_of_storage(storage_type), numel))
        return root if view is None else root.part(view[1], view[2])

    content = Unpickler(reader, storage).load()
    for key in plain():
        (numel,) = struct.unpack('<q', reader.read(8))
        start, length = reader.position, numel * storages[key].dtype.itemsize
        if numel != storages[key].numel or start + length > len(mapped):
            raise ValueError(f'storage {key} has fewer bytes than its {numel} elements need')
        storages[key].data = memoryview(mapped)[start : start + length]
        reader.position += length
    return materialize(content)


def tar_members(mapped: mmap.mmap) -> dict[str, int]:
    """Returns name -> position of the parts of a tar file of torch before 0.1.10; {} for others."""
    try:
        with tarfile.open(fileobj=mapped, mode='r:') as tar:
            members = {member.name: member.offset_data for member in tar if member.isreg()}
    except tarfile.TarError:
        return {}
    return {name: members[name] for name in _TAR} if members.keys() >= {*_TAR} else {}


def load_tar(mapped: mmap.mmap, members: Mapping[str, int]) -> Any:
    """Returns the object of a tar file, with the parts of `tar_members`.

    `storages` has the number of storages; of each a key, a device, a type and the elements; and
    the views of storages. `tensors` has the number of tensors; of each a key, that of its storage,
    a type, and the shape, strides and offset. `pickle` is the object, with keys for tensors.
    """
    reader = Reader(mapped)

    def plain() -> Any:
        return Unpickler(reader, None).load()

    def numbers(count: int) -> tuple[int, ...]:
        return struct.unpack(f'<{count}q', reader.read(8 * count))

    storages: dict[int, Storage] = {}
    reader.position = members['storages']
    for _ in range(plain()):
        key, _, kind = plain()
        (numel,) = numbers(1)
        storages[key] = storage = Storage(dtype_of_storage(kind), numel)
        start, length = reader.position, numel * storage.dtype.itemsize
        if numel < 0 or start + length > len(mapped):
            raise ValueError(f'storage {key} has fewer bytes than its {numel} elements need')
        storage.data = memoryview(mapped)[start : start + length]
        reader.position += length
    for target, root, start, numel in plain():
        if min(start, numel) < 0:
            raise ValueError('a view of a storage with impossible numbers')
        storages[target] = storages[root].part(start, numel)

    tensors: dict[int, Tensor] = {}
    reader.position = members['tensors']
    for _ in range(plain()):
        key, storage_key, _ = plain()
        (dimensions,) = struct.unpack('<i4x', reader.read(8))
        shape, strides = numbers(dimensions), numbers(dimensions)
        storage = storages[storage_key]
        (offset,) = numbers(1)
        tensors[key] = Tensor(storage, offset, shape, strides, storage.dtype)

    def tensor(saved_id: Any) -> Any:  # of a tensor, or of a class with its source
        return saved_id[0] if isinstance(saved_id, tuple) else tensors[int(saved_id)]

    reader.position = members['pickle']
    return materialize(Unpickler(reader, tensor).load())


def materialize(content: Any) -> Any:
    """Returns the outermost dict with arrays for tensors, also in the dicts below it.

    A list, tuple or set is returned unchanged: weights in one have no names.
    """
    return _with_arrays(content, {}, 0)


def _with_arrays(content: Any, made: dict[int, Any], depth: int) -> Any:
    if isinstance(content, Tensor):
        return content.array()
    if not isinstance(content, dict) or depth == _DEEPEST:
        return content
    if id(content) not in made:  # a file can refer to the same dict at many places
        made[id(content)] = result = {}
        result |= {k: _with_arrays(v, made, depth + 1) for k, v in content.items()}
    return made[id(content)]
