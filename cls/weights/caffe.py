"""The tensors of a `.caffemodel`, a protocol buffer, without Caffe.

Layers of convolutions and of inner products give LAYER.weight and LAYER.bias, in the axes that
torch has too. A BatchNorm layer stores sums of its statistics and their factor: LAYER.running_mean
and LAYER.running_var are the quotients. The Scale layer after it gives LAYER.weight and LAYER.bias.

The first convolution of Caffe's networks expects blue, green, red; see families/caffe.py.

Source: src/caffe/proto/caffe.proto, and layers/batch_norm_layer.cpp.
"""

import math
from collections.abc import Iterator

import numpy as np

from cls.errors import UserError
from cls.weights import protobuf

SUFFIX = '.caffemodel'
_NORM = 'BatchNorm'
_SUFFIXES = {
    'Convolution': ('weight', 'bias'),
    'InnerProduct': ('weight', 'bias'),
    'Deconvolution': ('weight', 'bias'),
    'Scale': ('weight', 'bias'),
    'Bias': ('bias',),
    'PReLU': ('weight',),
    # Of a branch of Caffe that SENet's authors and others train with.
    'DepthwiseConvolution': ('weight', 'bias'),
    'ConvolutionDepthwise': ('weight', 'bias'),
    'CuDNNBatchNorm': ('weight', 'bias', 'running_mean', 'running_var'),
}
# Numbers of the types of layers in files before 2014, see V1LayerParameter.
_NUMBERED = {4: 'Convolution', 14: 'InnerProduct', 39: 'Deconvolution'}


def load_caffe(data: memoryview) -> dict[str, np.ndarray]:
    """Returns LAYER.LEAF -> array.

    Raises:
      UserError: layers whose tensors have no known meaning, or no tensors at all.
      ValueError: a damaged file.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, kind, blobs in _layers(data):
        for leaf, value in _tensors(name, kind, blobs).items():
            key = f'{name}.{leaf}'
            if key in tensors:
                raise UserError(f'two layers have the name {name}')
            tensors[key] = value
    if not tensors:
        raise UserError(
            'a Caffe file without tensors; give the .caffemodel of a trained network, of Caffe '
            'since 2014'
        )
    return tensors


def _layers(data: memoryview) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    """Yields (name, type, tensors) of the layers with tensors."""
    for number, kind, layer in protobuf.fields(data):
        if number not in (2, 100) or kind != protobuf.BYTES or not isinstance(layer, memoryview):
            continue
        blobs = [_blob(blob) for blob in protobuf.messages(layer, 7 if number == 100 else 6)]
        if not blobs:
            continue
        if number == 100:
            yield protobuf.text(layer, 1), protobuf.text(layer, 2), blobs
        else:
            type_number = protobuf.number(layer, 5)
            kind_name = _NUMBERED.get(type_number, f'the number {type_number}')
            yield protobuf.text(layer, 4), kind_name, blobs


def _blob(data: memoryview) -> np.ndarray:
    """Returns the values of a tensor, after comparing their number with its shape."""
    shape = next(protobuf.messages(data, 7), None)
    sizes = (
        protobuf.integers(shape, 1)
        if shape is not None
        else [protobuf.number(data, field) for field in (1, 2, 3, 4)]
    )
    values = protobuf.floats(data, 5)
    if not values.size:
        values = protobuf.floats(data, 8, '<f8')
    if min(sizes, default=0) < 0 or math.prod(sizes) != values.size:
        raise ValueError(f'{values.size} numbers for the shape {tuple(sizes)}')
    return values.reshape(sizes)


def _tensors(name: str, kind: str, blobs: list[np.ndarray]) -> dict[str, np.ndarray]:
    if kind == _NORM:
        return _statistics(name, blobs)
    suffixes = _SUFFIXES.get(kind, ())
    if len(blobs) > len(suffixes):
        raise UserError(
            f'layer {name} of the type {kind} has {len(blobs)} tensors, expected at most '
            f'{len(suffixes)}; types with tensors are {", ".join((_NORM, *_SUFFIXES))}'
        )
    tensors = dict(zip(suffixes, blobs, strict=False))
    for leaf, value in tensors.items():
        if leaf != 'weight' or kind != 'InnerProduct':
            convolution = leaf == 'weight' and value.ndim == 4 and kind.endswith('volution')
            tensors[leaf] = value if convolution else value.reshape(-1)
        elif value.ndim == 4:  # before 2014
            tensors[leaf] = value.reshape(value.shape[-2:])
    return tensors


def _statistics(name: str, blobs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the mean and variance of a BatchNorm layer: sums divided by their factor."""
    if len(blobs) != 3 or blobs[2].size != 1:
        raise UserError(
            f'layer {name} of the type {_NORM} has {len(blobs)} tensors, expected a mean, a '
            'variance and their factor'
        )
    factor = float(blobs[2].reshape(()))
    scale = np.float32(1 / factor if factor else 0)
    return {
        'running_mean': blobs[0].reshape(-1) * scale,
        'running_var': blobs[1].reshape(-1) * scale,
    }
