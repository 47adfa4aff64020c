"""MnasNet beyond its golden rows: timm's names and unpublished genotypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import keyed, rows

from cls import models, weights
from cls.errors import UserError


def test_files_with_timms_names_are_read_too():
    golden = rows.read('mnasnet')
    row, timm = golden['torchvision:mnasnet1_0'], golden['timm:mnasnet_075'].tensors
    state = keyed.state_dict(row.tensors)
    renamed = dict(zip(timm, state.values(), strict=True))  # both list layers in order
    assert not renamed.keys() & state.keys()
    variables, expected = (weights.from_torch(x, 'mnasnet_b1') for x in (renamed, state))
    for x, y in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_another_network_of_the_space():
    stages = [['r1_k3_s1_e1_o8'], ['r2_k5_s2_e3_o24_se0.25_noskip', 'r1_k3_s1_e6_o24']]
    fields = {'genotype': {'stages': stages}, 'width': 0.5, 'num_classes': 3}
    model = models.create('mnasnet_a1', **fields)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, 3)
    params = variables['params']
    assert params['conv_stem']['kernel'].shape == (3, 3, 3, 16)
    # A quarter of the 16 input channels; half of 24 is 12, rounded to 16.
    assert params['blocks.1.1']['se']['conv_reduce']['kernel'].shape == (1, 1, 48, 4)
    assert params['blocks.1.2']['conv_dw']['kernel'].shape == (3, 3, 1, 96)
    for wrong in ([['r1_k3_s2_e1']], ['r1_k3_s2_e1_o8'], [[3]]):
        with pytest.raises(UserError, match='does not fit'):
            models.create('mnasnet_a1', genotype={'stages': wrong})
