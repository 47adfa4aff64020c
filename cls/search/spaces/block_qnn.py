"""Block-QNN's space: a block as a network structure code (Zhong et al. 2018, section 3.1).

The paper's text was not available to us: the types and their kernels are as in
cls.models.block_qnn. One decision is a whole layer and the state is the last layer, as in the
public implementation of the search (elenathfgs/BlockQNN_Keras).
"""

import dataclasses
import functools
from collections.abc import Hashable

from cls.models.block_qnn import (
    ADD,
    CONCAT,
    CONV,
    IDENTITY,
    KERNELS,
    MAX_INDEX,
    TERMINAL,
    Block,
    loose_ends,
    operations,
    sources,
)
from cls.search.space import Code, Space

Layer = tuple[int, int, int, int]  # type, kernel, first and second layer read


@dataclasses.dataclass(frozen=True)
class BlockQNN(Space):
    """Blocks, whose code chooses a layer for each position up to the terminal.

    A layer reads an earlier one, 0 being the block's input; add and concat read two different ones,
    in both orders. A block has at least one layer, and only the terminal follows the last possible
    position. Layers that no other reads are the output, so all are connected.
    """

    layers: int = MAX_INDEX  # at most, without the terminal

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= MAX_INDEX:
            raise ValueError(f'layers is {self.layers}: expected 1 to {MAX_INDEX}')

    def choices(self, prefix: Code) -> int:
        index, last = self.state(prefix)
        return 0 if last == END else len(options(index + 1, self.layers))

    def state(self, prefix: Code) -> tuple[int, Layer | None]:
        """Returns the index of the last layer and the layer."""
        index = len(prefix)
        return index, options(index, self.layers)[prefix[-1]] if prefix else None

    def genotype(self, code: Code) -> Block:
        chosen = (options(i, self.layers)[choice] for i, choice in enumerate(code, 1))
        return Block(tuple((i, *layer) for i, layer in enumerate(chosen, 1)))

    def code(self, genotype: Block) -> Code:
        layers = [layer for _, *layer in operations(genotype)]
        if len(layers) > self.layers:
            raise ValueError(f'a block of {len(layers)} layers: the space has up to {self.layers}')
        return tuple(
            options(i, self.layers).index(tuple(layer)) for i, layer in enumerate([*layers, END], 1)
        )

    def key(self, code: Code) -> Hashable:
        """Returns the layers, with the inputs of add and concat sorted."""
        return tuple(
            (kind, kernel, *(sorted(read) if kind in (ADD, CONCAT) else read))
            for _, kind, kernel, *read in operations(self.genotype(code))
        )

    def measures(self, code: Code) -> dict[str, float]:
        """Returns the density: connections over nodes, the block's input and output included."""
        block = self.genotype(code)
        layers = operations(block)
        edges = sum(len(sources(layer)) for layer in layers) + len(loose_ends(block))
        return {'density': edges / (len(layers) + 2)}


END: Layer = (TERMINAL, 0, 0, 0)


@functools.cache
def options(index: int, layers: int) -> tuple[Layer, ...]:
    """Returns the possible layers at an index from 1 of a block of at most `layers`, by type."""
    if index > layers:
        return (END,)
    possible = [
        (kind, kernel, read, 0)
        for kind in range(CONV, IDENTITY + 1)
        for kernel in KERNELS.get(kind, (0,))
        for read in range(index)
    ]
    possible += [
        (kind, 0, one, other)
        for kind in (ADD, CONCAT)
        for one in range(index)
        for other in range(index)
        if one != other
    ]
    return tuple(possible + [END] * (index > 1))
