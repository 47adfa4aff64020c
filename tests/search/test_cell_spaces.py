"""Cell spaces: enumerated keys, published cells, AmoebaNet's mutation, models of random codes."""

import functools
import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from cls import models
from cls.models import amoebanet, darts, nasnet, pnasnet
from cls.models.registry import genotypes
from cls.nn.cells import Cell, CellSpec, Genotype
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.search.spaces.cells import (
    AmoebaNetCells,
    Cells,
    DARTSCells,
    NASNetCells,
    PNASNetCells,
)

SPACES = {  # and a model for their genotypes
    'nasnet': (NASNetCells(), 'nasnet_a_6_768_cifar'),
    'pnasnet': (PNASNetCells(), 'pnasnet5_cifar'),
    'amoebanet': (AmoebaNetCells(), 'amoebanet_a_n6_f36_cifar'),
    'darts': (DARTSCells(), 'darts_v2_cifar'),
}


def test_sizes():
    cell = (2 * 3 * 4 * 5 * 6) ** 2
    assert AmoebaNetCells().size == (cell * 8**10) ** 2
    assert AmoebaNetCells().size == pytest.approx(3.1e29, rel=0.01)
    assert NASNetCells().size == (cell * 13**10) ** 2
    assert PNASNetCells().size == cell * 8**10
    distinct = 1 * 3 * 6 * 10 * 7**8  # two of 2, 3, 4, 5 states
    assert distinct == pytest.approx(1.04e9, rel=0.01)
    assert DARTSCells().size == (distinct * 2**4) ** 2  # in two orders each


def test_one_node_of_pnasnet_has_136_forms():
    space = PNASNetCells(nodes=1)
    codes = list(space.codes())
    assert len(codes) == 256
    assert len({space.key(code) for code in codes}) == 136


@pytest.mark.parametrize(
    'space',
    [
        Cells(('identity', 'max_3x3'), nodes=2, cells=1),
        Cells(('identity',), nodes=3, cells=1),
        Cells(('identity',), nodes=3, cells=1, distinct=True, concat_all=True),
    ],
)
def test_keys_are_the_classes_of_an_enumerated_space(space):
    """Two codes have one key if and only if swaps of edges or of neighboring nodes join them."""

    def renamed(node, names):
        return tuple((op, names.get(state, state)) for op, state in node)

    def neighbors(nodes):
        for i, (a, b) in enumerate(nodes):
            yield (*nodes[:i], (b, a), *nodes[i + 1 :])
            if i and all(state != i + 1 for _, state in nodes[i]):
                names = {i + 1: i + 2, i + 2: i + 1}
                rest = (renamed(node, names) for node in nodes[i + 1 :])
                yield (*nodes[: i - 1], nodes[i], nodes[i - 1], *rest)

    codes = {space.genotype(code).nodes: code for code in space.codes()}
    classes, seen = [], set()
    for start in codes:
        if start in seen:
            continue
        found, left = {start}, [start]
        while left:
            new = set(neighbors(left.pop())) - found
            found |= new
            left += new
        seen |= found
        classes.append({space.key(codes[nodes]) for nodes in found})
    assert all(len(keys) == 1 for keys in classes)
    assert len(set().union(*classes)) == len(classes) < len(codes)


def test_key_tells_one_node_taken_twice_from_two_alike():
    """Of two identical nodes, the one that no other takes is part of the output."""
    space = Cells(('identity', 'max_3x3'), nodes=3, cells=1)
    twins = (0, 0, 0, 0, 0, 0, 0, 0)
    assert space.key((*twins, 2, 2, 1, 1)) != space.key((*twins, 2, 3, 1, 1))
    assert space.key((*twins, 2, 2, 1, 1)) == space.key((*twins, 3, 3, 1, 1))


def nodes_of(genotype):
    specs = (genotype.normal, genotype.reduce) if isinstance(genotype, Genotype) else (genotype,)
    return [spec.nodes for spec in specs]


@pytest.mark.parametrize(
    ('space', 'genotype'),
    [
        (NASNetCells(), nasnet.A),
        (PNASNetCells(), pnasnet.CELL),
        (AmoebaNetCells(), amoebanet.A),
        (AmoebaNetCells(), amoebanet.C),
        (DARTSCells(), darts.V1),
        (DARTSCells(), darts.V2),
    ],
)
def test_published_nodes_are_in_the_space(space, genotype):
    code = space.code(genotype)
    space.check(code)
    assert nodes_of(space.genotype(code)) == nodes_of(genotype)
    assert space.code(space.genotype(code)) == code


def test_published_concatenation_is_that_of_the_space_in_some():
    space = DARTSCells()
    for genotype in (darts.V1, darts.V2):
        assert space.genotype(space.code(genotype)) == genotype
    more = (*AmoebaNetCells().operations, '1x1', 'max_2x2', '3x3')
    space = AmoebaNetCells(operations=more)
    for genotype in (amoebanet.B, amoebanet.D):
        assert space.genotype(space.code(genotype)).reduce == genotype.reduce
        with pytest.raises(ValueError, match='not among the operations: 1x1, 3x3, max_2x2'):
            AmoebaNetCells().code(genotype)


