"""MobileNetV3: minimalistic networks and unpublished genotypes."""

import jax
import jax.numpy as jnp
import pytest

from cls import models
from cls.errors import UserError
from cls.models.mobilenetv3 import LARGE, minimal
from cls.nn.inverted import decode


def test_minimalistic_networks_keep_the_widths():
    for stage, least in zip(LARGE.stages, minimal(LARGE).stages, strict=True):
        for full, few in zip(map(decode, stage), map(decode, least), strict=True):
            assert (few.window, few.gate, few.act) == (3, 0.0, '')
            assert few.features == full.features and few.expansion == full.expansion
            assert few.repeats == full.repeats and few.strides == full.strides


def test_another_network_of_the_space():
    stages = [['r1_k3_s2_e1_o8_se0.5_relu'], ['r2_k5_s2_e2_o16']]
    model = models.create('mobilenetv3_small_100', genotype={'stages': stages}, num_classes=3)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, 3)
    params = variables['params']
    assert params['blocks.0.0']['se']['conv_reduce']['kernel'].shape == (1, 1, 16, 8)
    assert params['blocks.1.1']['conv_dw']['kernel'].shape == (5, 5, 1, 32)
    assert params['blocks.2.0.conv']['kernel'].shape == (1, 1, 16, 576)
    for wrong in ([['r1_k3_s2_e1']], ['r1_k3_s2_e1_o8'], [[3]]):
        with pytest.raises(UserError, match='does not fit'):
            models.create('mobilenetv3_small_100', genotype={'stages': wrong})
