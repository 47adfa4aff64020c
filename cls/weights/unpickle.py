"""An unpickler for PyTorch's tensors that neither imports nor calls anything that a file names.

A pickle is a program. `_GLOBALS` lists the few names that tensors, containers and numbers need;
each is replaced by an inert object or a function of this module. Every other class or function (a
training script's argparse.Namespace, a path, a date, a loss) becomes a `Standin`, which has only a
name. An object of a `Standin`, or a call of it, is an `Inert`, which keeps its state and does
nothing. Names that run programs raise a `UserError`: they would be harmless, but no legitimate
checkpoint contains them.

The instructions that make or change objects are reimplemented here for exactly these types, and
for containers with plain keys; they raise on anything else. A file of a few bytes cannot make them
allocate much memory: nothing is reserved that is not in the file, and instructions are counted.
"""

# The annotations of pickle lack the attributes of its unpickler in Python.
# pyright: reportAttributeAccessIssue=false

import math
import mmap
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from cls.errors import UserError

ADVICE = (
    'save only the weights, torch.save(model.state_dict(), FILE), or a .safetensors file, and '
    'import that'
)

DTYPES = {
    'float32': np.float32,
    'float64': np.float64,
    'float16': np.float16,
    'bfloat16': ml_dtypes.bfloat16,
    'float8_e4m3fn': ml_dtypes.float8_e4m3fn,
    'float8_e5m2': ml_dtypes.float8_e5m2,
    'uint8': np.uint8,
    'uint16': np.uint16,
    'uint32': np.uint32,
    'uint64': np.uint64,
    'int8': np.int8,
    'int16': np.int16,
    'int32': np.int32,
    'int64': np.int64,
    'bool': np.bool_,
    'complex64': np.complex64,
    'complex128': np.complex128,
}
_STORAGES = {
    'FloatStorage': 'float32',
    'DoubleStorage': 'float64',
    'HalfStorage': 'float16',
    'BFloat16Storage': 'bfloat16',
    'ByteStorage': 'uint8',
    'CharStorage': 'int8',
    'ShortStorage': 'int16',
    'IntStorage': 'int32',
    'LongStorage': 'int64',
    'BoolStorage': 'bool',
    'ComplexFloatStorage': 'complex64',
    'ComplexDoubleStorage': 'complex128',
    'UntypedStorage': 'uint8',
}


# The most reads of one pickle. Checkpoints of thousands of tensors with optimizer states take some
# hundred thousand. An instruction of one byte makes an object of up to 216 bytes.
MAX_READS = 5_000_000
# Modules with functions that run programs, or open files or connections.
_PROGRAMS = (
    'asyncio', 'bdb', 'cProfile', 'code', 'codeop', 'commands', 'ctypes', 'fcntl', 'ftplib',
    'importlib', 'io', 'marshal', 'mmap', 'multiprocessing', 'nt', 'os', 'pdb', 'pickle', 'pip',
    'pkgutil', 'popen2', 'posix', 'profile', 'pty', 'requests', 'runpy', 'shelve', 'shutil',
    'signal', 'site', 'smtplib', 'socket', 'ssl', 'subprocess', 'sys', 'tempfile', 'threading',
    'timeit', 'webbrowser', 'xmlrpc', 'zipimport', '_io', '_pickle', '_posixsubprocess',
    '_socket', '_thread',
)  # fmt: skip
_BUILTINS = (
    '__import__', 'breakpoint', 'compile', 'delattr', 'eval', 'exec', 'execfile', 'exit',
    'file', 'globals', 'help', 'input', 'locals', 'memoryview', 'open', 'quit', 'raw_input',
    'reload', 'setattr', 'vars',
)  # fmt: skip
_TENSORS = ('_rebuild_sparse_tensor', '_rebuild_nested_tensor', '_get_layout')


class Reader:
    """A buffer as a file that never returns or reserves more bytes than are left."""

    def __init__(self, data: bytes | mmap.mmap):
        self._data, self.position, self._reads = data, 0, 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise UserError(
                f'its pickle has more than {MAX_READS:,} parts, and checkpoints have some hundred '
                f'thousand; {ADVICE}'
            )
        start, self.position = self.position, self.position + size
        if not 0 <= size <= len(self._data) - start:
            raise EOFError(f'{size} bytes are asked for, but {len(self._data) - start} are left')
        return self._data[start : self.position]

    def readline(self) -> bytes:
        end = self._data.find(b'\n', self.position)
        return self.read((len(self._data) if end < 0 else end + 1) - self.position)


