"""ONNX operators of layers: convolutions, pools, reductions, matrix products."""

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.inference.export.graph import Node, Value
from cls.inference.export.onnx_builder import as_tensor, plain
from cls.inference.export.onnx_writer import Writer, elementwise, kept, scalar
from cls.nn.folding import SCALE_AND_SHIFT


def _bias(write: Writer, out: Value, channels: int) -> tuple[np.ndarray | None, Value]:
    """Returns the bias that is added to a layer's output next, and the value after it."""
    user = write.only_user(out, 'add', SCALE_AND_SHIFT)
    if user is None or len(user.inputs) != 2:
        return None, out
    arrays = [x for x in user.inputs if isinstance(x, np.ndarray)]
    if len(arrays) != 1 or arrays[0].shape[-1:] != (channels,) or arrays[0].size != channels:
        return None, out
    return arrays[0].reshape(-1), write.finish(user)


def conv(write: Writer, node: Node) -> None:
    """Writes Conv, with the bias that follows."""
    params, (images, kernel) = node.params, node.inputs
    numbers = params['dimension_numbers']
    if params['batch_group_count'] != 1 or any(n != 1 for n in params['lhs_dilation']):
        raise UserError('a transposed convolution has no ONNX operator here.')
    source = write.arranged(images, numbers.lhs_spec)
    pads = params['padding']
    source, pads = _cropped(write, source, pads)
    weights = write.arranged(kernel, numbers.rhs_spec)
    window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    bias, out = _bias(write, node.outputs[0], node.outputs[0].shape[numbers.out_spec[1]])
    inputs = [source, weights] if bias is None else [source, weights, write.builder.constant(bias)]
    name = write.builder.node(
        'Conv',
        inputs,
        kernel_shape=window,
        strides=list(params['window_strides']),
        pads=[low for low, _ in pads] + [high for _, high in pads],
        dilations=list(params['rhs_dilation']),
        group=params['feature_group_count'],
    )
    write.put(out, as_tensor(name, out, numbers.out_spec))


def _cropped(write: Writer, name: str, pads: Sequence[tuple[int, int]]) -> tuple[str, Any]:
    """Returns images (N, C, ...) without the pixels that negative pads crop, and the other pads."""
    if all(n >= 0 for pad in pads for n in pad):
        return name, pads
    starts = [max(-low, 0) for low, _ in pads]
    ends = [min(high, 0) or np.iinfo(np.int64).max for _, high in pads]
    axes = range(2, 2 + len(pads))
    lists = [write.builder.integers(list(x)) for x in (starts, ends, axes)]
    name = write.builder.node('Slice', [name, *lists])
    return name, [(max(low, 0), max(high, 0)) for low, high in pads]


def _pooled(write: Writer, node: Node, value: float) -> tuple[str, dict[str, Any]]:
    """Returns the name of the images of a pool, padded if needed, and its attributes."""
    params = node.params
    window, strides = params['window_dimensions'], params['window_strides']
    pads, dilation = params['padding'], params['window_dilation']
    if (window[0], window[3]) != (1, 1) or any(n != 1 for n in params['base_dilation']):
        raise UserError('a pool over channels or examples has no ONNX operator here.')
    name = write.arranged(node.inputs[0], (0, 3, 1, 2))
    name, inner = _cropped(write, name, pads[1:3])
    if any(n >= k for pad, k in zip(inner, window[1:3], strict=True) for n in pad):
        sizes = [0, 0, *(low for low, _ in inner), 0, 0, *(high for _, high in inner)]
        fill = write.builder.constant(np.float32(value))
        name = write.builder.node('Pad', [name, write.builder.integers(sizes), fill])
        inner = [(0, 0), (0, 0)]
    attributes = {
        'kernel_shape': list(window[1:3]),
        'strides': list(strides[1:3]),
        'pads': [low for low, _ in inner] + [high for _, high in inner],
    }
    if any(n != 1 for n in dilation):
        attributes['dilations'] = list(dilation[1:3])
    return name, attributes


def max_pool(write: Writer, node: Node) -> None:
    """Writes MaxPool."""
    name, attributes = _pooled(write, node, -np.inf)
    write.result(node, write.builder.node('MaxPool', [name], **attributes), (0, 3, 1, 2))


