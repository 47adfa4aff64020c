"""ONNX operators for the primitives of inference graphs.

Each function of OPERATORS writes one primitive, and perhaps the next one with it: a convolution and
its bias, a sum and the division that makes it a mean. A primitive without a function is refused.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from cls.errors import UserError
from cls.inference.export.graph import Node, Value
from cls.inference.export.onnx_builder import Tensor, as_tensor, placed
from cls.inference.export.onnx_layers import conv, dot, max_pool, reduce, sum_pool
from cls.inference.export.onnx_writer import Writer, elementwise, same, scalar


def _unary(op: str, **attributes: Any) -> Callable[[Writer, Node], None]:
    def write_node(write: Writer, node: Node) -> None:
        x, out = write.tensor(node.inputs[0]), node.outputs[0]
        name = write.builder.node(op, [x.name], **attributes)
        write.put(out, Tensor(name, out.shape, x.stored, x.order))

    return write_node


def _binary(op: str) -> Callable[[Writer, Node], None]:
    return functools.partial(elementwise, op=op)


def _add(write: Writer, node: Node) -> None:
    """Writes HardSigmoid for min(max(x + 3, 0), 6) / 6, Add otherwise."""
    value, chain = node.outputs[0], []
    for op, number in (('add', 3), ('max', 0), ('min', 6), ('div', 6)):
        user = node if op == 'add' else write.only_user(value, op)
        if user is None or number not in map(scalar, user.inputs):
            return elementwise(write, node, 'Add')
        value, chain = user.outputs[0], [*chain, user]
    x, last = next(x for x in node.inputs if isinstance(x, Value)), chain[-1]
    for user in chain[1:]:
        value = write.finish(user)
    tensor = write.tensor(x)
    name = write.builder.node('HardSigmoid', [tensor.name], alpha=1 / 6, beta=0.5)
    return write.put(last.outputs[0], Tensor(name, value.shape, tensor.stored, tensor.order))


def _max(write: Writer, node: Node) -> None:
    """Writes Relu or Clip for a maximum with 0, and the minimum after it."""
    numbers = [scalar(x) for x in node.inputs]
    x = next((x for x in node.inputs if isinstance(x, Value)), None)
    if x is None or 0 not in numbers:
        return elementwise(write, node, 'Max')
    tensor, out = write.tensor(x), node.outputs[0]
    limit = write.only_user(out, 'min')
    top = next((n for n in map(scalar, limit.inputs) if n is not None), None) if limit else None
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
    elementwise(write, inner, 'Max')
    elementwise(write, node, 'Min', (inner.outputs[0], high))


def _cast(write: Writer, node: Node) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(node.params['new_dtype']))
    _unary('Cast', to=kind)(write, node)


def _power(write: Writer, node: Node) -> None:
    exponent = np.asarray(node.params['y'], np.float32)
    elementwise(write, node, 'Pow', (node.inputs[0], exponent))


def _square(write: Writer, node: Node) -> None:
    elementwise(write, node, 'Mul', (node.inputs[0], node.inputs[0]))


def _rsqrt(write: Writer, node: Node) -> None:
    x, out = write.tensor(node.inputs[0]), node.outputs[0]
    name = write.builder.node('Reciprocal', [write.builder.node('Sqrt', [x.name])])
    write.put(out, Tensor(name, out.shape, x.stored, x.order))


def _select(write: Writer, node: Node) -> None:
    which, no, yes = node.inputs
    elementwise(write, node, 'Where', (which, yes, no))


def _scale_and_shift(write: Writer, node: Node) -> None:
    """Writes x * factor + shift; as a batch normalization for images."""
    x, *numbers = node.inputs
    if not all(isinstance(n, np.ndarray) for n in numbers) or not isinstance(x, Value):
        raise UserError('a batch norm depends on the images: expected fixed statistics.')
    rank = len(x.shape)
    if len(numbers) == 1:
        return elementwise(write, node, 'Add', (x, _last_axis(numbers[0], rank)))
    if rank == 4:
        factor, shift = numbers
        order = (0, 3, 1, 2)
        rest = [np.zeros_like(factor), np.ones_like(factor)]
        names = [write.builder.constant(n) for n in (factor, shift, *rest)]
        source = write.arranged(x, order)
        name = write.builder.node('BatchNormalization', [source, *names], epsilon=0.0)
        return write.result(node, name, order)
    scaled = Node('mul', (x,), (Value(x.shape, x.dtype),), {}, node.compute)
    elementwise(write, scaled, 'Mul', (x, _last_axis(numbers[0], rank)))
    return elementwise(write, node, 'Add', (scaled.outputs[0], _last_axis(numbers[1], rank)))


def _last_axis(array: Any, rank: int) -> np.ndarray:
    return np.asarray(array).reshape(*(1,) * (rank - 1), -1)


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
    write.put(out, Tensor(x.name, out.shape, same(stored, out.shape), tuple(order)))


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
    write.put(out, Tensor(name, out.shape, same(stored, out.shape), tuple(order)))


def _concatenate(write: Writer, node: Node) -> None:
    tensors = [write.full(x) for x in node.inputs]
    orders = [
        x.order for x, own in zip(tensors, node.inputs, strict=True) if isinstance(own, Value)
    ]
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
    'conv_general_dilated': conv,
    'convert_element_type': _cast,
    'div': _binary('Div'),
    'dot_general': dot,
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
    'reduce_max': reduce('ReduceMax'),
    'reduce_min': reduce('ReduceMin'),
    'reduce_sum': reduce('ReduceSum'),
    'reduce_window_max': max_pool,
    'reduce_window_sum': sum_pool,
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