class Unpickler(pickle._Unpickler):
    """An unpickler of the names in `_GLOBALS`, storages and dtypes; other names are a `Standin`.

    It extends the standard library's implementation in Python: with a damaged number in a file, the
    implementation in C allocates that many gigabytes for its memo.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Reader, storage: Callable[[Any], 'Storage'] | None):
        super().__init__(file, encoding='latin1')
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module in ('torch', 'torch.storage', 'torch.cuda') and name in _STORAGES:
            return _Name(f'storage {name}')
        if module == 'torch' and name in DTYPES:
            return _Name(f'dtype {name}')
        if module.partition('.')[0] in _PROGRAMS or (
            module in ('builtins', '__builtin__') and name in _BUILTINS
        ):
            raise UserError(
                f'refused: it asks for {module}.{name}, which runs programs or opens files, and '
                f'nothing was run; {ADVICE}'
            )
        return Standin(f'{module}.{name}', *_no_tensor(module, name))

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and pid[:1] == ('module',):  # a class, of torch before 1.6
            return Standin(getattr(pid[1] if pid[1:] else None, 'name', 'a module'))
        if self._storage is None:
            raise ValueError('a storage where none belongs')
        return self._storage(pid)

    # The instructions that make or change objects; the others only move plain values.

    def load_frame(self) -> None:
        self.read(8)  # frames only allow reading ahead

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack('<Q', self.read(8))
        self.append(bytearray(self.read(size)))

    def get_extension(self, code: int) -> None:
        raise ValueError(f'the extension {code}')

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        self.stack.pop()
        self.stack[-1] = _inert(self.stack[-1])

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def _instantiate(self, kind: Any, arguments: list) -> None:
        self.append(_made(kind, tuple(arguments)))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert | NumpyDtype):
            target.state = state
        elif not isinstance(target, _Dict):  # the attributes of a state_dict are dropped
            raise ValueError(f'the file sets the state of a {type(target).__name__}')

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise ValueError(f'the file appends to a {type(target).__name__}')

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif isinstance(target, Inert):
            target.items |= {
                k: v for k, v in zip(items[::2], items[1::2], strict=False) if type(k) is str
            }
        else:
            raise ValueError(f'the file sets an item of a {type(target).__name__}')

    def load_dict(self) -> None:
        self.append(dict(_pairs(self.pop_mark())))

    def load_additems(self) -> None:
        values, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, set):
            target.update(map(_key, values))
        elif not isinstance(target, Inert):
            raise ValueError(f'the file adds to a {type(target).__name__}')

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))


for _method in (
    'frame', 'bytearray8', 'reduce', 'newobj', 'newobj_ex', 'build', 'append', 'appends',
    'setitem', 'setitems', 'dict', 'additems', 'frozenset',
):  # fmt: skip
    _opcode = getattr(pickle, _method.upper())[0]
    Unpickler.dispatch[_opcode] = getattr(Unpickler, f'load_{_method}')


def _no_tensor(module: str, name: str) -> tuple[str, ...]:
    """Returns the reason that a function rebuilds an unsupported tensor; () for others."""
    if name in _TENSORS:
        return (f'a sparse or nested tensor ({module}.{name})',)
    if name == '_rebuild_qtensor' or name.startswith(('QInt', 'QUInt')):
        return (f'a quantized tensor ({module}.{name})',)
    if name.startswith('_rebuild_meta'):
        return (f'a tensor without values ({module}.{name})',)
    if name.startswith('_rebuild') and module.partition('.')[0] == 'torch':
        return (f'a tensor of an unknown kind ({module}.{name})',)
    return ()


def _key(value: Any) -> Any:
    """Returns a key of a dict or set; raises for nested tuples, whose hashing may never end."""
    parts = value if type(value) is tuple else (value,)
    if not all(isinstance(part, _KEYS) for part in parts):
        raise ValueError('a key that is not a number, text or tuple of these')
    return value


def _pairs(items: list) -> Iterator[tuple[Any, Any]]:
    return zip(map(_key, items[::2]), items[1::2], strict=True)


def _made(kind: Any, arguments: Any) -> Any:
    """Returns the result of calling `kind`: of our own function, or `Inert` for a stand-in."""
    if not isinstance(arguments, tuple):
        raise ValueError('a call without a tuple of arguments')
    return kind(*arguments) if isinstance(kind, _Function) else _inert(kind)


def _inert(kind: Any) -> 'Inert':
    if not isinstance(kind, Standin | Inert):
        raise ValueError(f'an object is made of a {type(kind).__name__}')
    return Inert(kind.name, kind.why)


class Standin:
    """The name of a class or function that is not ours.

    `why` describes the tensor that it rebuilds, if that is unsupported.
    """

    __slots__ = ('name', 'why')

    def __init__(self, name: str, why: str = ''):
        self.name, self.why = name, why


class Inert:
    """An object that a stand-in would have made, with its state and items, never used."""

    __slots__ = ('items', 'name', 'state', 'why')

    def __init__(self, name: str, why: str = ''):
        self.name, self.why, self.state = name, why, None
        self.items: dict[str, Any] = {}


class _Name:
    """The name of a storage type or an element type."""

    __slots__ = ('text',)

    def __init__(self, text: str):
        self.text = text


class _Function:
    """One of our own functions, under a name that files use."""

    __slots__ = ('call',)

    def __init__(self, call: Callable[..., Any]):
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class _Dict(dict):
    """An OrderedDict. Its attributes (a state_dict has `_metadata`) are dropped."""

    __slots__ = ()


class NumpyDtype:
    """A NumPy dtype: its name, and its state, with the byte order."""

    __slots__ = ('name', 'state')

    def __init__(self, name: Any):
        self.name, self.state = name, None


_KEYS = (str, int, float, bytes, type(None), Standin, Inert, _Name)


@dataclass
class Storage:
    """A sequence of elements; `data` may be set after its tensors are made."""

    dtype: np.dtype
    numel: int
    data: memoryview | None = None
    root: 'Storage | None' = None
    start: int = 0

    def part(self, start: int, numel: int) -> 'Storage':
        return Storage(self.dtype, numel, None, self, start)

    def elements(self, dtype: np.dtype) -> np.ndarray:
        """Returns a one-dimensional view with the elements taken as `dtype`."""
        if self.root is not None:
            return self.root.elements(dtype)[self.start : self.start + self.numel]
        if self.data is None or len(self.data) < self.numel * self.dtype.itemsize:
            raise ValueError('a storage is missing or shorter than its tensors need')
        usable = self.numel * self.dtype.itemsize // dtype.itemsize * dtype.itemsize
        return np.frombuffer(self.data[:usable], dtype)


class Tensor(NamedTuple):
    """A tensor before its storage is read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """Returns a view of the storage, after checking its bounds."""
        elements = self.storage.elements(self.dtype)
        if len(self.shape) != len(self.strides) or min((*self.shape, *self.strides, 0)) < 0:
            raise ValueError(f'impossible tensor of shape {self.shape}, strides {self.strides}')
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if self.offset < 0 or (math.prod(self.shape) and self.offset + reach + 1 > len(elements)):
            raise ValueError(f'a tensor of shape {self.shape} reaches beyond its storage')
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        return np.lib.stride_tricks.as_strided(
            elements[self.offset :],
            self.shape,
            [stride * self.dtype.itemsize for stride in self.strides],
            writeable=False,
        )


