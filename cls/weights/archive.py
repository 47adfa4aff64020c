"""Entries of zip archives and of NumPy's .npz, with the sizes that they state compared first."""

import io
import math
import mmap
import struct
import zipfile

import numpy as np

from cls.errors import UserError
from cls.weights.unpickle import ADVICE

# The largest size of an inflated archive, as a multiple of the file, and in bytes for small files.
# Compression shrinks weights by a tenth, and those of a pruned model by the pruned part.
INFLATED = 50
ALWAYS = 16 * 2**20
# Other commands, as cls predict, take no fields: they use the run folder that cls import writes.
RAISED = 'cls train and cls import raise this by --config.limits.inflation'


def check_inflated(archive: zipfile.ZipFile, size: int, inflation: float) -> None:
    """Raises UserError if the stated sizes of the entries are too large for the archive."""
    total = sum(info.file_size for info in archive.infolist())
    if total > max(ALWAYS, inflation * size):
        raise UserError(
            f'an archive of {size:,} bytes that inflates to {total:,}: expected at most '
            f'{inflation:g} times as much ({RAISED}); {ADVICE}'
        )


def inflated(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns an entry's bytes. Unlike zipfile's read, never more than the archive states."""
    info = archive.getinfo(name)
    with archive.open(info) as entry:
        data = entry.read(info.file_size)
        if len(data) != info.file_size or entry.read(1):
            raise ValueError(f'zip entry {name} is not as long as the archive says')
    return data


def npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Returns a NumPy array of an .npz file, after comparing its shape with its bytes."""
    file = io.BytesIO(inflated(archive, name))
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read_header:
        raise UserError(f'tensor {name[:-4]} is in the unknown .npy format {version}')
    shape, fortran, dtype = read_header[version](file)
    if dtype.hasobject or dtype.kind not in 'biufcV':
        raise UserError(f'tensor {name[:-4]} is of {dtype}, not of numbers; save it as float32')
    data = file.getbuffer()[file.tell() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f'{name} of shape {shape} and type {dtype} has {len(data)} bytes')
    return np.frombuffer(data, dtype).reshape(shape, order='F' if fortran else 'C')


def record(mapped: mmap.mmap, archive: zipfile.ZipFile, name: str) -> memoryview:
    """Returns a zip entry's bytes: a view of the map if uncompressed, as torch writes it."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        return memoryview(inflated(archive, name))
    header = struct.Struct('<4s22xHH')  # its last fields: lengths of the name and of the extras
    signature, name_length, extra_length = header.unpack_from(mapped, info.header_offset)
    start = info.header_offset + header.size + name_length + extra_length
    if signature != b'PK\x03\x04' or start + info.file_size > len(mapped):
        raise ValueError(f'zip entry {name} is outside the file')
    return memoryview(mapped)[start : start + info.file_size]
