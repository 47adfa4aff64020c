"""Genotypes as graphs: nodes, and edges with operations."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from cls.models import block_qnn, genet, hier, metaqnn
from cls.nn import cells, inverted
from cls.search.spaces import tabular

Edge = tuple[str, str, str]  # source node, target node, operation


@functools.singledispatch
def graphs(genotype: Any) -> Iterator[tuple[str, list[Edge]]]:
    """Yields (name, edges) of each graph in a genotype, from 'in' to 'out'.

    A genotype that is not a graph becomes a chain of its parts.
    """
    yield 'network', _chain(str(genotype).split(','))


@graphs.register
def _(genotype: str) -> Iterator[tuple[str, list[Edge]]]:
    # The name in a table: six digits are a cell, others the blocks of a network.
    if len(genotype) == len(tabular.NB201_EDGES):
        names = ['in', '1', '2', 'out']
        edges = [
            (names[source], names[node], tabular.NB201_OPS[int(digit)])
            for (node, source), digit in zip(tabular.NB201_EDGES, genotype, strict=True)
            if digit != '0'
        ]
        yield f'cell {genotype}', edges or [('in', 'out', 'none')]
    else:
        yield f'network {genotype}', _chain(genotype)


@graphs.register
def _(genotype: cells.Genotype) -> Iterator[tuple[str, list[Edge]]]:
    yield from graphs(genotype.normal)
    yield 'reduction cell', dict(graphs(genotype.reduce))['cell']


@graphs.register
def _(genotype: cells.CellSpec) -> Iterator[tuple[str, list[Edge]]]:
    names = ['in 0', 'in 1', *(str(i) for i in range(2, len(genotype.nodes) + 2))]
    edges = [
        (names[source], names[node], op)
        for node, pair in enumerate(genotype.nodes, 2)
        for op, source in pair
    ]
    yield 'cell', edges + [(names[state], 'out', '') for state in genotype.concat]


@graphs.register
def _(genotype: genet.Genotype) -> Iterator[tuple[str, list[Edge]]]:
    for number, code in enumerate(genotype.stages, 1):
        feeds = genet.graph(code)
        last = max(feeds, default=None)
        names = {0: 'in', last: 'out'}
        edges = [
            (names.get(source, str(source)), names.get(node, str(node)), '')
            for node, sources in feeds.items()
            for source in sources
        ]
        yield f'stage {number}: {code}', edges or [('in', 'out', '')]


@graphs.register
def _(genotype: hier.Genotype) -> Iterator[tuple[str, list[Edge]]]:
    for level, motifs in enumerate(genotype.levels, 2):
        for number, motif in enumerate(motifs, 1):
            names = ['in', *(str(i) for i in range(2, motif.nodes)), 'out']
            pairs = [(a, b) for a in range(motif.nodes) for b in range(a + 1, motif.nodes)]
            edges = [
                (names[a], names[b], op)
                for (a, b), op in zip(pairs, motif.edges, strict=True)
                if op != 'none'
            ]
            yield f'level {level}, motif {number}', edges or [('in', 'out', 'none')]


@graphs.register
def _(genotype: block_qnn.Block) -> Iterator[tuple[str, list[Edge]]]:
    kinds = ('', 'conv', 'max', 'avg', 'identity', 'add', 'concat')
    codes = block_qnn.operations(genotype)
    names = {0: 'in'} | {c[0]: f'{c[0]}: {kinds[c[1]]} {c[2] or ""}'.strip() for c in codes}
    edges = [(names[i], names[code[0]], '') for code in codes for i in block_qnn.sources(code)]
    yield 'block', edges + [(names[i], 'out', '') for i in block_qnn.loose_ends(genotype)]


@graphs.register
def _(genotype: metaqnn.Chain) -> Iterator[tuple[str, list[Edge]]]:
    yield 'network', _chain(genotype.layers)


@graphs.register
def _(genotype: inverted.Genotype) -> Iterator[tuple[str, list[Edge]]]:
    yield 'network', _chain([' + '.join(stage) for stage in genotype.stages])


def _chain(layers: Sequence[str]) -> list[Edge]:
    names = ['in', *(f'{i}: {layer}' for i, layer in enumerate(layers, 1)), 'out']
    return [(a, b, '') for a, b in zip(names, names[1:], strict=False)]
