"""Reads checkpoints of any format into NumPy arrays, without executing code in them.

Supported are PyTorch's formats under any file name (see torch_file.py), `.safetensors`, the parts
of either by their index (`*.index.json`), Keras's HDF5 files and archives (hdf5.py), checkpoints of
TensorFlow (tensorflow.py), `.caffemodel` (caffe.py), MXNet's `.params` (mxnet_file.py), Flax's
`.msgpack` (msgpack_file.py), and NumPy's `.npz` with the tensors of a Keras or TF-Slim model
(keras.py). From a training script's file (with its arguments, paths, dates, a loss) the tensors are
read, and the name of the architecture if it has one.

The formats in foreign.py are refused, with a `UserError` that gives the remedy. Sizes that a file
states are compared with the size of the file before any memory is allocated.
"""

import dataclasses
import io
import mmap
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.storage import paths
from cls.weights import (
    archive,
    caffe,
    entries,
    foreign,
    hdf5,
    keras,
    msgpack_file,
    mxnet_file,
    tensorflow,
    tflite,
    torch_file,
)
from cls.weights.archive import ALWAYS, INFLATED, RAISED
from cls.weights.safetensors_file import is_safetensors, load_safetensors
from cls.weights.unpickle import ADVICE

LONGEST = 500  # the most letters in a tensor's name
INDEX = '.index.json'  # of a checkpoint in several files
_PART = re.compile(r'-(\d{5})-of-(\d{5})\.(safetensors|bin)$')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and its metadata on their network.

    Attributes:
      tensors: name -> array.
      card: the fields of a snapshot's config.json (see card.py) that follow from the training
        script's arguments and class names in the file.
      entry: the key of the tensors in the outermost dict, '' if they are that dict.
      unused: the other keys with tensors by name, as averages of the weights.
      averages: those of them that are averages of the weights.
    """

    tensors: dict[str, np.ndarray]
    card: dict[str, Any]
    entry: str = ''
    unused: tuple[str, ...] = ()
    averages: tuple[str, ...] = ()


def read(
    path: str | Path, entry: str = '', inflation: float = INFLATED, ema: bool = False
) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint, see `open_checkpoint`."""
    return open_checkpoint(path, entry, inflation, ema).tensors


def open_checkpoint(
    path: str | Path, entry: str = '', inflation: float = INFLATED, ema: bool = False
) -> Checkpoint:
    """Returns the contents of a checkpoint.

    Args:
      path: a file of torch.save, safetensors or numpy.savez, or the index of one in several files;
        its format is detected by content, not by name.
      entry: the key of the weights in the outermost dict ('state_dict_ema'); '': the dict itself,
        or one of its usual entries (see entries.py).
      inflation: the most bytes of a tensor, or of an inflated archive, for each byte of the file.
      ema: whether to use the exponential average of the weights.

    Returns:
      The tensors are {name: read-only array} in the file's own dtype (bfloat16 is
      ml_dtypes.bfloat16) and shape. The arrays are views of the mapped file and may be strided:
      only the parts in use are read from the disk. Copy them to keep them beyond a change of the
      file. A common prefix of all names ('module.', '_orig_mod.') is removed. The entry in use and
      the values that are not tensors are logged.

    Raises:
      UserError: a missing, damaged or foreign file, or one that is refused (see above).
    """
    path = tensorflow.index_of(Path(path))
    if entry and ema:
        raise UserError('both --entry and --ema: expected one of them')
    try:
        if path.name.endswith(INDEX):
            content, size = _parts(path, inflation)
        else:
            content, size = _load(path, inflation)
        _check_whole(path)
        chosen = entries.select(content, entry, ema, path)
        _check_sizes(chosen.tensors, size, inflation)
        return Checkpoint(
            chosen.tensors, entries.card(content), chosen.entry, chosen.unused, chosen.averages
        )
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    except FileNotFoundError:
        raise UserError(f'{path}: no such file') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error}') from None
    except Exception as error:  # a file's content can make unpickling fail in any way
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{path}: damaged or incomplete checkpoint ({type(error).__name__}: {reason:.200}); '
            'fetch or save it again'
        ) from error


def parts_of(index: Path) -> dict[str, str]:
    """Returns {name of a tensor: name of its file} of an index. Raises UserError if it has none."""
    try:
        content = paths.parse_json(index.read_text())
        parts = content['weight_map']
        plain = all(isinstance(x, str) and x for pair in parts.items() for x in pair)
    except (ValueError, KeyError, TypeError, AttributeError):
        parts, plain = {}, False
    if not parts or not plain:
        raise UserError('expected the index of a checkpoint in several files, {"weight_map": ...}')
    for file in parts.values():
        if Path(file).name != file or file.endswith(INDEX):
            raise UserError(f'names the file {file!r:.60}: expected files in its own folder')
    return parts