def test_unused_nodes_are_concatenated():
    space = Cells(('identity',), nodes=3, cells=1)
    nodes = ((0, 1), (2, 0), (0, 0))
    code = tuple(i for a, b in nodes for i in (a, b, 0, 0))
    assert space.genotype(code).concat == (3, 4)
    assert Cells(('identity',), nodes=3, cells=1, concat_all=True).genotype(code).concat == (
        2,
        3,
        4,
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='no operation is named .sep_3x4.. Did you mean'):
        Cells(('sep_3x4',))
    with pytest.raises(ValueError, match='expected cells: 2, of 5 nodes'):
        AmoebaNetCells().code(pnasnet.CELL)
    same = CellSpec(((('skip_connect', 0), ('skip_connect', 0)),), (2,))
    with pytest.raises(ValueError, match='must differ'):
        DARTSCells(nodes=1, cells=1).code(same)


def chances(space, genotype):
    """The distribution of a mutation of one genotype, written out."""
    found = {}

    def add(probability, cell, node, side, edge):
        edges = [list(edges) for nodes in nodes_of(genotype) for edges in nodes]
        edges[cell * space.nodes + node][side] = edge
        key = tuple(map(tuple, edges))
        found[key] = found.get(key, 0) + probability

    for cell, nodes in enumerate(nodes_of(genotype)):
        for node, edges in enumerate(nodes):
            for side, (op, state) in enumerate(edges):
                part = 1 / (space.cells * space.nodes * 2)
                add(space.identity * part, cell, node, side, (op, state))
                part *= (1 - space.identity) / 2
                for other in space.operations:
                    add(part / len(space.operations), cell, node, side, (other, state))
                others = set(range(2 + node)) - {state}
                if space.distinct:
                    others -= {edges[1 - side][1]}
                for other in others:
                    add(part / len(others), cell, node, side, (op, other))
                if not others:
                    add(part, cell, node, side, (op, state))
    return found


@pytest.mark.parametrize('distinct', [False, True])
def test_mutation_is_distributed_as_written_out(distinct):
    space = Cells(('identity', 'max_3x3', 'sep_3x3'), nodes=2, distinct=distinct)
    rng = np.random.default_rng(5)
    code = space.sample(rng)
    expected = chances(space, space.genotype(code))
    assert sum(expected.values()) == pytest.approx(1)
    counts, count = dict.fromkeys(expected, 0), 3000
    for _ in range(count):
        mutated = space.mutate(code, rng)
        space.check(mutated)
        normal, reduce = nodes_of(space.genotype(mutated))
        counts[normal + reduce] += 1
    frequencies = [count * probability for probability in expected.values()]
    assert stats.chisquare(list(counts.values()), frequencies).pvalue > 1e-3


@pytest.mark.parametrize('name', SPACES)
def test_random_codes_are_complete_and_read_back(name):
    space, _ = SPACES[name]
    rng = np.random.default_rng(1)
    for _ in range(50):
        code = space.sample(rng)
        space.check(code)
        for other in itertools.chain([code], (space.mutate(code, rng) for _ in range(3))):
            space.check(other)
            genotype = space.genotype(other)
            assert space.code(genotype) == other
            assert space.key(space.code(genotype)) == space.key(other)


@pytest.mark.parametrize('name', SPACES)
def test_a_random_code_is_a_cell_that_reduces(name):
    space, _ = SPACES[name]
    genotype = space.genotype(space.sample(np.random.default_rng(2)))
    spec = genotype.reduce if isinstance(genotype, Genotype) else genotype
    conv = functools.partial(Conv, padding='SAME')
    cell = Cell(spec, 8, 2, conv, functools.partial(BatchNorm, False))
    images = jax.ShapeDtypeStruct((2, 8, 8, 4), 'float32')
    out, _ = jax.eval_shape(lambda x: cell.init_with_output(jax.random.key(0), x, x), images)
    assert out.shape == (2, 4, 4, 8 * len(spec.concat))


@pytest.mark.sweep
@pytest.mark.parametrize('name', SPACES)
def test_random_codes_are_models(name):
    space, net = SPACES[name]
    rng = np.random.default_rng(2)
    small = {'stage_sizes': (1, 1, 1)} if name == 'darts' else {'cells': 1, 'stem_filters': 8}
    for _ in range(5):
        genotype = space.genotype(space.sample(rng))
        plain = genotypes.plain(genotype)
        assert genotypes.structure(plain, type(genotype)) == genotype
        model = models.create(net, genotype=genotype, filters=8, **small)
        images = jax.ShapeDtypeStruct((2, 16, 16, 1), 'float32')
        init = functools.partial(model.init_with_output, jax.random.key(0))
        logits, _ = jax.eval_shape(init, images)
        assert logits.shape == (2, 10)
