"""Reads checkpoints into NumPy arrays, without PyTorch and without executing their pickle.

Supported are PyTorch's zip format (torch >= 1.6) and its older stream format, under any file name
(`.pth`, `.pt`, `.th`, `.bin`, `.pth.tar`, ...), `.safetensors`, and NumPy's `.npz` with the tensors
of a Keras or TF-Slim model (see keras.py). A pickle is a program. It runs on our own unpickler (see
unpickle.py), with a short list of inert stand-ins, so that nothing that the file names is imported
or called. From a training script's file (with its arguments, paths, dates, a loss) the tensors are
read, and the name of the architecture if it has one.

Refused, with a `UserError` that gives the remedy: TorchScript archives, whole pickled modules,
quantized, sparse, nested and meta tensors, files of big-endian machines, the tar files of torch
before 0.1.10, and the formats in foreign.py. Sizes that a file states are compared with the size of
the file before any memory is allocated.
"""

import dataclasses
import io
import json
import logging
import math
import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors

from cls.errors import UserError, nearest
from cls.weights import foreign, keras
from cls.weights.unpickle import (
    ADVICE,
    DTYPES,
    Inert,
    Reader,
    Standin,
    Storage,
    Tensor,
    Unpickler,
    dtype_of_storage,
    storage_id,
)

# Entries of a checkpoint's outermost dict for the weights; the first present one is used.
ENTRIES = ('state_dict', 'model', 'model_state_dict')
# Prefixes that wrappers of a whole module add to every name (DataParallel, torch.compile).
PREFIXES = ('module.', '_orig_mod.')
# Training scripts' keys for the names of the classes, see card.py.
CLASS_NAMES = (
    *('label_names', 'class_names', 'classes', 'class_to_idx', 'idx_to_class'),
    *('id2label', 'label2id'),
)

# The largest size of an inflated archive, as a multiple of the file, and in bytes for small files.
# Compression shrinks weights by a tenth, and those of a pruned model by the pruned part.
INFLATED = 50
ALWAYS = 16 * 2**20
LONGEST = 500  # the most letters in a tensor's name

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_START = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and its metadata on their network.

    Attributes:
      tensors: name -> array.
      card: the fields of a snapshot's config.json (see card.py) that follow from the training
        script's arguments and class names in the file.
      entry: the key of the tensors in the outermost dict, '' if they are that dict.
      unused: the other keys with tensors by name, as averages of the weights.
    """

    tensors: dict[str, np.ndarray]
    card: dict[str, Any]
    entry: str = ''
    unused: tuple[str, ...] = ()


def read(path: str | Path, entry: str = '', inflation: float = INFLATED) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint, see `open_checkpoint`."""
    return open_checkpoint(path, entry, inflation).tensors


def open_checkpoint(path: str | Path, entry: str = '', inflation: float = INFLATED) -> Checkpoint:
    """Returns the contents of a checkpoint.

    Args:
      path: a file of torch.save, safetensors or numpy.savez; its format is detected by content, not
        by name.
      entry: the key of the weights in the outermost dict ('state_dict_ema'); '': the dict itself,
        or its 'state_dict', 'model' or 'model_state_dict'.
      inflation: the most bytes of a tensor, or of an inflated archive, for each byte of the file.

    Returns:
      The tensors are {name: read-only array} in the file's own dtype (bfloat16 is
      ml_dtypes.bfloat16) and shape. The arrays are views of the mapped file and may be strided:
      only the parts in use are read from the disk. Copy them to keep them beyond a change of the
      file. A common prefix of all names ('module.', '_orig_mod.') is removed. The entry in use and
      the values that are not tensors are logged.

    Raises:
      UserError: a missing, damaged or foreign file, or one that is refused (see above).
    """
    path = Path(path)
    try:
        content = _load(path, inflation)
        used, selected = _select(content, entry, path)
        tensors = _strip_prefixes(selected)
        _check_sizes(tensors, path.stat().st_size, inflation)
        return Checkpoint(tensors, _card(content), used, _unused(content, used) if used else ())
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


def _check_sizes(tensors: Mapping[str, np.ndarray], size: int, inflation: float) -> None:
    """Raises UserError if a tensor, by strides of 0, claims to be larger than its file."""
    for name, tensor in tensors.items():
        if len(name) > LONGEST:
            raise UserError(f'a tensor has a name of {len(name):,} letters, {name[:40]}...')
        if tensor.nbytes > max(ALWAYS, inflation * size):
            raise UserError(
                f'tensor {name} claims the shape {tensor.shape}, {tensor.nbytes:,} bytes, but '
                f'the file has {size:,}; expected a tensor whose elements are in the file '
                '(config.limits.inflation)'
            )


