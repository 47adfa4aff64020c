"""ProxylessNAS: unpublished networks of its space, and genotypes outside it."""

import pytest

from cls import models
from cls.errors import UserError


def test_another_genotype():
    stages = (('r1_k3_s1_e1_o16',), ('r1_k7_s2_e3_o24', 'r2_k5_s1_e6_o24'))
    model = models.create('proxyless_mobile', genotype={'stages': stages})
    params = models.abstract_variables(model, 32)['params']
    assert [name for name in params if name.startswith('blocks')] == [
        'blocks.0.0',
        'blocks.1.0',
        'blocks.1.1',
        'blocks.1.2',
    ]
    assert params['blocks.1.0']['conv_dw']['kernel'].shape == (7, 7, 1, 48)
    assert params['blocks.1.2']['conv_dw']['kernel'].shape == (5, 5, 1, 144)
    with pytest.raises(UserError, match='lacks k'):
        models.create('proxyless_mobile', genotype={'stages': (('r1_s1_e1_o16',),)})
