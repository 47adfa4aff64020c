"""The cells of NASNet, PNASNet, AmoebaNet and DARTS, for cls.nn.cells.

A cell is a row of nodes. Each node takes two of the states before it (the two inputs of the cell
and the earlier nodes), applies an operation to each and adds the results. A node is four decisions:
the two states, then the two operations. The nodes that no other takes are concatenated.

NASNet: Zoph et al. 2018 (https://arxiv.org/abs/1707.07012); PNASNet: Liu et al. 2018
(https://arxiv.org/abs/1712.00559); AmoebaNet: Real et al. 2019 (https://arxiv.org/abs/1802.01548);
DARTS: Liu et al. 2019 (https://arxiv.org/abs/1806.09055). The lists of NASNet and PNASNet are from
memory. NASNet's fifth decision on a node, to add or to concatenate, is left out: our cells add, as
the published ones do. The 3x3 dilated convolution of the first three is assumed to be separable, as
DARTS's is.

The released code of the first three concatenates more than the unused nodes, by lists without a
decision. `code` ignores these lists: the nodes of NASNet-A, PNASNet-5 and AmoebaNet-A and -C are in
these spaces, their concatenation is not. AmoebaNet-B and -D have more operations.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Iterator

import numpy as np

from cls.errors import nearest
from cls.nn.cells import OPERATIONS, CellSpec, Genotype
from cls.search.space import Code, Fixed

Edge = tuple[int, int]  # state, operation
Graph = tuple[tuple[Edge, ...], ...]  # the nodes of a cell, of two edges each


@dataclasses.dataclass(frozen=True)
class Cells(Fixed):
    """Cells of nodes with two operations on earlier states.

    Raises ValueError for an operation that cls.nn.cells does not have, and for sizes below 1.
    """

    operations: tuple[str, ...]
    nodes: int = 5
    cells: int = 2  # a normal cell and a reduction cell; 1: one that is both
    distinct: bool = False  # whether the two states of a node must differ
    concat_all: bool = False  # whether all nodes are concatenated, used or not
    identity: float = 0.05  # probability that a mutation changes nothing

    def __post_init__(self) -> None:
        for op in self.operations:
            if op not in OPERATIONS:
                raise ValueError(f'no operation is named {op!r}.{nearest(op, OPERATIONS)}')
        if self.nodes < 1 or self.cells not in (1, 2) or not self.operations:
            raise ValueError('a cell has a node and an operation at least, a net 1 or 2 cells')

    @property
    def counts(self) -> tuple[int, ...]:
        operations = len(self.operations)
        cell: tuple[int, ...] = ()
        for states in range(2, 2 + self.nodes):
            cell += (states, states - self.distinct, operations, operations)
        return cell * self.cells

    def genotype(self, code: Code) -> Genotype | CellSpec:
        """Returns the two cells, or the only one of a space with one cell."""
        specs = [self._spec(graph) for graph in self._graphs(code)]
        return Genotype(*specs) if self.cells == 2 else specs[0]

    def code(self, genotype: Genotype | CellSpec) -> Code:
        """Returns the code of the cells' nodes; their concatenation has no part in it."""
        two = isinstance(genotype, Genotype)
        specs = (genotype.normal, genotype.reduce) if two else (genotype,)
        if len(specs) != self.cells or any(len(spec.nodes) != self.nodes for spec in specs):
            raise ValueError(f'expected cells: {self.cells}, of {self.nodes} nodes')
        edges = [edge for spec in specs for node in spec.nodes for edge in node]
        if unknown := {op for op, _ in edges} - {*self.operations}:
            raise ValueError(f'not among the operations: {", ".join(sorted(unknown))}')
        if self.distinct and any(a[1] == b[1] for spec in specs for a, b in spec.nodes):
            raise ValueError('the two states of a node must differ')
        index = self.operations.index
        return self._code(
            [
                tuple(((a, index(op)), (b, index(other))) for (op, a), (other, b) in spec.nodes)
                for spec in specs
            ]
        )

    def key(self, code: Code) -> Hashable:
        """Returns the cells with edges and nodes in canonical order."""
        return tuple(_canonical(graph) for graph in self._graphs(code))

    def mutate(self, code: Code, rng: np.random.Generator) -> Code:
        """Returns the code after one mutation of AmoebaNet's.

        With probability `identity` nothing changes. Otherwise one cell, one of its nodes and one of
        the node's sides are drawn. With equal chances another state before the node replaces the
        state of that side, or an operation of the list, perhaps the same, its operation.
        """
        if rng.random() < self.identity:
            return code
        graphs = self._graphs(code)
        cell, node, side = (int(rng.integers(n)) for n in (self.cells, self.nodes, 2))
        edges = list(graphs[cell][node])
        state, operation = edges[side]
        if rng.random() < 0.5:
            taken = {state, edges[1 - side][0]} if self.distinct else {state}
            others = [other for other in range(2 + node) if other not in taken]
            state = int(rng.choice(others)) if others else state
        else:
            operation = int(rng.integers(len(self.operations)))
        edges[side] = state, operation
        graphs[cell] = (*graphs[cell][:node], tuple(edges), *graphs[cell][node + 1 :])
        return self._code(graphs)

    def _graphs(self, code: Code) -> list[Graph]:
        nodes = []
        for a, b, op, other in zip(*(code[i::4] for i in range(4)), strict=True):
            b += self.distinct and b >= a  # an index among the states other than a
            nodes.append(((a, op), (b, other)))
        starts = range(0, len(nodes), self.nodes)
        return [tuple(nodes[start : start + self.nodes]) for start in starts]

    def _code(self, graphs: list[Graph]) -> Code:
        code: Code = ()
        for graph in graphs:
            for (a, op), (b, other) in graph:
                code += (a, b - (self.distinct and b > a), op, other)
        return code

    def _spec(self, graph: Graph) -> CellSpec:
        nodes = tuple(tuple((self.operations[op], state) for state, op in node) for node in graph)
        taken = set() if self.concat_all else {state for node in graph for state, _ in node}
        return CellSpec(nodes, tuple(i for i in range(2, 2 + len(graph)) if i not in taken))  # pyright: ignore[reportArgumentType]