def storage_id(saved_id: Any) -> tuple:
    """Returns a checked id: ('storage', type, key, device, number of elements[, view])."""
    if not isinstance(saved_id, tuple) or saved_id[:1] != ('storage',):
        raise ValueError('a persistent id that is not a storage')
    _, _, key, _, numel, *view = saved_id
    if not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise ValueError('a storage with an impossible key or number of elements')
    if view and view[0] is not None and any(type(n) is not int or n < 0 for n in view[0][1:]):
        raise ValueError('a view of a storage with impossible numbers')
    return saved_id


def dtype_of_storage(storage_type: Any) -> np.dtype:
    """Returns the type of a storage's elements. Raises UserError if they are not numbers."""
    if isinstance(storage_type, Standin):
        raise UserError(f'refused: it holds {storage_type.why or storage_type.name}; {ADVICE}')
    kind, name = _name(storage_type)
    if kind != 'storage':
        raise ValueError(f'{name} is not a storage')
    return np.dtype(DTYPES[_STORAGES[name]])


def _name(value: Any) -> list[str]:
    if not isinstance(value, _Name):
        raise ValueError('a type was expected')
    return value.text.split()


def _rebuild(storage, offset, shape, strides, *rest) -> Tensor:
    """Returns a tensor of torch < 0.4 (`rest` empty) or later (gradient, hooks[, metadata])."""
    if len(rest) > 2 and rest[2]:
        raise UserError('refused: it holds conjugate or negative views; call resolve_conj() first')
    if not isinstance(storage, Storage):
        raise ValueError('a tensor without a storage')
    numbers = (offset, *shape, *strides)
    if len(numbers) > 129 or any(type(n) is not int for n in numbers):
        raise ValueError('a tensor with a shape that is not a tuple of integers')
    return Tensor(storage, offset, tuple(shape), tuple(strides), storage.dtype)


