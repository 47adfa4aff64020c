"""A graph: a flat list of primitives with constants, that JAX can trace again (`Graph.run`)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A result of a node, or the input; dimensions may be symbolic."""

    shape: tuple[Any, ...]
    dtype: np.dtype


Operand = Value | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A primitive of JAX, or `scale_and_shift`, applied to values and constants.

    Attributes:
      op: name of the primitive.
      inputs: its operands.
      outputs: its results.
      params: the parameters of the primitive.
      compute: maps arrays for `inputs` to the list of results.
    """

    op: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Value, ...]
    params: dict[str, Any]
    compute: Callable[..., Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A program with one input and one output, in the order of its computation."""

    input: Value
    nodes: tuple[Node, ...]
    output: Value

    def constants(self) -> list[np.ndarray]:
        """Returns the constants of all nodes, each once."""
        every = (x for node in self.nodes for x in node.inputs if isinstance(x, np.ndarray))
        return list({id(x): x for x in every}.values())

    def run(self, images: Any, constants: Sequence[Any] | None = None) -> Any:
        """Returns the output for images, with arrays in the place of `constants()` if given."""
        values: dict[int, Any] = {id(self.input): images}
        own = self.constants()
        given = own if constants is None else constants
        values |= {id(x): value for x, value in zip(own, given, strict=True)}
        for node in self.nodes:
            results = node.compute(*(values[id(x)] for x in node.inputs))
            values |= {id(x): value for x, value in zip(node.outputs, results, strict=True)}
        return values[id(self.output)]
