"""EfficientNet: compound scaling, published coefficients, genotypes, names of packages."""

import math
import re

import pytest
from golden import rows

from cls import models
from cls.errors import UserError
from cls.models.efficientnet import COEFFICIENTS, compound_scaling


@pytest.mark.parametrize(('name', 'phi'), [('b0', 0), ('b1', 0.5), ('b2', 1), ('b3', 2)])
def test_the_formula_scales_the_small_networks(name, phi):
    width, depth, pixels = compound_scaling(phi)
    published = COEFFICIENTS[name][:3]
    assert (round(width, 1), round(depth, 1)) == published[:2]
    assert published[2] == (round(pixels, -1) if phi else 224)


# Ratios of the published value to the formula's: width, depth, resolution.
@pytest.mark.parametrize(
    ('name', 'phi', 'ratios'),
    [
        ('b4', 4, (0.956, 0.868, 0.970)),
        ('b5', 5, (0.993, 0.884, 1.012)),
        ('b6', 6, (1.016, 0.871, 1.019)),
        ('b7', 7, (1.026, 0.865, 1.007)),
    ],
)
def test_the_large_networks_depart_from_the_formula(name, phi, ratios):
    formula, published = compound_scaling(phi), COEFFICIENTS[name][:3]
    actual = [value / scaled for value, scaled in zip(published, formula, strict=True)]
    assert actual == pytest.approx(ratios, abs=1e-3)


@pytest.mark.parametrize('name', ['b4', 'b5', 'b6', 'b7'])
def test_no_phi_gives_a_large_network(name):
    """No phi rounds to the published width, depth and resolution at once."""
    width, depth, pixels = COEFFICIENTS[name][:3]

    def phis(value, base, rounding):
        return [math.log(value + side * rounding / 2, base) for side in (-1, 1)]

    ranges = phis(width, 1.1, 0.1), phis(depth, 1.2, 0.1), phis(pixels / 224, 1.15, 10 / 224)
    assert max(low for low, _ in ranges) > min(high for _, high in ranges)


def test_a_step_of_phi_doubles_the_cost():
    """Section 3.3: cost grows with depth, and with width and resolution squared."""
    (w0, d0, r0), (w1, d1, r1) = compound_scaling(2), compound_scaling(3)
    assert d1 / d0 * (w1 / w0) ** 2 * (r1 / r0) ** 2 == pytest.approx(2, rel=0.05)


def test_another_genotype():
    stages = (('r1_k3_s2_e1_o8_relu',), ('r1_k5_s2_e3_o16_se0.5', 'r1_k3_s1_e6_o16'))
    model = models.create('efficientnet_b0', genotype={'stages': stages})
    params = models.abstract_variables(model, 16)['params']
    assert [name for name in params if name.startswith('blocks')] == [
        'blocks.0.0',
        'blocks.1.0',
        'blocks.1.1',
    ]
    assert params['blocks.1.0']['se']['conv_reduce']['kernel'].shape == (1, 1, 24, 4)
    with pytest.raises(UserError, match="cannot read 'x3'"):
        models.create('efficientnet_b0', genotype={'stages': (('r1_x3_s1_e1_o16',),)})


@pytest.mark.parametrize(
    ('variant', 'old', 'new'),
    [
        ('b0', '_conv_stem.weight', 'conv_stem.weight'),
        ('b0', '_bn0.running_var', 'bn1.running_var'),
        ('b0', '_blocks.0._depthwise_conv.weight', 'blocks.0.0.conv_dw.weight'),
        ('b0', '_blocks.0._bn1.bias', 'blocks.0.0.bn1.bias'),
        ('b0', '_blocks.0._se_expand.bias', 'blocks.0.0.se.conv_expand.bias'),
        ('b0', '_blocks.0._project_conv.weight', 'blocks.0.0.conv_pw.weight'),
        ('b0', '_blocks.0._bn2.weight', 'blocks.0.0.bn2.weight'),
        ('b0', '_blocks.15._bn2.weight', 'blocks.6.0.bn3.weight'),
        ('lite4', '_blocks.1._expand_conv.weight', 'blocks.1.0.conv_pw.weight'),
        ('lite4', '_blocks.1._bn0.bias', 'blocks.1.0.bn1.bias'),
        ('lite4', '_blocks.4._depthwise_conv.weight', 'blocks.1.3.conv_dw.weight'),
        ('lite4', '_blocks.5._bn1.bias', 'blocks.2.0.bn2.bias'),
        ('lite4', '_blocks.29._project_conv.weight', 'blocks.6.0.conv_pwl.weight'),
        ('lite4', '_conv_head.weight', 'conv_head.weight'),
        ('lite4', '_bn1.running_mean', 'bn2.running_mean'),
        ('lite4', '_fc.bias', 'classifier.bias'),
        ('lite4', 'blocks.0.0.bn2.weight', 'blocks.0.0.bn2.weight'),  # timm's own
    ],
)
def test_names_of_efficientnet_pytorch(variant, old, new):
    variant = models.variant(f'tf_efficientnet_{variant}')
    assert new in rows.read('efficientnet')[variant.reference].tensors
    for pattern, replacement in variant.old_names:
        old = re.sub(pattern, replacement, old)
    assert old == new