def _canonical(graph: Graph, order: tuple[int, ...] = ()) -> Graph:
    """Returns the smallest form of the nodes after those in `order`.

    Nodes may be in any order of computation, and the two edges of a node in either.
    """
    if len(order) == len(graph):
        return ()
    index = {0: 0, 1: 1} | {node: i for i, node in enumerate(order, 2)}
    ready: dict[tuple[Edge, ...], list[int]] = {}
    for node, edges in enumerate(graph, 2):
        if node not in index and all(state in index for state, _ in edges):
            form = tuple(sorted((index[state], op) for state, op in edges))
            ready.setdefault(form, []).append(node)
    first = min(ready)  # nodes of this form differ by their consumers: each is tried
    return (first, *min(_canonical(graph, (*order, node)) for node in ready[first]))


@dataclasses.dataclass(frozen=True)
class NASNetCells(Cells):
    """NASNet's two cells of 13 operations: 7.1e16 codes a cell."""

    operations: tuple[str, ...] = (
        'identity',
        '1x3_3x1',
        '1x7_7x1',
        'dil_conv_3x3',
        'avg_3x3',
        'max_3x3',
        'max_5x5',
        'max_7x7',
        '1x1',
        '3x3',
        'sep_3x3',
        'sep_5x5',
        'sep_7x7',
    )


@dataclasses.dataclass(frozen=True)
class PNASNetCells(Cells):
    """PNASNet's one cell of 8 operations, with stride 2 also the reduction: 5.6e14 codes.

    A cell of fewer nodes has a genotype too, and its code is a prefix of longer ones: cells grow.
    """

    operations: tuple[str, ...] = (
        'sep_3x3',
        'sep_5x5',
        'sep_7x7',
        '1x7_7x1',
        'identity',
        'avg_3x3',
        'max_3x3',
        'dil_conv_3x3',
    )
    cells: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cells != 1 or self.distinct:
            raise ValueError('PNASNet has one cell, whose nodes may take a state twice')

    def code(self, genotype: Genotype | CellSpec) -> Code:
        """Returns the code of a cell, perhaps of fewer nodes."""
        if isinstance(genotype, CellSpec) and len(genotype.nodes) < self.nodes:
            return dataclasses.replace(self, nodes=len(genotype.nodes)).code(genotype)
        return super().code(genotype)

    def expand(self, code: Code) -> Iterator[Code]:
        """Yields the codes with one more node, whose edges are in one of their two orders."""
        nodes = len(code) // 4
        if nodes < self.nodes:
            edges = itertools.product(range(2 + nodes), range(len(self.operations)))
            pairs = itertools.combinations_with_replacement(edges, 2)
            yield from ((*code, a, b, op, other) for (a, op), (b, other) in pairs)


@dataclasses.dataclass(frozen=True)
class AmoebaNetCells(Cells):
    """AmoebaNet's two cells of 8 operations: 5.6e14 codes a cell."""

    operations: tuple[str, ...] = (
        'identity',
        'sep_3x3',
        'sep_5x5',
        'sep_7x7',
        'avg_3x3',
        'max_3x3',
        'dil_conv_3x3',
        '1x7_7x1',
    )


@dataclasses.dataclass(frozen=True)
class DARTSCells(Cells):
    """The cells that DARTS derives: 1.0e9 a cell, each of 16 codes.

    A node keeps two of its edges, so its states differ; all nodes are concatenated.
    """

    operations: tuple[str, ...] = (
        'max_pool_3x3',
        'avg_pool_3x3',
        'skip_connect',
        'sep_conv_3x3',
        'sep_conv_5x5',
        'dil_conv_3x3',
        'dil_conv_5x5',
    )
    nodes: int = 4
    distinct: bool = True
    concat_all: bool = True
