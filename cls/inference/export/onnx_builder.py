"""The nodes and constants of an ONNX graph while it is written, with the layout of each tensor.

Graphs of JAX are NHWC, the operators of ONNX are NCHW. Each tensor here keeps the order of its axes
in memory: convolutions and pools leave theirs, elementwise operators follow it, a transpose of JAX
only renames the axes, and a Transpose is written where an order is needed that a tensor has not.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cls.inference.export.graph import Value

_CHANNELS_FIRST = (0, 3, 1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A named tensor of ONNX.

    Attributes:
      name: its name in the graph.
      shape: the shape that the value has in JAX.
      stored: the same, with 1 where ONNX still has to broadcast an axis.
      order: the axes in memory: order[i] is the axis of `shape` at position i.
    """

    name: str
    shape: tuple[Any, ...]
    stored: tuple[Any, ...]
    order: tuple[int, ...]

    def positions(self, axes: Sequence[int]) -> list[int]:
        """Returns the positions in memory of axes."""
        return [self.order.index(axis) for axis in axes]


def plain(rank: int) -> tuple[int, ...]:
    """Returns the order of the axes in JAX."""
    return tuple(range(rank))


class Builder:
    """Collects nodes and constants; names them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._constant_names: dict[Any, str] = {}
        self._arranged: dict[Any, str] = {}
        self._batch = ''  # the name of the number of images, once it is needed

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node with one output; returns the name of the output."""
        name = f'{op.lower()}_{len(self.nodes)}'
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, name: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Adds a Split; returns the names of its parts, of these sizes along an axis."""
        own = f'split_{len(self.nodes)}'
        names = [f'{own}_{i}' for i in range(len(sizes))]
        inputs = [name, self.integers(sizes)]
        self.nodes.append(helper.make_node('Split', inputs, names, name=own, axis=axis))
        return names

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Adds a constant, a small one only once; returns its name."""
        array = np.ascontiguousarray(np.asarray(array, dtype)).reshape(np.shape(array))
        content = array.tobytes() if array.size < 256 else len(self.constants)
        key = (array.dtype.str, array.shape, content)
        if key not in self._constant_names:
            name = f'constant_{len(self.constants)}'
            self.constants.append(numpy_helper.from_array(array, name))
            self._constant_names[key] = name
        return self._constant_names[key]

    def integers(self, values: Sequence[int]) -> str:
        """Adds a constant of int64; returns its name."""
        return self.constant(np.asarray(values, np.int64))

    def arranged(self, x: Tensor, order: Sequence[int]) -> str:
        """Returns the name of a tensor with its axes in an order, after a Transpose if needed."""
        order = tuple(order)
        if x.order == order:
            return x.name
        key = (x.name, order)
        if key not in self._arranged:
            self._arranged[key] = self._moved(x, order)
        return self._arranged[key]

    def _moved(self, x: Tensor, order: tuple[int, ...]) -> str:
        wide = [[axis for axis in each if _is_wide(x.stored[axis])] for each in (x.order, order)]
        if wide[0] == wide[1]:  # only axes of length 1 move
            return self.reshaped(x.name, [x.stored[axis] for axis in order])
        return self.node('Transpose', [x.name], perm=x.positions(order))

    def reshaped(self, name: str, sizes: Sequence[Any]) -> str:
        """Returns the name of a tensor after a Reshape to sizes, of which one may be symbolic."""
        numbers = [n if isinstance(n, int) else -1 for n in sizes]
        assert numbers.count(-1) <= 1, sizes
        return self.node('Reshape', [name, self.integers(numbers)])

    def materialized(self, x: Tensor, images: str) -> Tensor:
        """Returns a tensor that is stored in its full shape, after an Expand if needed.

        Args:
          x: the tensor.
          images: the name of the input of the graph, for the number of images.
        """
        if x.stored == x.shape:
            return x
        sizes = [
            1
            if x.stored[axis] is x.shape[axis] or x.stored[axis] == x.shape[axis]
            else x.shape[axis]
            for axis in x.order
        ]
        if all(isinstance(n, int) for n in sizes):
            shape = self.integers(sizes)
        else:
            if not self._batch:
                self._batch = self.node('Shape', [images], start=0, end=1)
            parts = [self.integers([n]) if isinstance(n, int) else self._batch for n in sizes]
            shape = self.node('Concat', parts, axis=0)
        return Tensor(self.node('Expand', [x.name, shape]), x.shape, x.shape, x.order)

    def reshape(self, x: Tensor, shape: tuple[Any, ...]) -> Tensor:
        """Returns a tensor in another shape, with as few moved axes as possible.

        Args:
          x: the tensor, stored in its full shape.
          shape: the new shape in JAX.
        """
        groups = matched(x.shape, shape)
        with_old = [(old, new) for old, new in groups if old]
        with_old.sort(key=lambda group: min(x.positions(group[0])))
        before = [axis for old, _ in with_old for axis in old]
        kept = [axis for _, new in with_old for axis in new]
        order = placed(kept, len(shape))
        name = self.arranged(x, before)
        name = self.reshaped(name, [shape[axis] for axis in order])
        return Tensor(name, shape, shape, order)


def _is_wide(size: Any) -> bool:
    return not isinstance(size, int) or size != 1


def placed(kept: Sequence[int], rank: int) -> tuple[int, ...]:
    """Returns an order of all axes that keeps the order of some; the new ones have length 1."""
    for order in (_CHANNELS_FIRST, plain(rank)):
        if len(order) == rank and [axis for axis in order if axis in kept] == list(kept):
            return order
    return (*kept, *(axis for axis in range(rank) if axis not in kept))


def matched(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest groups of axes, in their order, between which a reshape moves elements.

    (4, 6, 5) and (2, 2, 30) give ([0], [0, 1]), ([1, 2], [2]).
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if j == len(new) or (i < len(old) and old[i] == 1 and new[j] != 1):
            groups.append(([i], []))
            i += 1
            continue
        if i == len(old) or (new[j] == 1 and old[i] != 1):
            groups.append(([], [j]))
            j += 1
            continue
        group = ([i], [j])
        sizes = [old[i], new[j]]
        i, j = i + 1, j + 1
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                sizes[0] = sizes[0] * old[i]
                group[0].append(i)
                i += 1
            else:
                sizes[1] = sizes[1] * new[j]
                group[1].append(j)
                j += 1
        groups.append(group)
    return groups


def as_tensor(name: str, value: Value, order: Sequence[int]) -> Tensor:
    """Returns the tensor that a node wrote for a value, in its full shape."""
    return Tensor(name, value.shape, value.shape, tuple(order))
