"""Batch norms folded into the convolutions and matrix products before them."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cls.inference.export.graph import Node, Value
from cls.nn.folding import SCALE_AND_SHIFT


def scaled_and_shifted(x: Any, factor: Any, shift: Any) -> list[Any]:
    """Returns the result of the primitive `scale_and_shift`."""
    return [x * factor + shift]


def _shifted(x: Any, shift: Any) -> list[Any]:
    return [x + shift]


def folded(nodes: Sequence[Node], output: Value) -> Iterator[Node]:
    """Yields nodes with each scale and shift folded into the node before it, where that may be.

    A convolution and a matrix product take the factor into their kernel. The shift remains, and is
    the bias of the format.
    """
    uses = collections.Counter(id(x) for node in nodes for x in node.inputs)
    uses[id(output)] += 1
    makers: dict[int, Node] = {}
    result: list[Node] = []

    def emit(node: Node) -> None:
        makers.update((id(x), node) for x in node.outputs)
        result.append(node)

    def drop(node: Node) -> None:
        result.remove(node)

    for node in nodes:
        if node.op != SCALE_AND_SHIFT:
            emit(node)
            continue
        x, factor, shift = node.inputs
        before = makers.get(id(x)) if uses[id(x)] == 1 else None
        if not (isinstance(factor, np.ndarray) and isinstance(shift, np.ndarray)):
            before = None
        if before is not None and before.op == SCALE_AND_SHIFT:
            drop(before)
            x = before.inputs[0]
            numbers: list[Any] = list(before.inputs[1:])
            earlier, moved = (numbers[0], numbers[1]) if len(numbers) == 2 else (1, numbers[0])
            factor, shift = earlier * np.asarray(factor), moved * np.asarray(factor) + shift
            before = makers.get(id(x))
        kernel = _scalable_kernel(before)
        if before is not None and kernel is not None:
            drop(before)
            scaled = dataclasses.replace(before, inputs=(before.inputs[0], kernel * factor))
            emit(scaled)
            emit(dataclasses.replace(node, inputs=(x, shift), compute=_shifted))
        else:
            emit(dataclasses.replace(node, inputs=(x, factor, shift)))
    return iter(result)


def _scalable_kernel(node: Node | None) -> np.ndarray | None:
    """Returns the kernel of a node whose outputs can be scaled by it, None for others."""
    if node is None or len(node.inputs) != 2 or not isinstance(node.inputs[1], np.ndarray):
        return None
    kernel = node.inputs[1]
    if node.op == 'conv_general_dilated':
        return kernel if node.params['dimension_numbers'].rhs_spec[0] == kernel.ndim - 1 else None
    if node.op == 'dot_general':
        ((_, rhs), batch) = node.params['dimension_numbers']
        return kernel if tuple(rhs) == (0,) and kernel.ndim == 2 and not any(batch) else None
    return None