def _rebuild_v3(storage, offset, shape, strides, gradient, hooks, dtype, *metadata) -> Tensor:
    """Returns a tensor with a storage of plain bytes and its own dtype."""
    tensor = _rebuild(storage, offset, shape, strides, gradient, hooks, *metadata)
    return tensor._replace(dtype=np.dtype(DTYPES[_name(dtype)[1]]))


def _rebuild_parameter(data, *_) -> Any:
    return data


def _rebuild_from_type(function, kind, args, state) -> Any:
    """Returns a tensor without the attributes and class that it has in the file."""
    if not isinstance(kind, _Name | Standin):
        raise ValueError('a tensor that is rebuilt as something unknown')
    return _made(function, args)


def _encode(text: str, encoding: str) -> bytes:
    """Returns bytes that Python 3 wrote for Python 2."""
    if encoding != 'latin1':
        raise ValueError(f'bytes in the encoding {encoding}')
    return text.encode('latin1')


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    """Returns a NumPy number (an accuracy, a learning rate) as a Python number, or an `Inert`."""
    raw = data.encode('latin1') if isinstance(data, str) else data
    if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes):
        return Inert('a NumPy scalar')
    name = dtype.name.lstrip('<|=')
    native = not dtype.state or dtype.state[1] in ('<', '|', '=')
    if name not in _NUMBERS or not native:
        return Inert('a NumPy scalar')
    return np.frombuffer(raw, name)[0].item()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ''


def _set(values=()) -> set:
    return set(map(_key, values))


def _dict(values=()) -> _Dict:
    pairs = values.items() if isinstance(values, dict) else values
    return _Dict((_key(key), value) for key, value in pairs)


_NUMBERS = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')


def _globals() -> dict[tuple[str, str], Any]:
    """Returns {(module, name): replacement} for all allowed names but storages and dtypes."""
    table = {
        ('collections', 'OrderedDict'): _Function(_dict),
        ('collections', 'Counter'): _Function(_dict),
        ('collections', 'defaultdict'): _Function(lambda *_: _Dict()),
        ('_codecs', 'encode'): _Function(_encode),
        ('torch', 'Size'): _Function(tuple),
        ('torch', 'device'): _Function(lambda *_: Inert('torch.device')),
        ('torch', 'Tensor'): _Name('class Tensor'),
        ('torch.nn.parameter', 'Parameter'): _Name('class Parameter'),
        ('torch._utils', '_rebuild_tensor'): _Function(_rebuild),
        ('torch._utils', '_rebuild_tensor_v2'): _Function(_rebuild),
        ('torch._utils', '_rebuild_tensor_v3'): _Function(_rebuild_v3),
        ('torch._utils', '_rebuild_parameter'): _Function(_rebuild_parameter),
        ('torch._utils', '_rebuild_parameter_with_state'): _Function(_rebuild_parameter),
        ('torch._tensor', '_rebuild_from_type_v2'): _Function(_rebuild_from_type),
        ('numpy', 'dtype'): _Function(lambda name, *_: NumpyDtype(_text(name))),
        ('numpy.core.multiarray', 'scalar'): _Function(_numpy_scalar),
        ('numpy._core.multiarray', 'scalar'): _Function(_numpy_scalar),
    }
    for module in ('builtins', '__builtin__'):
        table[module, 'set'] = _Function(_set)
    return table


_GLOBALS = _globals()