def _parts(index: Path, inflation: float) -> tuple[dict[str, Any], int]:
    """Returns the tensors of all files of an index, and the size of the files."""
    parts, tensors, size = parts_of(index), {}, 0
    for file in sorted(set(parts.values())):
        path = index.parent / file
        if not path.is_file():
            raise UserError(f'its file {file} is missing; fetch all {len(set(parts.values()))}')
        content, part_size = _load(path, inflation)
        if not isinstance(content, dict):
            raise UserError(f'its file {file} holds no tensors by name')
        expected = {name for name, place in parts.items() if place == file}
        if wrong := sorted(expected.symmetric_difference(content), key=str):
            raise UserError(
                f'its file {file} has other tensors than the index states, as '
                f'{entries.shown(wrong[0])}; fetch both again'
            )
        tensors |= content
        size += part_size
    return tensors, size


def _check_whole(path: Path) -> None:
    """Raises UserError for one file of several."""
    part = _PART.search(path.name)
    if part and int(part[2]) > 1:
        index = f'{path.name[: part.start()]}.{part[3]}{INDEX}'
        raise UserError(
            f'one of {int(part[2])} files of a checkpoint; give its index, {path.parent / index}'
        )


def _check_sizes(tensors: Mapping[str, np.ndarray], size: int, inflation: float) -> None:
    """Raises UserError if a tensor, by strides of 0, claims to be larger than its file."""
    for name, tensor in tensors.items():
        if len(name) > LONGEST:
            raise UserError(f'a tensor has a name of {len(name):,} letters, {name[:40]}...')
        if tensor.nbytes > max(ALWAYS, inflation * size):
            raise UserError(
                f'tensor {name} claims the shape {tensor.shape}, {tensor.nbytes:,} bytes, but '
                f'the file has {size:,}; expected a tensor whose elements are in the file '
                f'({RAISED})'
            )


def _load(path: Path, inflation: float) -> tuple[Any, int]:
    """Returns (the outermost object, with its tensors as arrays; the size of the files)."""
    with path.open('rb') as file:
        start = file.read(512)
        if not start:
            raise UserError('an empty file; fetch or save it again')
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        file.seek(0)
        size = len(mapped)
        if start.startswith(b'PK\x03\x04'):
            return _load_zip(zipfile.ZipFile(file), mapped, inflation), size
    if tensorflow.is_table(mapped):
        return tensorflow.load_tensorflow(path, mapped)
    return _load_mapped(path, start, mapped, inflation), size


def _load_mapped(path: Path, start: bytes, mapped: mmap.mmap, inflation: float) -> Any:
    """Returns the outermost object of a file in a format of one file."""
    if start.startswith(torch_file.STREAM_START):
        return torch_file.load_stream(mapped)
    if foreign.is_tar(start) and (members := torch_file.tar_members(mapped)):
        return torch_file.load_tar(mapped, members)
    if start.startswith(hdf5.SIGNATURE):
        return keras.to_torch(hdf5.load_hdf5(path, mapped, len(mapped), inflation))
    if is_safetensors(mapped):
        return load_safetensors(path, mapped)
    if start.startswith(mxnet_file.START):
        return mxnet_file.load_mxnet(memoryview(mapped))
    name = path.name.lower()
    if name.endswith(caffe.SUFFIX):
        return caffe.load_caffe(memoryview(mapped))
    if name.endswith(msgpack_file.SUFFIXES):
        return msgpack_file.load_msgpack(memoryview(mapped))
    raise UserError(
        foreign.advice(start, path.name)
        or 'not a PyTorch checkpoint (zip or stream format) nor a safetensors file, or its '
        f'beginning is damaged; {ADVICE}'
    )


def _load_zip(file: zipfile.ZipFile, mapped: mmap.mmap, inflation: float) -> Any:
    names = set(file.namelist())
    archive.check_inflated(file, len(mapped), inflation)
    if names == {'names.npy', 'values.npy'}:
        raise UserError(foreign.TENSORNETS)
    if names and all(name.endswith('.npy') for name in names):
        tensors = {name[:-4]: archive.npy(file, name) for name in sorted(names)}
        convert = tflite.to_torch if tflite.is_graph(tensors) else keras.to_torch
        return convert(tensors)
    if hdf5.IN_KERAS in names:
        data = archive.record(mapped, file, hdf5.IN_KERAS)
        return keras.to_torch(hdf5.load_hdf5(io.BytesIO(data), None, len(data), inflation))
    return torch_file.load_zip(file, mapped)
