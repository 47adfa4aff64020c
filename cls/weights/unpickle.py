"""An unpickler for PyTorch's tensors that imports nothing and calls nothing of a file's choosing.

A pickle is a program. Of all the names that it may ask for, `_GLOBALS` lists the few that
tensors, containers and numbers need; each stands for an inert object or a function of this
module. Every other name ends in a `UserError`, every misuse of these in some other exception.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Unpickler(pickle._Unpickler):
    """Knows the names of `_GLOBALS`, storages and dtypes, and refuses every other.

    The one of the standard library that is written in Python: a damaged number in a file makes
    the one in C take as many gigabytes for its memo as the number says.
    """

    def __init__(self, file: Any, storage: Callable[[Any], 'Storage'] | None):
        super().__init__(file, encoding='latin1')
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module in ('torch', 'torch.storage', 'torch.cuda') and name in _STORAGES:
            return _Name(f'storage {name}')
        if module == 'torch' and name in DTYPES:
            return _Name(f'dtype {name}')
        raise UserError(f'refused: it {_reason(module, name)}, and nothing was run; {ADVICE}')

    def persistent_load(self, pid: Any) -> 'Storage':
        if self._storage is None:
            raise ValueError('a storage where none belongs')
        return self._storage(pid)


def _reason(module: str, name: str) -> str:
    """Says what a name that is not allowed stands for."""
    if name in ('_rebuild_sparse_tensor', '_rebuild_nested_tensor', '_get_layout'):
        return f'holds a sparse or nested tensor ({module}.{name})'
    if name == '_rebuild_qtensor' or name.startswith(('QInt', 'QUInt')):
        return f'holds a quantised tensor ({module}.{name})'
    if name.startswith('_rebuild_meta'):
        return f'holds a tensor without values ({module}.{name})'
    return f'asks for {module}.{name}, which is more than tensors, containers and numbers'


class _Frozen:
    """Neither a pickle's BUILD instruction nor anybody else changes what derives from this."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f'the file sets the state of {type(self).__name__}')


class _Name(_Frozen):
    """A storage's or an element's type: nothing but its name."""

    __slots__ = ('text',)

    def __init__(self, text: str):
        self.text = text


class _Function(_Frozen):
    """One of our own functions, under the name that the file knows."""

    __slots__ = ('call',)

    def __init__(self, call: Callable[..., Any]):
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class _Dict(dict):
    """An OrderedDict. Its attributes (a state_dict has `_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _NumpyDtype:
    """A NumPy dtype's name; the rest of its state matters only to structures and times."""

    __slots__ = ('name',)

    def __init__(self, name: str):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ('<', '|', '='):
            raise ValueError('a big-endian NumPy scalar')


@dataclass
class Storage:
    """A run of elements; `data` may be set after the tensors that lie in it are known."""

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

    def __setstate__(self, state: Any) -> None:
        raise ValueError('the file sets the state of a storage')


class Tensor(NamedTuple):
    """A tensor that has not looked at its storage yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """Returns the view, after checking that it stays within the storage."""
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
    """Checks a persistent id: ('storage', type, key, device, number of elements[, view])."""
    if not isinstance(saved_id, tuple) or saved_id[:1] != ('storage',):
        raise UserError(f'refused: it holds a whole pickled module, and nothing was run; {ADVICE}')
    if not isinstance(saved_id[4], int) or saved_id[4] < 0:
        raise ValueError('a storage with an impossible number of elements')
    return saved_id


def dtype_of_storage(storage_type: Any) -> np.dtype:
    kind, name = _name(storage_type)
    if kind != 'storage':
        raise ValueError(f'{name} is no storage')
    return np.dtype(DTYPES[_STORAGES[name]])


def _name(value: Any) -> list[str]:
    if not isinstance(value, _Name):
        raise ValueError('a type was expected')
    return value.text.split()


def _rebuild(storage, offset, shape, strides, *rest) -> Tensor:
    """Tensors of torch < 0.4 (`rest` empty) and after (gradient, hooks[, metadata])."""
    if len(rest) > 2 and rest[2]:
        raise UserError('refused: it holds conjugate or negative views; call resolve_conj() first')
    if not isinstance(storage, Storage):
        raise ValueError('a tensor without a storage')
    return Tensor(storage, int(offset), tuple(shape), tuple(strides), storage.dtype)


def _rebuild_v3(storage, offset, shape, strides, gradient, hooks, dtype, *metadata) -> Tensor:
    """Tensors whose storage is plain bytes and who bring their own dtype."""
    tensor = _rebuild(storage, offset, shape, strides, gradient, hooks, *metadata)
    return tensor._replace(dtype=np.dtype(DTYPES[_name(dtype)[1]]))


def _rebuild_parameter(data, *_) -> Tensor:
    return data


def _rebuild_from_type(function, kind, args, state) -> Any:
    """Tensors with attributes of their own, which are dropped."""
    if not isinstance(function, _Function) or not isinstance(kind, _Name):
        raise ValueError('a tensor that is rebuilt by something unknown')
    return function(*args)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    if encoding != 'latin1':
        raise ValueError(f'bytes in the encoding {encoding}')
    return text.encode('latin1')


def _numpy_scalar(dtype: _NumpyDtype, data: bytes | str) -> Any:
    """A NumPy number (a best accuracy, a rate) as a Python number."""
    name = dtype.name.lstrip('<|=')
    if name not in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'):
        raise ValueError(f'a NumPy scalar of type {name}')
    raw = data.encode('latin1') if isinstance(data, str) else data
    return np.frombuffer(raw, name)[0].item()


def _globals() -> dict[tuple[str, str], Any]:
    """All that a file may name besides storages and dtypes, and what it gets."""
    table = {
        ('collections', 'OrderedDict'): _Function(_Dict),
        ('collections', 'Counter'): _Function(_Dict),
        ('_codecs', 'encode'): _Function(_encode),
        ('torch', 'Size'): _Function(tuple),
        ('torch', 'device'): _Function(lambda *args: ':'.join(map(str, args))),
        ('torch', 'Tensor'): _Name('class Tensor'),
        ('torch.nn.parameter', 'Parameter'): _Name('class Parameter'),
        ('torch._utils', '_rebuild_tensor'): _Function(_rebuild),
        ('torch._utils', '_rebuild_tensor_v2'): _Function(_rebuild),
        ('torch._utils', '_rebuild_tensor_v3'): _Function(_rebuild_v3),
        ('torch._utils', '_rebuild_parameter'): _Function(_rebuild_parameter),
        ('torch._utils', '_rebuild_parameter_with_state'): _Function(_rebuild_parameter),
        ('torch._tensor', '_rebuild_from_type_v2'): _Function(_rebuild_from_type),
        ('numpy', 'dtype'): _Function(lambda name, *_: _NumpyDtype(name)),
        ('numpy.core.multiarray', 'scalar'): _Function(_numpy_scalar),
        ('numpy._core.multiarray', 'scalar'): _Function(_numpy_scalar),
    }
    for module in ('builtins', '__builtin__'):
        table[module, 'set'] = _Function(set)
    return table


_GLOBALS = _globals()
