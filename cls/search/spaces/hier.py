"""hier's space: an operation for each edge of each motif, for cls.models.hier.

Liu et al. 2018 (https://arxiv.org/abs/1711.00436), sections 2 and 3.1. The text was not at
hand: the space is as others report it, and in part from memory.
"""

import dataclasses
from collections.abc import Hashable

import numpy as np

from cls.models.hier import PRIMITIVES, Genotype, Motif
from cls.search.space import Code, Fixed


@dataclasses.dataclass(frozen=True)
class Motifs(Fixed):
    """Levels of motifs, with the cell as the highest: 7^46 codes.

    Decisions are the operations of the edges 1-2, 1-3, ..., 2-3, ... of the first motif of level 2
    and so on upwards: 0 none, then the primitives, or the motifs of the level below. The paper's
    flat space, for comparison, is motifs (1,), nodes (11,).

    A code is not a network if the output of its cell does not depend on the input. The paper does
    not mention such codes; here neither `sample` nor `mutate` returns one. Raises ValueError for
    levels that do not make a cell.
    """

    motifs: tuple[int, ...] = (6, 1)  # of each level, from level 2 up
    nodes: tuple[int, ...] = (4, 5)  # of each motif of a level
    mutations: int = 1000  # between the trivial genotype and a random one

    def __post_init__(self) -> None:
        fits = len(self.motifs) == len(self.nodes) > 0 and self.motifs[-1] == 1
        if not fits or min(self.motifs) < 1 or min(self.nodes) < 2 or self.mutations < 0:
            raise ValueError(
                f'motifs {self.motifs}, nodes {self.nodes}: expected as many levels in both, the '
                'last of one motif, and 2 or more nodes'
            )

    @property
    def counts(self) -> tuple[int, ...]:
        below = (len(PRIMITIVES), *self.motifs)
        levels = zip(below, self.motifs, self.nodes, strict=False)
        return sum(((1 + ops,) * (m * n * (n - 1) // 2) for ops, m, n in levels), ())

    def genotype(self, code: Code) -> Genotype:
        """Returns all motifs. Raises ValueError if no path leads through the cell."""
        operations, choices, levels = PRIMITIVES, iter(code), []
        for motifs, nodes in zip(self.motifs, self.nodes, strict=True):
            names = ('none', *operations)
            edges = range(nodes * (nodes - 1) // 2)
            levels.append(
                tuple(Motif(tuple(names[next(choices)] for _ in edges)) for _ in range(motifs))
            )
            operations = tuple(f'motif{i + 1}' for i in range(motifs))
        return Genotype(tuple(levels))

    def code(self, genotype: Genotype) -> Code:
        sizes = [(len(level), {motif.nodes for motif in level}) for level in genotype.levels]
        if sizes != [(m, {n}) for m, n in zip(self.motifs, self.nodes, strict=True)]:
            raise ValueError(f'expected motifs {self.motifs} of {self.nodes} nodes on the levels')
        operations, code = PRIMITIVES, ()
        for level in genotype.levels:
            names = ('none', *operations)
            code += tuple(names.index(op) for motif in level for op in motif.edges)
            operations = tuple(f'motif{i + 1}' for i in range(len(level)))
        return code

    def key(self, code: Code) -> Hashable:
        """Returns the edges with an influence on the cell's output, with motifs expanded."""
        genotype = self.genotype(code)

        def expanded(level: int, motif: str) -> Hashable:
            edges = genotype.graph(level, motif)
            return tuple(
                (i, j, op if level == 2 else expanded(level - 1, op)) for i, j, op in edges
            )

        return expanded(len(genotype.levels) + 1, 'motif1')

    def sample(self, rng: np.random.Generator) -> Code:
        """Returns the trivial code, all of identities, after many mutations (section 3.1).

        Above level 2 an identity is the first motif, one of level 2 whose edges are identities.
        """
        lowest = self.motifs[0] * self.nodes[0] * (self.nodes[0] - 1) // 2
        identity = 1 + PRIMITIVES.index('identity')
        code = (identity,) * lowest + (1,) * (len(self.counts) - lowest)
        for _ in range(self.mutations):
            code = self._mutated(code, rng)
        return code if self._connected(code) else self.sample(rng)

    def mutate(self, code: Code, rng: np.random.Generator) -> Code:
        """Returns the code after one mutation (section 3.1).

        Uniform draws, one after the other: a level, one of its motifs, a node after the first, an
        earlier node, and the operation between the two, perhaps the same as before.
        """
        mutated = self._mutated(code, rng)
        return mutated if self._connected(mutated) else self.mutate(code, rng)

    def _mutated(self, code: Code, rng: np.random.Generator) -> Code:
        level = int(rng.integers(len(self.motifs)))
        motif, nodes = int(rng.integers(self.motifs[level])), self.nodes[level]
        successor = int(rng.integers(1, nodes))
        predecessor = int(rng.integers(successor))
        sizes = [n * (n - 1) // 2 for n in self.nodes]
        edge = sum(m * size for m, size in zip(self.motifs[:level], sizes, strict=False))
        edge += motif * sizes[level] + successor - predecessor - 1
        edge += sum(nodes - 1 - i for i in range(predecessor))
        choice = int(rng.integers(self.counts[edge]))
        return (*code[:edge], choice, *code[edge + 1 :])

    def _connected(self, code: Code) -> bool:
        try:
            self.genotype(code)
        except ValueError:
            return False
        return True
