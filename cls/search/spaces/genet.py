"""GeNet's space: a bit for each pair of nodes of each stage, for cls.models.genet.

Xie, Yuille 2017 (https://arxiv.org/abs/1703.01513), section 3.1.
"""

import dataclasses
import itertools
from collections.abc import Hashable

from cls.models.genet import Genotype, graph
from cls.search.space import Code, Fixed


@dataclasses.dataclass(frozen=True)
class GeNetBits(Fixed):
    """Stages of K nodes, with K (K - 1) / 2 bits each: 2^19 codes in all for CIFAR-10.

    Bits are in the order of the paper's strings: 1-2, 1-3, 2-3, 1-4, ... Raises ValueError for a
    stage of one node, without a bit.
    """

    nodes: tuple[int, ...] = (3, 4, 5)

    def __post_init__(self) -> None:
        if not self.nodes or min(self.nodes) < 2:
            raise ValueError(f'each stage has 2 nodes or more, not {self.nodes}')

    @property
    def counts(self) -> tuple[int, ...]:
        return (2,) * sum(self.stages)

    @property
    def stages(self) -> tuple[int, ...]:
        """The number of bits of each stage; crossover exchanges them together."""
        return tuple(n * (n - 1) // 2 for n in self.nodes)

    def genotype(self, code: Code) -> Genotype:
        bits = iter(map(str, code))
        return Genotype(
            tuple(
                '-'.join(''.join(itertools.islice(bits, size)) for size in range(1, n))
                for n in self.nodes
            )
        )

    def code(self, genotype: Genotype) -> Code:
        code = tuple(int(bit) for stage in genotype.stages for bit in stage.replace('-', ''))
        if tuple(stage.count('-') + 2 for stage in genotype.stages) != self.nodes:
            raise ValueError(f'expected stages of {self.nodes} nodes')
        return code

    def key(self, code: Code) -> Hashable:
        """Returns the stages as graphs of unnumbered nodes, without isolated ones."""
        return tuple(_canonical(stage) for stage in self.genotype(code).stages)


def _canonical(stage: str) -> tuple[tuple[int, ...], ...]:
    """Returns the smallest list of the nodes' inputs, over all orders of computing the nodes."""
    feeds = {node: {*sources} - {0} for node, sources in graph(stage).items()}
    if feeds:
        feeds.popitem()  # the output node follows from the others
    forms = []
    for order in itertools.permutations(feeds):
        index = {node: i for i, node in enumerate(order)}
        form = tuple(tuple(sorted(index[source] for source in feeds[node])) for node in order)
        if all(source < node for node, sources in enumerate(form) for source in sources):
            forms.append(form)
    return min(forms)