def sum_pool(write: Writer, node: Node) -> None:
    """Writes sums over windows as means, with the division that follows them."""
    name, attributes = _pooled(write, node, 0.0)
    if 'dilations' in attributes:
        raise UserError('a dilated sum over windows has no ONNX operator here.')
    out, area = node.outputs[0], math.prod(attributes['kernel_shape'])
    user = write.only_user(out, 'div')
    factor = np.float32(area)
    if user is not None and isinstance(user.inputs[1], np.ndarray):
        out = write.finish(user)
        factor = np.float32(area) / user.inputs[1]
    name = write.builder.node('AveragePool', [name], count_include_pad=1, **attributes)
    if np.all(factor == 1):
        write.put(out, as_tensor(name, out, (0, 3, 1, 2)))
        return
    inner = Value(out.shape, out.dtype)
    write.put(inner, as_tensor(name, inner, (0, 3, 1, 2)))
    product = Node('mul', (inner, np.asarray(factor, np.float32)), (out,), {}, node.compute)
    elementwise(write, product, 'Mul')


def reduce(op: str) -> Callable[[Writer, Node], None]:
    """Returns the function that writes a reduction, or the mean that it is a part of."""

    def write_node(write: Writer, node: Node) -> None:
        x, out = write.full(node.inputs[0]), node.outputs[0]
        axes = node.params['axes']
        # A mean is a sum, perhaps a broadcast that keeps its axes, and a division.
        kept = write.only_user(out, 'broadcast_in_dim', 'reshape')
        division = write.only_user(kept.outputs[0] if kept else out, 'div')
        count = scalar(division.inputs[1]) if division is not None else None
        sizes = [x.shape[axis] for axis in axes]
        static = all(isinstance(n, int) for n in sizes)
        mean = op == 'ReduceSum' and static and count == math.prod(sizes)
        kind = 'ReduceMean' if mean else op
        positions = write.builder.integers(sorted(x.positions(axes)))
        name = write.builder.node(kind, [x.name, positions], keepdims=0)
        rest = [axis for axis in x.order if axis not in axes]
        order = [sorted(rest).index(axis) for axis in rest]
        write.put(out, as_tensor(name, out, order))
        if mean and division is not None:
            if kept is not None:
                write.finish(kept)
                write.apply(kept)
            write.put(write.finish(division), write.tensor(kept.outputs[0] if kept else out))

    return write_node


def dot(write: Writer, node: Node) -> None:
    """Writes Gemm for a matrix product with a constant, Einsum for all others."""
    (one, other), out = node.inputs, node.outputs[0]
    (left, right), (left_batch, right_batch) = node.params['dimension_numbers']
    simple = not left_batch and len(one.shape) == len(other.shape) == 2 and len(left) == 1
    if simple and isinstance(one, Value) and isinstance(other, np.ndarray):
        matrix = other if tuple(right) == (0,) else other.T
        source = write.arranged(one, (1 - left[0], left[0]))
        bias, out = _bias(write, out, matrix.shape[1])
        inputs = [source, write.builder.constant(kept(matrix))]
        inputs += [] if bias is None else [write.builder.constant(bias)]
        name = write.builder.node('Gemm', inputs)
        return write.put(out, as_tensor(name, out, (0, 1)))
    letters = iter(string.ascii_letters)
    first = {axis: next(letters) for axis in range(len(one.shape))}
    pairs = zip((*left, *left_batch), (*right, *right_batch), strict=True)
    second = {b: first[a] for a, b in pairs}
    second |= {axis: next(letters) for axis in range(len(other.shape)) if axis not in second}
    free = [
        *(first[axis] for axis in left_batch),
        *(first[axis] for axis in range(len(one.shape)) if axis not in (*left, *left_batch)),
        *(second[axis] for axis in range(len(other.shape)) if axis not in (*right, *right_batch)),
    ]
    tensors = [write.full(one), write.full(other)]
    letters_of = zip((first, second), tensors, strict=True)
    terms = [''.join(names[axis] for axis in x.order) for names, x in letters_of]
    equation = f'{",".join(terms)}->{"".join(free)}'
    name = write.builder.node('Einsum', [x.name for x in tensors], equation=equation)
    return write.result(node, name, plain(len(out.shape)))
