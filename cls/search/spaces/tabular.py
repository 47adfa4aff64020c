"""Tabular spaces: fixed numbers of operations, with published results for every architecture.

A code is the digits of the architecture's name in the table. Genotypes are these names, and no
network is built from them.

NAS-Bench-201 (Dong & Yang 2020): the edges 1-0, 2-0, 2-1, 3-0, 3-1, 3-2 of a cell, of 5 operations.
NAS-Bench-Macro (Su et al. 2021): 8 layers of 3 kinds of block. TransNAS-Bench-101 (Duan et al.
2021), micro: NAS-Bench-201's edges of 4 operations.
"""

import dataclasses
from collections.abc import Hashable

from cls.search.space import Code, Fixed

NB201_OPS = ('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3')
NB201_EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
_MACRO_STARTS = (0, 2, 5)  # of stages: block 0 is a convolution there, elsewhere the identity


@dataclasses.dataclass(frozen=True)
class FixedOps(Fixed):
    """A fixed number of operations, each a digit of the architecture's name."""

    length: int
    operations: int

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.operations,) * self.length

    def state(self, prefix: Code) -> Hashable:
        """Returns the position and the last decision, as in MetaQNN's and Block-QNN's spaces."""
        return len(prefix), prefix[-1:]

    def genotype(self, code: Code) -> str:
        return ''.join(map(str, code))

    def code(self, genotype: str) -> Code:
        code = tuple(map(int, genotype))
        self.check(code)
        return code


@dataclasses.dataclass(frozen=True)
class NasBench201(FixedOps):
    """Cells of NAS-Bench-201: 15,625 codes."""

    length: int = 6
    operations: int = 5

    def key(self, code: Code) -> str:
        """Returns the benchmark's own name of the network, by its `to_unique_str`: 6,466 names.

        It spells out the expression of each node with sorted terms, a skip as its input and zeros
        as #. Nested sums are not flattened, so that some equal networks have several names.
        """
        nodes = ['0']
        for node in (1, 2, 3):
            terms = []
            for (to, source), op in zip(NB201_EDGES, code, strict=True):
                if to == node:
                    zero = op == 0 or nodes[source] == '#'
                    written = nodes[source] if op == 1 else f'({nodes[source]})@{NB201_OPS[op]}'
                    terms.append('#' if zero else written)
            nodes.append('+'.join(sorted(terms)))
        return nodes[3]


@dataclasses.dataclass(frozen=True)
class NasBenchMacro(FixedOps):
    """Networks of NAS-Bench-Macro: 6,561 codes."""

    length: int = 8
    operations: int = 3

    def key(self, code: Code) -> Hashable:
        """Returns the code with identities moved to the end of their stage."""
        ends = (*_MACRO_STARTS[1:], len(code))
        parts = []
        for start, end in zip(_MACRO_STARTS, ends, strict=True):
            rest = code[start + 1 : end]
            parts.append((code[start], *(op for op in rest if op), *(op for op in rest if not op)))
        return tuple(parts)


@dataclasses.dataclass(frozen=True)
class TransNasBench101(FixedOps):
    """Cells of TransNAS-Bench-101, micro: 4,096 codes."""

    length: int = 6
    operations: int = 4
