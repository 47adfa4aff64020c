"""The state of an ONNX graph that is written: tensors of values, users of values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.inference.export.graph import Graph, Node, Operand, Value
from cls.inference.export.onnx_builder import Builder, Tensor, as_tensor, plain


class Writer:
    """Writes a graph of primitives to a builder."""

    def __init__(
        self, graph: Graph, builder: Builder, name: str, operators: Mapping[str, Any]
    ) -> None:
        """Begins a graph.

        Args:
          graph: the graph.
          builder: gets the nodes.
          name: of the input.
          operators: primitive -> function of (writer, node) that writes it.
        """
        self._operators = operators
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
            if node.op not in self._operators:
                raise UserError(
                    f'the primitive {node.op!r} of this model has no ONNX operator here: export it '
                    'with --format stablehlo.'
                )
            self.apply(node)
        out = self.builder.materialized(self._tensors[id(self.graph.output)], self.images)
        return self.builder.arranged(out, plain(len(out.shape)))

    def apply(self, node: Node) -> None:
        """Writes a node."""
        self._operators[node.op](self, node)

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
            return self.builder.constant(kept(x.transpose(order)))
        return self.builder.arranged(self.full(x), order)


def kept(array: np.ndarray) -> np.ndarray:
    """Returns an array, contiguous."""
    return np.ascontiguousarray(array)


def scalar(x: Operand) -> float | None:
    """Returns the number of a constant with one value, None for others."""
    if isinstance(x, np.ndarray) and x.size and (x.size == 1 or (x == x.flat[0]).all()):
        return x.flat[0].item()
    return None


def elementwise(
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
            names.append(write.builder.constant(kept(x.transpose(order)) if x.ndim else x))
        else:
            tensor = write.tensor(x)
            sizes = tensor.stored
            names.append(write.builder.arranged(tensor, order) if tensor.shape else tensor.name)
        if len(sizes) == rank:
            pairs = zip(stored, sizes, strict=True)
            stored = [n if isinstance(m, int) and m == 1 else m for m, n in pairs]
    name = write.builder.node(op, names)
    out = node.outputs[0]
    write.put(out, Tensor(name, out.shape, same(stored, out.shape), order))


def same(stored: Sequence[Any], shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns `shape` itself where nothing is left to broadcast."""
    return shape if all(m == n for m, n in zip(stored, shape, strict=True)) else tuple(stored)
