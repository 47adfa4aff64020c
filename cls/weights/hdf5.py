"""The tensors of Keras's HDF5 files, by h5py, without building the model that they describe.

Layouts: `.h5` of whole models (`model_weights/LAYER/.../LEAF:0`) or weights only, also of Keras 1
(`LAYER/LAYER_W_1:0`), and `.weights.h5` of Keras 3 (`layers/CLASS_3/vars/0`, with the layer's name
as an attribute), as in a `.keras` archive. The model's configuration, and the functions that it can
store, are never read. Links to other files are refused.

Source: keras/src/saving/saving_lib.py, and keras/src/legacy/saving/legacy_h5_format.py.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import ml_dtypes
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from cls.errors import UserError
from cls.weights.archive import ALWAYS, RAISED

SIGNATURE = b'\x89HDF\r\n\x1a\n'
IN_KERAS = 'model.weights.h5'  # the name of such a file in a .keras archive
_DEEPEST = 32  # groups in groups
_LEFT_OUT = ('optimizer', 'optimizer_weights', '_loss_tracker', 'compile_metrics', 'loss_tracker')
# The variables of a layer of Keras 3, in the stored order, by its class.
_VARIABLES = {
    'depthwise_conv2d': ('depthwise_kernel', 'bias'),
    'separable_conv2d': ('depthwise_kernel', 'pointwise_kernel', 'bias'),
    'normalization': ('mean', 'variance', 'count'),
}
_NORM = {
    4: ('gamma', 'beta', 'moving_mean', 'moving_variance'),
    3: ('beta', 'moving_mean', 'moving_variance'),  # scale=False
    2: ('moving_mean', 'moving_variance'),
}
_KERAS_1 = {
    'W': 'kernel',
    'b': 'bias',
    'running_mean': 'moving_mean',
    'running_std': 'moving_variance',  # a variance in spite of its name
}


def load_hdf5(
    file: str | Path | BinaryIO, mapped: mmap.mmap | None, size: int, inflation: float
) -> dict[str, np.ndarray]:
    """Returns LAYER/LEAF -> array, with Keras's names of layers and leaves.

    Args:
      file: the path, or an open file.
      mapped: the mapped file, for arrays that are views of it; None to copy them.
      size: the size of the file in bytes.
      inflation: the most bytes of all arrays for each byte of the file.

    Raises:
      UserError: links, tensors that are not numbers or larger than the file, or two tensors of
        one name.
    """
    with h5py.File(file, 'r') as root:
        group = root.get('model_weights', root)
        if not isinstance(group, h5py.Group):
            raise UserError('its model_weights is not a group')
        datasets = list(_datasets(group, (), set()))
        _check(datasets, size, inflation)
        named = _of_keras_3(group, datasets) if 'layers' in group else _legacy(group, datasets)
        tensors: dict[str, np.ndarray] = {}
        for name, dataset in named:
            if name in tensors:
                raise UserError(f'two tensors have the name {name}')
            tensors[name] = _array(dataset, mapped)
    if not tensors:
        raise UserError('a HDF5 file without the weights of a Keras model')
    return tensors


def _datasets(
    group: h5py.Group, path: tuple[str, ...], seen: set[Any]
) -> Iterator[tuple[tuple[str, ...], h5py.Dataset]]:
    """Yields (path, dataset) below a group, without following links."""
    address = h5o.get_info(group.id).addr
    if address in seen or len(path) > _DEEPEST:
        raise UserError('its groups contain each other')
    seen.add(address)
    for name in map(str, group):
        if not path and name in _LEFT_OUT:
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f'{"/".join((*path, name))} is a link, which is not followed')
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, (*path, name), seen)
        elif isinstance(item, h5py.Dataset):
            yield (*path, name), item


def _check(datasets: list[tuple[tuple[str, ...], h5py.Dataset]], size: int, limit: float) -> None:
    total = 0
    for path, dataset in datasets:
        name = '/'.join(path)
        if dataset.external or dataset.is_virtual:
            raise UserError(f'tensor {name} is in another file, which is not read')
        if dataset.dtype.kind not in 'biufV' or dataset.dtype.hasobject or dataset.shape is None:
            raise UserError(f'tensor {name} is of {dataset.dtype}, not of numbers')
        if dataset.dtype.kind == 'V' and not _is_bfloat16(dataset):
            raise UserError(f'tensor {name} is of {dataset.dtype}, not of numbers')
        total += dataset.nbytes
    if total > max(ALWAYS, limit * size):
        raise UserError(
            f'tensors of {total:,} bytes in a file of {size:,}: expected at most {limit:g} times '
            f'as much ({RAISED})'
        )


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    return dataset.dtype.itemsize == 2 and dataset.attrs.get('dtype') in ('bfloat16', b'bfloat16')


def _array(dataset: h5py.Dataset, mapped: mmap.mmap | None) -> np.ndarray:
    """Returns a dataset's array: a view of the map where the file has it in one piece."""
    dtype = np.dtype(ml_dtypes.bfloat16) if _is_bfloat16(dataset) else dataset.dtype
    offset = None if mapped is None else dataset.id.get_offset()
    if mapped is None or offset is None or dataset.nbytes == 0:
        return dataset[()].view(dtype) if dtype != dataset.dtype else np.asarray(dataset[()])
    data = memoryview(mapped)[offset : offset + dataset.nbytes]
    if len(data) != dataset.nbytes:
        raise ValueError(f'{dataset.name} reaches beyond the file')
    return np.frombuffer(data, dtype).reshape(dataset.shape)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _legacy(group: h5py.Group, datasets: list) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields (name, dataset) of the layouts of Keras 1 and 2.

    A layer's group has its tensors below the scopes of TensorFlow, whose names can differ
    from that of the layer. A model within the model has the names of its layers there.
    """
    if _text(group.attrs.get('backend', '')) == 'theano':
        raise UserError(
            'a Keras file of the Theano backend, whose kernels are turned by 180 degrees; load and '
            'save it by Keras with TensorFlow'
        )
    lists: list[Any] = [group.attrs[key] for key in group.attrs if key.startswith('layer_names')]
    names = {_text(name) for some in lists for name in some}
    by_layer: dict[str, list] = {}
    for path, dataset in datasets:
        # Names of layers may have slashes, thus be several groups.
        prefixes = ('/'.join(path[:k]) for k in range(len(path) - 1, 0, -1))
        layer = next((prefix for prefix in prefixes if prefix in names), path[0])
        by_layer.setdefault(layer, []).append((path[layer.count('/') + 1 :], dataset))
    for layer, parts in by_layer.items():
        leaves = [_leaf(layer, path[-1]) if path else layer for path, _ in parts]
        nested = len(set(leaves)) < len(leaves)
        for leaf, (path, dataset) in zip(leaves, parts, strict=True):
            yield '/'.join((*path[:-1], leaf) if nested else (layer, leaf)), dataset


def _leaf(layer: str, name: str) -> str:
    name = name.removesuffix(':0')
    if name.startswith(f'{layer}_'):  # of Keras 1
        name = re.sub(r'_\d+$', '', name.removeprefix(f'{layer}_'))
        return _KERAS_1.get(name, name)
    return name


def _of_keras_3(group: h5py.Group, datasets: list) -> Iterator[tuple[str, h5py.Dataset]]:
    counts: dict[tuple[str, ...], int] = {}
    for path, _ in datasets:
        counts[path[:-1]] = counts.get(path[:-1], 0) + 1
    for path, dataset in datasets:
        *holder, variables, index = path
        if variables != 'vars' or not index.isdecimal() or holder[0] != 'layers':
            continue  # the counters of dropout layers and the like are below other groups
        kind = re.sub(r'_\d+$', '', holder[-1])
        layer = _text(group['/'.join(path[:-1])].attrs.get('name', holder[-1]))
        count = counts[path[:-1]]
        names = _NORM.get(count, ()) if kind == 'batch_normalization' else ()
        names = names or _VARIABLES.get(kind, ('kernel', 'bias'))
        if int(index) >= len(names):
            raise UserError(f'layer {layer} ({kind}) has {count} tensors, at most {len(names)}')
        yield f'{layer}/{names[int(index)]}', dataset
