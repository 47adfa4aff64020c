"""Figures of a search: graphs of every kind of genotype, and its course."""

import matplotlib.image
import numpy as np
import pytest

from cls import models
from cls.models import block_qnn, genet, hier, metaqnn
from cls.nn.cells import CellSpec, Genotype
from cls.search import figures
from cls.search.history import Result
from cls.search.searcher import FAILED, Trial

CELL = CellSpec(((('max_3x3', 0), ('sep_3x3', 1)), (('identity', 2), ('identity', 2))), (3,))
MORE = ('amoebanet_a_n6_f190', 'darts_v2', 'genet_1', 'hier', 'block_qnn_random0_imagenet')
NAMES = ['pnasnet5_large', 'mnasnet_a1', *(pytest.param(n, marks=pytest.mark.sweep) for n in MORE)]


def test_a_cell_is_the_graph_of_its_edges():
    ((name, edges),) = figures.graphs(CELL)
    assert name == 'cell'
    assert edges == [
        ('in 0', '2', 'max_3x3'),
        ('in 1', '2', 'sep_3x3'),
        ('2', '3', 'identity'),
        ('2', '3', 'identity'),
        ('3', 'out', ''),
    ]
    both = dict(figures.graphs(Genotype(CELL, CELL)))
    assert list(both) == ['cell', 'reduction cell']
    assert both['reduction cell'] == edges


def test_a_stage_of_genet_has_its_two_nodes_outside_the_code():
    ((_, edges),) = figures.graphs(genet.Genotype(('0-10',)))  # node 2 is isolated
    assert [edge[:2] for edge in edges] == [('in', '1'), ('1', '3'), ('3', 'out')]
    ((_, edges),) = figures.graphs(genet.Genotype(('0-00',)))
    assert [edge[:2] for edge in edges] == [('in', 'out')]


def test_a_motif_has_the_edges_that_are_not_none():
    motif = hier.Motif(('conv_1x1', 'none', 'identity'))
    ((_, edges),) = figures.graphs(hier.Genotype(((motif,),)))
    assert [edge[:2] for edge in edges] == [('in', '2'), ('2', 'out')]


def test_a_block_ends_in_what_no_layer_reads():
    block = block_qnn.Block(((1, 1, 3, 0, 0), (2, 4, 0, 0, 0), (3, 5, 0, 1, 2), (4, 2, 3, 1, 0)))
    ((_, edges),) = figures.graphs(block)
    assert [edge[:2] for edge in edges] == [
        ('in', '1: conv 3'),
        ('in', '2: identity'),
        ('1: conv 3', '3: add'),
        ('2: identity', '3: add'),
        ('1: conv 3', '4: max 3'),
        ('3: add', 'out'),
        ('4: max 3', 'out'),
    ]


def test_a_chain_is_a_row():
    ((_, edges),) = figures.graphs(metaqnn.Chain(('C(64,3,1)', 'GAP(10)')))
    assert [edge[:2] for edge in edges] == [
        ('in', '1: C(64,3,1)'),
        ('1: C(64,3,1)', '2: GAP(10)'),
        ('2: GAP(10)', 'out'),
    ]


def test_names_of_tables():
    ((_, edges),) = figures.graphs('103020')
    assert edges == [
        ('in', '1', 'skip_connect'),
        ('1', '2', 'nor_conv_3x3'),
        ('1', 'out', 'nor_conv_1x1'),
    ]
    ((_, edges),) = figures.graphs('000000')
    assert edges == [('in', 'out', 'none')]
    ((_, edges),) = figures.graphs('01201201')
    assert [edge[1] for edge in edges[:3]] == ['1: 0', '2: 1', '3: 2']


@pytest.mark.parametrize('kind', ['validation', 'test'])  # today, and in older run folders
def test_the_course_of_a_supernet(kind, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, 'save', lambda figure, file: drawn.append(figure))
    logged = [
        {'step': 3, 'train/top1': 20.0, 'train/alpha_entropy': 1.5},
        {'step': 3, f'{kind}/top1': 10.0},
        {'step': 6, 'train/top1': 40.0, 'train/alpha_entropy': None},
    ]
    figures.course(logged, tmp_path / 'curve.png')
    lines = [line.get_xydata().tolist() for axes in drawn[0].axes for line in axes.lines]
    assert lines[:2] == [[[3, 20], [6, 40]], [[3, 10]]]
    np.testing.assert_array_equal(lines[2], [[3, 1.5], [6, np.nan]])


def test_nodes_stand_behind_what_feeds_them():
    edges = [('in', 'b', ''), ('in', 'c', ''), ('b', 'c', ''), ('c', 'out', '')]
    assert figures._layers(edges) == [['in'], ['b'], ['c'], ['out']]


@pytest.mark.parametrize('name', NAMES)
def test_published_genotypes_are_drawn(name, tmp_path):
    figures.draw(models.create(name).genotype, tmp_path / 'cell.png')
    image = matplotlib.image.imread(tmp_path / 'cell.png')
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 5


def test_the_curve_leaves_out_what_failed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, 'save', lambda figure, file: drawn.append(figure))
    fitness = [FAILED, 0.5, 0.25, FAILED, 0.75]
    results = [Result(Trial(i, ()), value, {}) for i, value in enumerate(fitness)]
    figures.curve(results, tmp_path / 'curve.png')
    dots, best = drawn[0].axes[0].lines
    np.testing.assert_array_equal(dots.get_ydata(), [np.nan, 0.5, 0.25, np.nan, 0.75])
    np.testing.assert_array_equal(best.get_ydata(), [np.nan, 0.5, 0.5, 0.5, 0.75])
