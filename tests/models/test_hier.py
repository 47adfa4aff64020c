"""hier: the graphs of a genotype, and networks of unpublished genotypes."""

import functools

import gradients
import jax
import numpy as np
import pytest

from cls import models
from cls.errors import UserError
from cls.models.hier import EVOLVED, PRIMITIVES, Genotype, Motif
from cls.models.registry.init import init


def variables_of(genotype, **fields):
    fields = {'features': 4, 'stages': 1, 'cells': 1, **fields}
    model = models.create('hier_c64_cifar', genotype=genotype, **fields)
    return model, init(model, 0, 8)


def kernels(variables):
    """Returns the path of each convolution, without the last name -> the shape of its kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
    return {
        '/'.join(entry.key for entry in path[:-1]): x.shape for path, x in leaves if x.ndim == 4
    }


def test_the_evolved_cell():
    """The drawn cell: ten edges between five nodes; channels are counted by hand."""
    edges = EVOLVED.graph(3, 'motif1')
    pairs = [(i, j) for i, j, _ in edges]
    assert pairs == [(1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)]
    assert {op for _, _, op in edges} == {'motif1', 'motif3', 'motif4', 'motif5'}
    assert EVOLVED.graph(2, 'motif4') == (
        (1, 2, 'avg_3x3'),
        (1, 3, 'separable_3x3'),
        (1, 4, 'identity'),
        (2, 3, 'separable_3x3'),
        (2, 4, 'max_3x3'),
        (3, 4, 'avg_3x3'),
    )
    _, variables = variables_of(EVOLVED)
    shapes = kernels(variables)
    # All motifs give C channels: node 3 has 2 C, node 4 has 3 C, node 5 and so the cell 4 C.
    assert shapes['separable1_1/conv/pointwise'] == (1, 1, 16, 4)
    # Motif 5 on node 4: 3 C; its nodes have 3 C, 3 C + C, and C + 3 C + C.
    assert shapes['cell1_1/edge4_5/reduce/conv'] == (1, 1, 20, 4)
    assert shapes['cell1_1/edge4_5/edge3_4/conv/depthwise'] == (3, 3, 1, 16)


def test_primitives_and_concatenation():
    """A flat cell with a single convolution, the last, against NumPy."""
    genotype = Genotype(((Motif(('identity', 'max_3x3', 'avg_3x3')),),))
    model, variables = variables_of(genotype)
    images = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    apply = functools.partial(model.apply, mutable=['intermediates'])
    _, seen = jax.jit(apply, compiler_options=gradients.FAST)(variables, images)
    stem, stage = (seen['intermediates'][name][0] for name in ('stem', 'stage1'))

    def windows(x, fill):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
        return np.stack([padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])

    x = np.asarray(stem)
    both = np.concatenate([windows(x, -np.inf).max(0), np.nanmean(windows(x, np.nan), 0)], -1)
    kernel = variables['params']['cell1_1']['reduce']['conv']['kernel'][0, 0]
    np.testing.assert_allclose(stage, np.maximum(both @ kernel, 0), rtol=1e-4, atol=1e-4)


def test_edges_off_all_paths_are_left_out():
    """Node 2 has no inputs, node 4 no successors, and motif 2 no path to its output."""
    through = Motif(('none', 'conv_1x1', 'none', 'conv_1x1', 'conv_1x1', 'none'))
    nowhere = Motif(('max_3x3', 'none', 'none'))
    genotype = Genotype(
        (
            (Motif(('conv_1x1',)), nowhere),
            (
                Motif(
                    (
                        'motif2',
                        'motif1',
                        'none',
                        'none',
                        'motif1',
                        'none',
                        'none',
                        'none',
                        'motif1',
                        'motif2',
                    )
                ),
            ),
        )
    )
    assert through.paths(PRIMITIVES) == ()
    assert nowhere.paths(PRIMITIVES) == ()
    assert genotype.graph(3, 'motif1') == ((1, 3, 'motif1'), (3, 5, 'motif1'))


def random_genotype(rng, motifs, nodes):
    """Returns a genotype, drawn until the output of the cell depends on its input."""
    operations, levels = PRIMITIVES, []
    for count, size in zip((*motifs, 1), nodes, strict=True):
        draws = rng.choice(('none', *operations), (count, size * (size - 1) // 2))
        levels.append(tuple(Motif(tuple(edges)) for edges in draws.tolist()))
        operations = tuple(f'motif{i + 1}' for i in range(count))
    try:
        return Genotype(tuple(levels))
    except ValueError:
        return random_genotype(rng, motifs, nodes)


@pytest.mark.parametrize(
    ('motifs', 'nodes'),
    [
        ((2,), (3, 3)),
        pytest.param((), (6,), marks=pytest.mark.sweep),  # a flat cell
        pytest.param((6,), (4, 5), marks=pytest.mark.sweep),  # the paper's space
        pytest.param((2, 2), (3, 2, 3), marks=pytest.mark.sweep),
    ],
)
def test_a_network_of_any_genotype_uses_all_its_parameters(motifs, nodes):
    rng = np.random.default_rng(1)
    model, variables = variables_of(random_genotype(rng, motifs, nodes))
    for path, gradient in gradients.by_path(model, variables, 8).items():
        assert np.any(gradient), path


ONE = {'edges': ['conv_1x1']}


@pytest.mark.parametrize(
    ('levels', 'pattern'),
    [
        ([[{'edges': ['conv_1x1'] * 2}]], 'not 2'),
        ([[{'edges': []}]], 'not 0'),
        ([], 'one motif'),
        ([[ONE, ONE]], 'one motif'),
        ([[{'edges': ['conv_3x3']}]], 'level 2 has none, conv_1x1.*: conv_3x3'),
        ([[ONE], [{'edges': ['motif2']}]], 'level 3 has none, motif1: motif2'),
        ([[ONE], [{'edges': ['none']}]], 'no path'),
        ([[{'edges': ['none']}], [{'edges': ['motif1']}]], 'no path'),
    ],
)
def test_wrong_genotypes_are_refused(levels, pattern):
    with pytest.raises(UserError, match=pattern):
        models.create('hier', genotype={'levels': levels})
