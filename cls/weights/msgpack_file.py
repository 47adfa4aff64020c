"""The tensors of Flax's msgpack files (flax.serialization.to_bytes), without building objects.

Trees of dicts become names: {'params': {'conv': {'kernel': k}}} is conv.weight, in torch's axes.
The names of the modules stay those of the Flax module.

Source: flax/serialization.py.
"""

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from cls.errors import UserError
from cls.weights.convert import torch_name
from cls.weights.unpickle import DTYPES

SUFFIXES = ('.msgpack', '.flax')
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # types of extensions
_CHUNKED = '__msgpack_chunked_array__'
_COLLECTIONS = ('params', 'batch_stats')
_DEEPEST = 32


def load_msgpack(data: memoryview) -> dict[str, np.ndarray]:
    """Returns name -> array.

    Args:
      data: the file; a tree with 'params' and perhaps 'batch_stats', or a tree of parameters.

    Raises:
      UserError: another content than such a tree.
    """
    tree = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False)
    if not isinstance(tree, dict):
        raise UserError(f'holds a {type(tree).__name__}: expected the dict of a Flax module')
    tree = tree if 'params' in tree else {'params': tree}
    tensors: dict[str, np.ndarray] = {}
    for collection in _COLLECTIONS:
        for path, value in _leaves(tree.get(collection, {}), (collection,)):
            name = torch_name(path)
            if name in tensors:
                raise UserError(f'two tensors have the name {name}')
            axes = path[-1] == 'kernel' and value.ndim >= 2
            order = (-1, -2, *range(value.ndim - 2))
            tensors[name] = value.transpose(order) if axes else value
    return tensors


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields (path, array) of a tree of dicts."""
    if isinstance(tree, np.ndarray):
        yield path, tree
        return
    if not isinstance(tree, dict) or len(path) > _DEEPEST:
        raise UserError(f'{"/".join(path)} is a {type(tree).__name__}: expected a dict or an array')
    if _CHUNKED in tree:
        yield path, _joined(tree)
        return
    for name, child in tree.items():
        yield from _leaves(child, (*path, str(name)))


def _joined(tree: dict[str, Any]) -> np.ndarray:
    """Returns an array of more than 1 GiB, stored in parts."""
    shape, chunks = (
        [part[str(i)] for i in range(len(part))] for part in (tree['shape'], tree['chunks'])
    )
    return np.concatenate([np.asarray(chunk).reshape(-1) for chunk in chunks]).reshape(shape)


def _extension(code: int, data: bytes) -> Any:
    if code == _COMPLEX:
        return None
    if code not in (_ARRAY, _SCALAR):
        raise UserError(f'has an extension {code} of msgpack that Flax does not write')
    shape, name, content = msgpack.unpackb(data, raw=True)
    name = name.decode()
    dtype = np.dtype(ml_dtypes.bfloat16 if name in ('bfloat16', 'V2') else DTYPES.get(name, 'V'))
    if dtype.kind == 'V' and dtype != ml_dtypes.bfloat16:
        raise UserError(f'holds an array of {name}; save it as float32')
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f'{len(content)} bytes for an array of {name} and the shape {shape}')
    return np.frombuffer(content, dtype).reshape(shape)
