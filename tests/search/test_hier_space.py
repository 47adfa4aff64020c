"""hier's space: the published cell, the distribution of mutations, and models of codes."""

import jax
import numpy as np
import pytest
from scipy import stats

from cls import models
from cls.models.hier import EVOLVED, PRIMITIVES, Genotype, Motif
from cls.models.registry import genotypes
from cls.search.spaces.hier import Motifs

SPACE = Motifs()


def test_size():
    assert SPACE.size == 7**46
    assert Motifs((1,), (11,)).size == 7**55


def test_the_published_cell_round_trips():
    code = SPACE.code(EVOLVED)
    SPACE.check(code)
    assert SPACE.genotype(code) == EVOLVED
    assert genotypes.structure(genotypes.plain(EVOLVED), Genotype) == EVOLVED
    # Motif 1's first edge is max_3x3, the first of the cell motif 5.
    assert code[0] == 1 + PRIMITIVES.index('max_3x3')
    assert code[36] == 5


def test_assembled_by_hand():
    """Level 2: 1-2, 1-3, 2-3; level 3: two motifs in a row, without an edge past the middle."""
    space = Motifs((2, 1), (3, 3))
    identity, conv = 1 + PRIMITIVES.index('identity'), 1 + PRIMITIVES.index('conv_1x1')
    code = (identity, 0, conv, 0, conv, 0, 2, 0, 1)
    genotype = space.genotype(code)
    assert genotype.levels[0] == (
        Motif(('identity', 'none', 'conv_1x1')),
        Motif(('none', 'conv_1x1', 'none')),
    )
    assert genotype.levels[1] == (Motif(('motif2', 'none', 'motif1')),)
    first = ((1, 2, 'identity'), (2, 3, 'conv_1x1'))
    assert space.key(code) == ((1, 2, ((1, 3, 'conv_1x1'),)), (2, 3, first))


def test_keys():
    code = SPACE.code(EVOLVED)
    names = [motif for level in EVOLVED.levels[1:] for motif in level[0].edges]
    unused = code[:6] + (0,) * 6 + code[12:]  # the second motif, in no edge of the cell
    assert 'motif2' not in names
    assert SPACE.key(unused) == SPACE.key(code)
    swapped = code[24:30] + code[6:24] + code[:6] + code[30:36]
    other = {1: 5, 5: 1}
    assert SPACE.key(swapped + tuple(other.get(op, op) for op in code[36:])) == SPACE.key(code)
    assert SPACE.key(swapped + code[36:]) != SPACE.key(code)


def test_mutation_is_even_over_levels_motifs_nodes_and_operations():
    """No single mutation disconnects the published cell, so none is drawn again."""
    code, rng, count = SPACE.code(EVOLVED), np.random.default_rng(11), 4000
    expected = {}
    for level, (motifs, nodes, start) in enumerate([(6, 4, 0), (1, 5, 36)]):
        place = start
        for _ in range(motifs):
            for i in range(nodes):
                for j in range(i + 1, nodes):
                    expected[place] = 1 / 2 / motifs / (nodes - 1) / j * 6 / 7
                    place += 1
        assert place == (36, 46)[level]
    assert sum(expected.values()) == pytest.approx(6 / 7)
    places, operations = dict.fromkeys([None, *expected], 0), np.zeros(7)
    for _ in range(count):
        mutated = SPACE.mutate(code, rng)
        changed = [place for place in range(46) if mutated[place] != code[place]]
        assert len(changed) <= 1
        places[changed[0] if changed else None] += 1
        if changed:
            operations[mutated[changed[0]]] += 1
    frequencies = np.array([1 / 7, *expected.values()]) * count
    assert stats.chisquare(list(places.values()), frequencies).pvalue > 1e-3
    weights = np.zeros(7)
    for place, chance in expected.items():
        weights += chance * np.array([op != code[place] for op in range(7)]) / 6
    assert stats.chisquare(operations, weights / weights.sum() * operations.sum()).pvalue > 1e-3


def test_random_codes_forget_the_trivial_one():
    """After 1,000 mutations almost every edge has been drawn: operations are uniform."""
    rng = np.random.default_rng(3)
    codes = np.array([SPACE.sample(rng) for _ in range(40)])
    assert stats.chisquare(np.bincount(codes[:, :36].ravel(), minlength=7)).pvalue > 1e-3
    trivial = Motifs(mutations=0).sample(rng)
    assert set(trivial[:36]) == {1 + PRIMITIVES.index('identity')}
    assert set(trivial[36:]) == {1}


def test_codes_are_models():
    """Edges go from earlier to later nodes and a path leads through, after mutations too."""
    space, rng = Motifs((2, 1), (3, 3), mutations=60), np.random.default_rng(8)
    code = space.sample(rng)
    for _ in range(300):
        code = space.mutate(code, rng)
        space.check(code)
        genotype = space.genotype(code)  # refuses a cell without a path through it
        assert space.code(genotype) == code
        for motif in ('motif1', 'motif2'):
            assert all(i < j for i, j, _ in genotype.graph(2, motif))
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), 'float32')
    net = models.create('hier_c64_cifar', genotype=genotype, features=4, stages=2, cells=1)
    logits, _ = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x), images)
    assert logits.shape == (2, 10)


@pytest.mark.sweep
def test_random_codes_of_the_whole_space_are_models():
    rng = np.random.default_rng(9)
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), 'float32')
    for _ in range(2):
        genotype = SPACE.genotype(SPACE.sample(rng))
        net = models.create('hier_c64_cifar', genotype=genotype, features=4, stages=2, cells=1)
        logits, _ = jax.eval_shape(lambda x, net=net: net.init_with_output(KEY, x), images)
        assert logits.shape == (2, 10)


KEY = jax.random.key(0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='expected motifs'):
        Motifs((2, 1), (3, 3)).code(EVOLVED)
    with pytest.raises(ValueError, match='the last of one motif'):
        Motifs((6, 2), (4, 5))
    with pytest.raises(ValueError, match='no path leads'):
        SPACE.genotype((0,) * 46)
