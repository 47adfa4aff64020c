"""ONNX operators for the primitives of inference graphs.

Each function of OPERATORS writes one primitive, and perhaps the next one with it: a convolution and
its bias, a sum and the division that makes it a mean. A primitive without a function is refused.
"""

import functools
import math
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from cls.errors import UserError
from cls.inference.export.graph import SCALE_AND_SHIFT, Graph, Node, Operand, Value
from cls.inference.export.onnx_builder import Builder, Tensor, as_tensor, placed, plain


class Writer:
    """Writes a graph of primitives to a builder."""

    def __init__(self, graph: Graph, builder: Builder, name: str) -> None:
        """Begins a graph whose input has a name."""
        self.graph, self.builder, self.images = graph, builder, name
        self._tensors = {
            id(graph.input): as_tensor(name, graph.input, plain(len(graph.input.shape)))
        }
        self._uses = Counter(id(x) for node in graph.nodes for x in node.inputs)
        self._uses[id(graph.output)] += 1
        self._user = {id(x): node for node in graph.nodes for x in node.inputs}
        self._done: set[int] = set()

    def write(self) -> str:
        """Returns the name of the output, after all nodes. Raises UserError for a primitive."""
        for node in self.graph.nodes:
            if id(node) in self._done:
                continue
            if node.op not in OPERATORS:
                raise UserError(
                    f'the primitive {node.op!r} of this model has no ONNX operator here: export it '
                    'with --format stablehlo.'
                )
            OPERATORS[node.op](self, node)
        out = self.builder.materialized(self._tensors[id(self.graph.output)], self.images)
        return self.builder.arranged(out, plain(len(out.shape)))

    def tensor(self, x: Operand) -> Tensor:
        """Returns the tensor of an operand; a constant is added in its own order."""
        if isinstance(x, np.ndarray):
            return Tensor(self.builder.constant(x), x.shape, x.shape, plain(x.ndim))
        return self._tensors[id(x)]

    def full(self, x: Operand) -> Tensor:
        """Returns the tensor of an operand in its full shape."""
        out = self.builder.materialized(self.tensor(x), self.images)
        if isinstance(x, Value):
            self._tensors[id(x)] = out
        return out

    def put(self, value: Value, tensor: Tensor) -> None:
        """Stores the tensor of a value."""
        self._tensors[id(value)] = tensor

    def result(self, node: Node, name: str, order: Sequence[int]) -> None:
        """Stores the name of the only output of a node, in its full shape."""
        self.put(node.outputs[0], as_tensor(name, node.outputs[0], order))

    def only_user(self, value: Value, *ops: str) -> Node | None:
        """Returns the only node that uses a value, if it is one of some primitives."""
        user = self._user.get(id(value)) if self._uses[id(value)] == 1 else None
        return user if user is not None and user.op in ops else None

    def finish(self, node: Node) -> Value:
        """Marks a node as written with the one before; returns its output."""
        self._done.add(id(node))
        return node.outputs[0]

    def arranged(self, x: Operand, order: Sequence[int]) -> str:
        """Returns the name of an operand in full shape with its axes in an order."""
        if isinstance(x, np.ndarray):
            return self.builder.constant(_kept(x.transpose(order)))
        return self.builder.arranged(self.full(x), order)


def _kept(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)


def _scalar(x: Operand) -> float | None:
    """Returns the number of a constant with one value, None for others."""
    if isinstance(x, np.ndarray) and x.size and (x.size == 1 or (x == x.flat[0]).all()):
        return x.flat[0].item()
    return None


# ---------------------------------------------------------------------------------- elementwise


