"""DARTS: the numbering of states, auxiliary heads, and unpublished cells."""

import jax
import pytest

from cls import models
from cls.errors import UserError
from cls.models import darts


def test_published_cells_number_the_cell_before_the_previous_one_first():
    cell = darts.published(
        ('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 2), ('max_pool_3x3', 0)
    )
    assert cell.nodes == (
        (('sep_conv_3x3', 1), ('skip_connect', 0)),
        (('dil_conv_3x3', 2), ('max_pool_3x3', 1)),
    )
    assert cell.concat == (2, 3)


@pytest.mark.parametrize(
    ('name', 'total'), [('darts_v2', 5_979_528), ('darts_v2_cifar', 3_825_768)]
)
def test_parameters_with_the_auxiliary_head(name, total):
    """The authors' code has the same counts: on ImageNet the head lacks its second norm."""
    params = models.abstract_variables(models.create(name), models.variant(name).input_size)[
        'params'
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total


def test_another_genotype_and_a_wrong_one():
    cell = {'nodes': [[['sep_conv_5x5', 0], ['dil_conv_5x5', 1]]], 'concat': [2]}
    data = {'normal': cell, 'reduce': cell}
    model = models.create('darts_v2_cifar', genotype=data, stage_sizes=(1, 1, 1), filters=8)
    params = models.abstract_variables(model, 32)['params']
    assert params['cells.2']['comb_iter_0.right']['dilated_5x5']['depthwise']['kernel'].shape == (
        5,
        5,
        1,
        32,
    )
    # One state with the channels of the next cell is projected all the same.
    assert 'prev_1x1' in params['cells.1']
    cell['nodes'][0][0][0] = 'sep_conv_4x4'
    with pytest.raises(UserError, match="'sep_conv_4x4'.*sep_conv_"):
        models.create('darts_v2_cifar', genotype=data)
