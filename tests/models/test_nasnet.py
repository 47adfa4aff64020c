"""NASNet: the sources of the second inputs, and unpublished cells."""

import jax
import pytest

from cls import models
from cls.errors import UserError
from cls.models import nasnet
from cls.models.registry import genotypes


@pytest.mark.parametrize('skip', [False, True])
def test_second_inputs_bypass_reductions_only_in_the_large_network(skip):
    model = models.create('nasnet_a_large' if skip else 'nasnet_a_mobile', cells=2)
    steps = [step for i in range(3) for step in model.stack(i)]
    assert [step.name for step in steps if step.back != 2] == (['cell_2', 'cell_4'] if skip else [])
    assert all(step.back == 3 for step in steps if step.back != 2)


def test_other_cells_and_wrong_ones():
    data = genotypes.plain(nasnet.A)
    data['normal'] = {'nodes': [[['1x1', 0], ['skip_connect', 1]]], 'concat': [2]}
    model = models.create('nasnet_a_6_768_cifar', genotype=data, cells=1, filters=8)
    variables = jax.eval_shape(lambda: models.abstract_variables(model, 32))
    assert set(variables['params']['cell_0']) >= {'comb_iter_0.left', '1x1'}
    assert variables['params']['final_layer.FC']['kernel'].shape == (32, 10)
    data['normal']['nodes'][0][0][0] = 'sep_9x9'
    with pytest.raises(UserError, match="'sep_9x9'.*Did you mean"):
        models.create('nasnet_a_6_768_cifar', genotype=data)