def _elementwise(
    write: Writer, node: Node, op: str, inputs: Sequence[Operand] | None = None
) -> None:
    """Writes an operator that broadcasts; constants and axes follow the first full operand."""
    inputs = node.inputs if inputs is None else inputs
    values = [write.tensor(x) for x in inputs if isinstance(x, Value)]
    rank = len(node.outputs[0].shape)
    ranked = [x for x in values if len(x.shape) == rank]
    stored_fully = [x for x in ranked if x.stored == x.shape]
    order = (stored_fully or ranked)[0].order if ranked else plain(rank)
    names, stored = [], [1] * rank
    for x in inputs:
        if isinstance(x, np.ndarray):
            sizes = x.shape
            names.append(write.builder.constant(_kept(x.transpose(order)) if x.ndim else x))
        else:
            tensor = write.tensor(x)
            sizes = tensor.stored
            names.append(write.builder.arranged(tensor, order) if tensor.shape else tensor.name)
        if len(sizes) == rank:
            pairs = zip(stored, sizes, strict=True)
            stored = [n if isinstance(m, int) and m == 1 else m for m, n in pairs]
    name = write.builder.node(op, names)
    out = node.outputs[0]
    write.put(out, Tensor(name, out.shape, _same(stored, out.shape), order))


def _same(stored: Sequence[Any], shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns `shape` itself where nothing is left to broadcast."""
    return shape if all(m == n for m, n in zip(stored, shape, strict=True)) else tuple(stored)


def _unary(op: str, **attributes: Any) -> Callable[[Writer, Node], None]:
    def write_node(write: Writer, node: Node) -> None:
        x, out = write.tensor(node.inputs[0]), node.outputs[0]
        name = write.builder.node(op, [x.name], **attributes)
        write.put(out, Tensor(name, out.shape, x.stored, x.order))

    return write_node


def _binary(op: str) -> Callable[[Writer, Node], None]:
    return functools.partial(_elementwise, op=op)


def _add(write: Writer, node: Node) -> None:
    """Writes HardSigmoid for min(max(x + 3, 0), 6) / 6, Add otherwise."""
    value, last = node.outputs[0], node
    for op, number in (('add', 3), ('max', 0), ('min', 6), ('div', 6)):
        user = node if op == 'add' else write.only_user(value, op)
        if user is None or number not in map(_scalar, user.inputs):
            return _elementwise(write, node, 'Add')
        value, last = user.outputs[0], user
    x = next(x for x in node.inputs if isinstance(x, Value))
    for op in ('max', 'min', 'div'):
        value = write.finish(write.only_user(node.outputs[0] if op == 'max' else value, op))
    tensor = write.tensor(x)
    name = write.builder.node('HardSigmoid', [tensor.name], alpha=1 / 6, beta=0.5)
    return write.put(last.outputs[0], Tensor(name, value.shape, tensor.stored, tensor.order))


def _max(write: Writer, node: Node) -> None:
    """Writes Relu or Clip for a maximum with 0, and the minimum after it."""
    numbers = [_scalar(x) for x in node.inputs]
    x = next((x for x in node.inputs if isinstance(x, Value)), None)
    if x is None or 0 not in numbers:
        return _elementwise(write, node, 'Max')
    tensor, out = write.tensor(x), node.outputs[0]
    limit = write.only_user(out, 'min')
    top = next((n for n in map(_scalar, limit.inputs) if n is not None), None) if limit else None
    if limit and top is not None:
        out = write.finish(limit)
        bounds = [write.builder.constant(np.asarray(n, x.dtype)) for n in (0, top)]
        name = write.builder.node('Clip', [tensor.name, *bounds])
    else:
        name = write.builder.node('Relu', [tensor.name])
    return write.put(out, Tensor(name, out.shape, tensor.stored, tensor.order))


def _clamp(write: Writer, node: Node) -> None:
    low, x, high = node.inputs
    inner = Node(
        'max', (x, low), (Value(node.outputs[0].shape, node.outputs[0].dtype),), {}, node.compute
    )
    _elementwise(write, inner, 'Max')
    _elementwise(write, node, 'Min', (inner.outputs[0], high))


def _cast(write: Writer, node: Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(node.params['new_dtype']))
    _unary('Cast', to=kind)(write, node)


def _power(write: Writer, node: Node) -> None:
    exponent = np.asarray(node.params['y'], np.float32)
    _elementwise(write, node, 'Pow', (node.inputs[0], exponent))


def _square(write: Writer, node: Node) -> None:
    _elementwise(write, node, 'Mul', (node.inputs[0], node.inputs[0]))


def _rsqrt(write: Writer, node: Node) -> None:
    x, out = write.tensor(node.inputs[0]), node.outputs[0]
    name = write.builder.node('Reciprocal', [write.builder.node('Sqrt', [x.name])])
    write.put(out, Tensor(name, out.shape, x.stored, x.order))


def _select(write: Writer, node: Node) -> None:
    which, no, yes = node.inputs
    _elementwise(write, node, 'Where', (which, yes, no))


def _scale_and_shift(write: Writer, node: Node) -> None:
    """Writes x * factor + shift; as a batch normalization for images."""
    x, *numbers = node.inputs
    if not all(isinstance(n, np.ndarray) for n in numbers) or not isinstance(x, Value):
        raise UserError('a batch norm depends on the images: expected fixed statistics.')
    rank = len(x.shape)
    if len(numbers) == 1:
        return _elementwise(write, node, 'Add', (x, _last_axis(numbers[0], rank)))
    if rank == 4:
        factor, shift = numbers
        order = (0, 3, 1, 2)
        rest = [np.zeros_like(factor), np.ones_like(factor)]
        names = [write.builder.constant(n) for n in (factor, shift, *rest)]
        source = write.arranged(x, order)
        name = write.builder.node('BatchNormalization', [source, *names], epsilon=0.0)
        return write.result(node, name, order)
    scaled = Node('mul', (x,), (Value(x.shape, x.dtype),), {}, node.compute)
    _elementwise(write, scaled, 'Mul', (x, _last_axis(numbers[0], rank)))
    return _elementwise(write, node, 'Add', (scaled.outputs[0], _last_axis(numbers[1], rank)))


def _last_axis(array: Any, rank: int) -> np.ndarray:
    return np.asarray(array).reshape(*(1,) * (rank - 1), -1)


# ------------------------------------------------------------------------------ layers of images


def _bias(write: Writer, out: Value, channels: int) -> tuple[np.ndarray | None, Value]:
    """Returns the bias that is added to a layer's output next, and the value after it."""
    user = write.only_user(out, 'add', SCALE_AND_SHIFT)
    if user is None or len(user.inputs) != 2:
        return None, out
    arrays = [x for x in user.inputs if isinstance(x, np.ndarray)]
    if len(arrays) != 1 or arrays[0].shape[-1:] != (channels,) or arrays[0].size != channels:
        return None, out
    return arrays[0].reshape(-1), write.finish(user)


def _conv(write: Writer, node: Node) -> None:
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


def _max_pool(write: Writer, node: Node) -> None:
    name, attributes = _pooled(write, node, -np.inf)
    write.result(node, write.builder.node('MaxPool', [name], **attributes), (0, 3, 1, 2))


def _sum_pool(write: Writer, node: Node) -> None:
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
    _elementwise(write, product, 'Mul')


def _reduce(op: str) -> Callable[[Writer, Node], None]:
    def write_node(write: Writer, node: Node) -> None:
        x, out = write.full(node.inputs[0]), node.outputs[0]
        axes = node.params['axes']
        # A mean is a sum, perhaps a broadcast that keeps its axes, and a division.
        kept = write.only_user(out, 'broadcast_in_dim', 'reshape')
        division = write.only_user(kept.outputs[0] if kept else out, 'div')
        count = _scalar(division.inputs[1]) if division is not None else None
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
                OPERATORS[kept.op](write, kept)
            write.put(write.finish(division), write.tensor(kept.outputs[0] if kept else out))

    return write_node


def _dot(write: Writer, node: Node) -> None:
    """Writes Gemm for a matrix product with a constant, Einsum for all others."""
    (one, other), out = node.inputs, node.outputs[0]
    (left, right), (left_batch, right_batch) = node.params['dimension_numbers']
    simple = not left_batch and len(one.shape) == 2 and isinstance(other, np.ndarray)
    if simple and other.ndim == 2 and len(left) == 1 and isinstance(one, Value):
        matrix = other if tuple(right) == (0,) else other.T
        source = write.arranged(one, (1 - left[0], left[0]))
        bias, out = _bias(write, out, matrix.shape[1])
        inputs = [source, write.builder.constant(_kept(matrix))]
        inputs += [] if bias is None else [write.builder.constant(bias)]
        name = write.builder.node('Gemm', inputs)
        return write.put(out, as_tensor(name, out, (0, 1)))
    letters = iter(string.ascii_letters)
    first = {axis: next(letters) for axis in range(len(one.shape))}
    second = {b: first[a] for a, b in (*zip(left, right), *zip(left_batch, right_batch))}
    second |= {axis: next(letters) for axis in range(len(other.shape)) if axis not in second}
    free = [
        *(first[axis] for axis in left_batch),
        *(first[axis] for axis in range(len(one.shape)) if axis not in (*left, *left_batch)),
        *(second[axis] for axis in range(len(other.shape)) if axis not in (*right, *right_batch)),
    ]
    tensors = [write.full(one), write.full(other)]
    terms = [''.join(names[axis] for axis in x.order) for names, x in zip((first, second), tensors)]
    equation = f'{",".join(terms)}->{"".join(free)}'
    name = write.builder.node('Einsum', [x.name for x in tensors], equation=equation)
    return write.result(node, name, plain(len(out.shape)))


# --------------------------------------------------------------------------------------- shapes


def _reshape(write: Writer, node: Node) -> None:
    if node.params.get('dimensions') is not None and node.op == 'reshape':
        raise UserError('a reshape with an order of its own has no ONNX operator here.')
    x = write.full(node.inputs[0])
    write.put(node.outputs[0], write.builder.reshape(x, node.outputs[0].shape))


def _transpose(write: Writer, node: Node) -> None:
    x, permutation = write.tensor(node.inputs[0]), node.params['permutation']
    order = [permutation.index(axis) for axis in x.order]
    stored = tuple(x.stored[axis] for axis in permutation)
    out = node.outputs[0]
    write.put(out, Tensor(x.name, out.shape, _same(stored, out.shape), tuple(order)))


def _broadcast(write: Writer, node: Node) -> None:
    """Writes a Reshape that adds axes of length 1, and leaves it to operators to broadcast them."""
    x, out = write.tensor(node.inputs[0]), node.outputs[0]
    axes = node.params['broadcast_dimensions']
    stored: list[Any] = [1] * len(out.shape)
    for axis, size in zip(axes, x.stored, strict=True):
        stored[axis] = size
    new = [axis for axis in range(len(out.shape)) if axis not in axes]
    name, order = x.name, [axes[axis] for axis in x.order]
    if new:
        order = placed(order, len(out.shape))
        name = write.builder.reshaped(name, [stored[axis] for axis in order])
    write.put(out, Tensor(name, out.shape, _same(stored, out.shape), tuple(order)))


def _concatenate(write: Writer, node: Node) -> None:
    tensors = [write.full(x) for x in node.inputs]
    orders = [x.order for x, own in zip(tensors, node.inputs) if isinstance(own, Value)]
    order = Counter(orders).most_common(1)[0][0]
    names = [write.arranged(x, order) for x in node.inputs]
    axis = order.index(node.params['dimension'])
    write.result(node, write.builder.node('Concat', names, axis=axis), order)


def _pad(write: Writer, node: Node) -> None:
    images, value = node.inputs
    x, config = write.full(images), node.params['padding_config']
    if any(between for _, _, between in config) or not isinstance(value, np.ndarray):
        raise UserError('a padding between pixels has no ONNX operator here.')
    name = x.name
    cut = [a for a, (low, high, _) in enumerate(config) if low < 0 or high < 0]
    if cut:
        starts = [max(-config[a][0], 0) for a in cut]
        ends = [min(config[a][1], 0) or np.iinfo(np.int64).max for a in cut]
        lists = [write.builder.integers(n) for n in (starts, ends, x.positions(cut))]
        name = write.builder.node('Slice', [name, *lists])
    pads = [max(config[a][side], 0) for side in (0, 1) for a in x.order]
    if any(pads):
        inputs = [name, write.builder.integers(pads), write.builder.constant(value)]
        name = write.builder.node('Pad', inputs)
    write.result(node, name, x.order)


def _slice(write: Writer, node: Node) -> None:
    x, params = write.full(node.inputs[0]), node.params
    starts, limits = params['start_indices'], params['limit_indices']
    strides = params['strides'] or (1,) * len(starts)
    axes = [
        a
        for a, size in enumerate(x.shape)
        if starts[a] != 0 or strides[a] != 1 or not (limits[a] is size or limits[a] == size)
    ]
    if not axes:
        return write.put(node.outputs[0], x)
    picked = [[numbers[a] for a in axes] for numbers in (starts, limits, strides)]
    lists = [write.builder.integers(n) for n in (*picked[:2], x.positions(axes), picked[2])]
    return write.result(node, write.builder.node('Slice', [x.name, *lists]), x.order)


def _split(write: Writer, node: Node) -> None:
    x = write.full(node.inputs[0])
    (axis,) = x.positions([node.params['axis']])
    names = write.builder.split(x.name, list(node.params['sizes']), axis)
    for name, out in zip(names, node.outputs, strict=True):
        write.put(out, as_tensor(name, out, x.order))


def _take(write: Writer, node: Node) -> None:
    x = write.full(node.inputs[0])
    (axis,) = x.positions([node.params['axis']])
    rows = write.builder.integers(node.params['rows'])
    write.result(node, write.builder.node('Gather', [x.name, rows], axis=axis), x.order)


OPERATORS: dict[str, Callable[[Writer, Node], None]] = {
    'abs': _unary('Abs'),
    'add': _add,
    'and': _binary('And'),
    'broadcast_in_dim': _broadcast,
    'clamp': _clamp,
    'concatenate': _concatenate,
    'conv_general_dilated': _conv,
    'convert_element_type': _cast,
    'div': _binary('Div'),
    'dot_general': _dot,
    'eq': _binary('Equal'),
    'erf': _unary('Erf'),
    'exp': _unary('Exp'),
    'ge': _binary('GreaterOrEqual'),
    'gt': _binary('Greater'),
    'integer_pow': _power,
    'le': _binary('LessOrEqual'),
    'log': _unary('Log'),
    'logistic': _unary('Sigmoid'),
    'lt': _binary('Less'),
    'max': _max,
    'min': _binary('Min'),
    'mul': _binary('Mul'),
    'neg': _unary('Neg'),
    'pad': _pad,
    'pow': _binary('Pow'),
    'reduce_max': _reduce('ReduceMax'),
    'reduce_min': _reduce('ReduceMin'),
    'reduce_sum': _reduce('ReduceSum'),
    'reduce_window_max': _max_pool,
    'reduce_window_sum': _sum_pool,
    'reshape': _reshape,
    'rsqrt': _rsqrt,
    'scale_and_shift': _scale_and_shift,
    'select_n': _select,
    'slice': _slice,
    'split': _split,
    'sqrt': _unary('Sqrt'),
    'square': _square,
    'squeeze': _reshape,
    'sub': _binary('Sub'),
    'take': _take,
    'tanh': _unary('Tanh'),
    'transpose': _transpose,
}