def _load(path: Path, inflation: float) -> Any:
    """Returns the outermost object of the file, with its tensors as arrays."""
    with path.open('rb') as file:
        start = file.read(512)
        if not start:
            raise UserError('an empty file; fetch or save it again')
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        file.seek(0)
        if start.startswith(b'PK\x03\x04'):
            return _load_zip(file, mapped, inflation)
        if start.startswith(_STREAM_START):
            return _load_stream(mapped)
    if _is_safetensors(mapped):
        return _load_safetensors(path, mapped)
    raise UserError(
        foreign.advice(start, path.name)
        or 'not a PyTorch checkpoint (zip or stream format) nor a safetensors file, or its '
        f'beginning is damaged; {ADVICE}'
    )


# --- The two containers -----------------------------------------------------------------------


def _load_zip(file: BinaryIO, mapped: mmap.mmap, inflation: float) -> Any:
    """Returns the object of `<root>/data.pkl`, with storages from `<root>/data/<key>`."""
    archive = zipfile.ZipFile(file)
    names = set(archive.namelist())
    _check_inflated(archive, len(mapped), inflation)
    if names and all(name.endswith('.npy') for name in names):
        return keras.to_torch({name[:-4]: _npy(archive, name) for name in sorted(names)})
    if names >= foreign.KERAS_ARCHIVE:
        raise UserError(foreign.KERAS)
    roots = [name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')]
    if len(roots) != 1:
        raise UserError(
            'a zip file without a data.pkl in its one folder, thus not a PyTorch checkpoint'
        )
    root = roots[0]
    if f'{root}constants.pkl' in names or any(name.startswith(f'{root}code/') for name in names):
        raise UserError(f'a TorchScript archive, which holds a program; {ADVICE}')
    if f'{root}byteorder' in names and _inflated(archive, f'{root}byteorder') != b'little':
        raise UserError(f'written on a big-endian machine; on a little-endian one, {ADVICE}')

    storages: dict[str, Storage] = {}

    def storage(saved_id: Any) -> Storage:
        _, storage_type, key, _, numel = storage_id(saved_id)
        if key not in storages:
            storages[key] = Storage(dtype_of_storage(storage_type), numel)
            storages[key].data = _record(mapped, archive, f'{root}data/{key}')
        return storages[key]

    return _materialize(Unpickler(Reader(_inflated(archive, f'{root}data.pkl')), storage).load())


def _check_inflated(archive: zipfile.ZipFile, size: int, inflation: float) -> None:
    """Raises UserError if the stated sizes of the entries are too large for the archive."""
    total = sum(info.file_size for info in archive.infolist())
    if total > max(ALWAYS, inflation * size):
        raise UserError(
            f'an archive of {size:,} bytes that inflates to {total:,}: expected at most '
            f'{inflation:g} times as much (config.limits.inflation); {ADVICE}'
        )


def _inflated(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns an entry's bytes. Unlike zipfile's read, never more than the archive states."""
    info = archive.getinfo(name)
    with archive.open(info) as entry:
        data = entry.read(info.file_size)
        if len(data) != info.file_size or entry.read(1):
            raise ValueError(f'zip entry {name} is not as long as the archive says')
    return data


def _npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Returns a NumPy array of an .npz file, after comparing its shape with its bytes."""
    file = io.BytesIO(_inflated(archive, name))
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


def _record(mapped: mmap.mmap, archive: zipfile.ZipFile, name: str) -> memoryview:
    """Returns a zip entry's bytes: a view of the map if uncompressed, as torch writes it."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        return memoryview(_inflated(archive, name))
    header = struct.Struct('<4s22xHH')  # its last fields: lengths of the name and of the extras
    signature, name_length, extra_length = header.unpack_from(mapped, info.header_offset)
    start = info.header_offset + header.size + name_length + extra_length
    if signature != b'PK\x03\x04' or start + info.file_size > len(mapped):
        raise ValueError(f'zip entry {name} is outside the file')
    return memoryview(mapped)[start : start + info.file_size]


def _load_stream(mapped: mmap.mmap) -> Any:
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
    return _materialize(content)


def _is_safetensors(mapped: mmap.mmap) -> bool:
    """Returns whether the file starts with the length of a header and its opening brace."""
    return len(mapped) > 8 and mapped[8:9] == b'{' and not any(mapped[5:8])


def _load_safetensors(path: Path, mapped: mmap.mmap) -> dict[str, np.ndarray]:
    """Returns views of the map, after the safetensors library has checked the header."""
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            names = list(file.keys())
    except safetensors.SafetensorError as error:
        raise UserError(f'damaged safetensors file ({error}); fetch or save it again') from None
    (header_length,) = struct.unpack('<Q', mapped[:8])
    header = json.loads(mapped[8 : 8 + header_length])
    data = memoryview(mapped)[8 + header_length :]
    return {name: _safetensor(name, header[name], data) for name in names}


def _safetensor(name: str, entry: Mapping[str, Any], data: memoryview) -> np.ndarray:
    dtypes = {'BF16': 'bfloat16', 'F8_E4M3': 'float8_e4m3fn', 'F8_E5M2': 'float8_e5m2'}
    kinds = {'F': 'float', 'I': 'int', 'U': 'uint', 'C': 'complex'}
    code = entry['dtype']
    dtype = dtypes.get(code, 'bool' if code == 'BOOL' else kinds.get(code[0], '') + code[1:])
    if dtype not in DTYPES:
        raise UserError(f'tensor {name} has the unsupported type {code}; save it as F32')
    start, stop = entry['data_offsets']
    return np.frombuffer(data[start:stop], DTYPES[dtype]).reshape(entry['shape'])


# --- From the outermost object to a flat dict -------------------------------------------------


def _materialize(content: Any) -> Any:
    """Returns the outermost dict with arrays for tensors, also in the dicts directly below it.

    A list, tuple or set is returned unchanged: weights in one have no names.
    """
    if isinstance(content, Tensor):
        return content.array()
    if not isinstance(content, dict):
        return content
    return {
        key: {k: v.array() if isinstance(v, Tensor) else v for k, v in value.items()}
        if isinstance(value, dict)
        else (value.array() if isinstance(value, Tensor) else value)
        for key, value in content.items()
    }


def _select(content: Any, entry: str, path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Returns (key in the outermost dict, '' for the dict itself; the tensors there)."""
    if isinstance(content, Inert | Standin):
        raise UserError(
            f'refused: it asks for {content.name}, a whole pickled module or another object, which '
            f'is more than tensors, containers and numbers, and nothing was run; {ADVICE}'
        )
    if not isinstance(content, dict):
        raise UserError(f'holds a {type(content).__name__}, not a dict; {ADVICE}')
    used = entry or next((e for e in ENTRIES if isinstance(content.get(e), dict)), '')
    others = [_shown(key) for key in content if key != used]
    if used:
        if not isinstance(content.get(used), dict):
            raise UserError(
                f'has no dict {used!r}.{nearest(used, others)} It has {", ".join(others[:10])}'
            )
        _log.info('%s: weights are its entry %r; other entries: %s', path, used, others[:20])
        content = content[used]
    values = content.items()
    tensors = {k: v for k, v in values if isinstance(k, str) and isinstance(v, np.ndarray)}
    for name, value in values:
        if isinstance(value, Inert) and value.why:
            raise UserError(f'refused: {_shown(name)} holds {value.why}; {ADVICE}')
    if not tensors:
        _refuse_empty(content, used)
    dropped = [_shown(key) for key in content if key not in tensors]
    if dropped:
        _log.info('%s: left out values that are not tensors: %s', path, dropped[:20])
    return used, tensors


def _unused(content: Mapping[Any, Any], used: str) -> tuple[str, ...]:
    """Returns the keys of the dicts of tensors that are not used."""
    return tuple(
        _shown(key)
        for key, value in content.items()
        if key != used
        and isinstance(value, Mapping)
        and any(isinstance(item, np.ndarray) for item in value.values())
    )


def _refuse_empty(content: Mapping[Any, Any], used: str) -> None:
    where = f'its entry {used!r}' if used else 'it'
    modules = [f'{_shown(k)} is a {v.name}' for k, v in content.items() if isinstance(v, Inert)]
    names = ', '.join(map(_shown, list(content)[:10])) or 'nothing'
    hint = f' ({", ".join(modules[:3])}: if that is the network, {ADVICE})' if modules else ''
    raise UserError(f'{where} holds no tensors but {names}{hint}; name the entry that does')


def _shown(key: Any) -> str:
    """Returns a key of a dict as text; of keys that are not plain values only the type."""
    return str(key) if isinstance(key, str | int | float) else f'a {type(key).__name__}'


def _card(content: Any) -> dict[str, Any]:
    """Returns a card from a training script's arguments; {} without any.

    timm's and torchvision's scripts, and PyTorch's for ImageNet, store `arch` or `args`. Many other
    scripts store the names of the classes.
    """
    if not isinstance(content, Mapping):
        return {}
    arguments = content.get('args')
    arguments = arguments.state if isinstance(arguments, Inert) else arguments
    arguments = arguments if isinstance(arguments, Mapping) else {}
    named = (*map(content.get, ('arch', 'architecture')), *map(arguments.get, ('model', 'arch')))
    word = next((name for name in named if isinstance(name, str) and name), '')
    card: dict[str, Any] = {'architecture': word} if word else {}
    card |= {field: value for holder in (arguments, content) for field, value in _names_in(holder)}
    constructor = arguments.get('model_kwargs')
    constructor = dict(constructor) if isinstance(constructor, Mapping) else {}
    for argument, name in (('bn_eps', 'bn_eps'), ('gp', 'global_pool')):
        if arguments.get(argument) is not None:
            constructor[name] = arguments[argument]
    if constructor:
        card['model_args'] = constructor
    return card


def _names_in(holder: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """Returns the (field, value) pairs that name classes; only texts count as names."""
    pairs = []
    for field in CLASS_NAMES:
        value = holder.get(field)
        items = (*value.keys(), *value.values()) if isinstance(value, Mapping) else value
        if isinstance(items, list | tuple) and any(isinstance(item, str) for item in items):
            pairs.append((field, value))
    return pairs


def _strip_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors without the prefixes that a wrapper adds to every name."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
