"""PNASNet: its genotype is a single cell."""

import pytest

from cls import models
from cls.errors import UserError


def test_another_cell_and_a_wrong_one():
    data = {'nodes': [[['sep_3x3', 0], ['identity', 1]]], 'concat': [1, 2]}
    model = models.create('pnasnet5_cifar', genotype=data, cells=1, filters=8)
    params = models.abstract_variables(model, 32)['params']
    assert 'comb_iter_0.right' in params['cell_1']  # an identity with a stride has weights
    assert params['final_layer.FC']['kernel'].shape == (2 * 32, 10)
    data['concat'] = [3]
    with pytest.raises(UserError, match='0 to 2'):
        models.create('pnasnet5_cifar', genotype=data)
