"""GeNet's space: enumerated graphs, the paper's codes, exchanged stages."""

import itertools

import jax
import numpy as np
import pytest

from cls import models
from cls.models.genet import GENET_1, GENET_2, Genotype
from cls.models.registry import genotypes
from cls.search.spaces.genet import GeNetBits


def test_sizes():
    assert GeNetBits((3, 5)).size == 8_192
    assert GeNetBits().size == 524_288


@pytest.mark.parametrize('genotype', [GENET_1, GENET_2])
def test_published_codes_round_trip(genotype):
    space = GeNetBits()
    code = space.code(genotype)
    space.check(code)
    assert len(code) == 19
    assert space.genotype(code) == genotype
    assert genotypes.structure(genotypes.plain(genotype), Genotype) == genotype


def test_bits_are_in_the_order_of_the_paper():
    assert GeNetBits((4,)).genotype((0, 0, 1, 1, 0, 0)).stages == ('0-01-100',)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='expected stages'):
        GeNetBits((3, 5)).code(GENET_1)
    with pytest.raises(ValueError, match='2 nodes or more'):
        GeNetBits((3, 1))


# Directed acyclic graphs of n unlabeled nodes (OEIS A003087), isolated nodes included.
@pytest.mark.parametrize(('nodes', 'count'), [((2,), 2), ((3,), 6), ((3, 3), 36), ((4,), 31)])
def test_distinct_models(nodes, count):
    space = GeNetBits(nodes)
    assert len({space.key(code) for code in space.codes()}) == count


@pytest.mark.sweep
def test_distinct_stages_of_five_nodes():
    space = GeNetBits((5,))
    assert len({space.key(code) for code in space.codes()}) == 302


def test_isolated_nodes_do_not_count():
    space = GeNetBits((3,))
    chains = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]  # two nodes, one after the other
    assert len({space.key(code) for code in chains}) == 1
    assert space.key((0, 0, 0)) == ((),)
    assert space.key((1, 1, 1)) == (((), (0,), (0, 1)),)


def test_crossover_exchanges_whole_stages():
    space, rng = GeNetBits((3, 4)), np.random.default_rng(0)
    zeros, ones = (0,) * 9, (1,) * 9
    found = {space.crossover(zeros, ones, 0.5, rng)[0] for _ in range(64)}
    assert found == {a * 3 + b * 6 for a, b in itertools.product([(0,), (1,)], repeat=2)}
    assert space.crossover(zeros, ones, 0.0, rng) == (zeros, ones)
    assert space.crossover(zeros, ones, 1.0, rng) == (ones, zeros)


def test_codes_of_two_small_stages_are_models():
    """All zeros are one convolution per stage; with all ones each node feeds all later ones."""
    space = GeNetBits((3, 3))
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), 'float32')

    def convolutions(code):
        genotype = space.genotype(code)
        net = models.create(
            'genet_2_cifar', genotype=genotype, widths=(4, 4), bins=2, hidden=(8,), num_classes=10
        )
        variables = jax.eval_shape(net.init, jax.random.key(0), images)
        return [len(variables['params'][f'genetic{i}']) for i in (1, 2)]

    assert convolutions((0,) * 6) == [1, 1]
    assert convolutions((1,) * 6) == [5, 5]
    assert convolutions((0, 0, 1, 1, 1, 0)) == [4, 5]  # a chain of two and no third; a fork
