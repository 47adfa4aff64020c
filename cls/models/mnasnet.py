"""MnasNet: Platform-Aware Neural Architecture Search for Mobile (CVPR 2019).

Tan, Chen, Pang, Vasudevan, Sandler, Howard, Le; https://arxiv.org/abs/1807.11626

What is new: the reward of the search combines accuracy with latency measured on a phone, and its
space factorizes a network into stages that each repeat their own block: window, expansion, squeeze
and excitation, channels, repeats (cls/nn/inverted.py reads the strings of the authors' code for
them). Figure 7 has MnasNet-A1; B1 was found without squeeze and excitation, small for a tight
budget.

Agrees with: timm's semnasnet_* (A1), mnasnet_* (B1) and mnasnet_small, and for B1 at width 1 with
torchvision's mnasnet1_0, at 1.3 with its mnasnet1_3. The parameters of these two have torchvision's
names (the importer also reads timm's). All pad symmetrically and have PyTorch's epsilon in the
norms, where the authors' code (tensorflow/tpu, models/official/mnasnet) has 'SAME' padding and
1e-3.

Not included, as their architectures are not published: A2, A3, and MnasNet-92 of the paper's first
edition, the source of the reading list's 76.13. Weights are drawn as in the authors' code.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import init, inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual, round_channels
from cls.nn.norm import batch_norm
from cls.nn.padding import Padding

SYSTEM = System(
    name='MnasNet',
    title='MnasNet: Platform-Aware Neural Architecture Search for Mobile',
    venue='CVPR 2019',
    arxiv='1807.11626',
    top1=76.13,  # MnasNet-92 with squeeze and excitation (the first edition)
    top5=92.85,
    headline='mnasnet_a1',
    params=3.9,
    macs=312,
)

# mnasnet_models.py of the authors' code.
A1 = Genotype(
    (
        ('r1_k3_s1_e1_o16_noskip',),
        ('r2_k3_s2_e6_o24',),
        ('r3_k5_s2_e3_o40_se0.25',),
        ('r4_k3_s2_e6_o80',),
        ('r2_k3_s1_e6_o112_se0.25',),
        ('r3_k5_s2_e6_o160_se0.25',),
        ('r1_k3_s1_e6_o320',),
    )
)
B1 = Genotype(
    (
        ('r1_k3_s1_e1_o16_noskip',),
        ('r3_k3_s2_e3_o24',),
        ('r3_k5_s2_e3_o40',),
        ('r3_k5_s2_e6_o80',),
        ('r2_k3_s1_e6_o96',),
        ('r4_k5_s2_e6_o192',),
        ('r1_k3_s1_e6_o320_noskip',),
    )
)
SMALL = Genotype(
    (
        ('r1_k3_s1_e1_o8',),
        ('r1_k3_s2_e3_o16',),
        ('r2_k3_s2_e6_o16',),
        ('r4_k5_s2_e6_o32_se0.25',),
        ('r3_k3_s1_e6_o32_se0.25',),
        ('r3_k5_s2_e6_o88_se0.25',),
        ('r1_k3_s1_e6_o144',),
    )
)


class MnasNet(nn.Module):
    """Inverted residuals with ReLU; gates have a share of the input channels of a block."""

    genotype: Genotype
    width: float = 1.0  # multiplier of all channels but those of the last convolution
    stem_features: int = 32
    head_features: int = 1280
    padding: Padding = None  # 'SAME' is that of the authors' code, and its epsilon 1e-3
    epsilon: float = 1e-5
    dropout_rate: float = 0.2
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.99
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, padding=self.padding, dtype=self.dtype)
        norm = batch_norm(self, train, momentum=self.bn_momentum, epsilon=self.epsilon)
        block = functools.partial(InvertedResidual, conv=conv, norm=norm)
        runs = inverted.scaled(self.genotype, self.width)
        stem = round_channels(self.stem_features * self.width)
        x = inverted.stem(self, images, stem, conv, norm, 'relu')
        x = inverted.stages(self, x, runs, block, 'relu')
        kernel_init = init.VarianceScaling(1 / 3, 'fan_out', 'uniform')
        return inverted.head(self, x, self.head_features, conv, norm, 'relu', train, kernel_init)


def _torchvision():
    """Yields our name and torchvision's for each layer of B1."""
    yield from (('conv_stem', 'layers.0'), ('bn1', 'layers.1'))
    layers = (('conv_pw', 0), ('bn1', 1), ('conv_dw', 3), ('bn2', 4), ('conv_pwl', 6), ('bn3', 7))
    for name, _ in inverted.blocks(inverted.scaled(B1)):
        _, stage, block = name.split('.')
        if stage == '0':
            yield from ((f'{name}.{layer}', f'layers.{i}') for layer, i in layers[2:])
        else:
            prefix = f'layers.{int(stage) + 7}.{block}.layers'
            yield from ((f'{name}.{layer}', f'{prefix}.{i}') for layer, i in layers)
    yield from (('conv_head', 'layers.14'), ('bn2', 'layers.15'), ('classifier', 'classifier.1'))


# timm's names; top-1 and top-5 are from the authors' README.
TIMM = {
    'mnasnet_a1': ('timm:semnasnet_100', A1, 1.0, 3_887_038, 311_579_072, 75.2, 92.5),
    'mnasnet_a1_140': ('timm:semnasnet_140', A1, 1.4, 6_105_992, 586_317_952, 77.2, 93.5),
    'mnasnet_a1_075': ('timm:semnasnet_075', A1, 0.75, 2_912_278, 223_448_480, 73.3, 91.3),
    'mnasnet_a1_050': ('timm:semnasnet_050', A1, 0.5, 2_082_006, 103_162_992, 68.9, 88.4),
    'mnasnet_b1_140': ('timm:mnasnet_140', B1, 1.4, 7_115_728, 588_799_408, None, None),
    'mnasnet_b1_075': ('timm:mnasnet_075', B1, 0.75, 3_170_208, 215_493_104, None, None),
    'mnasnet_b1_050': ('timm:mnasnet_050', B1, 0.5, 2_218_512, 104_455_968, None, None),
}
register_table(
    TIMM,
    'reference genotype width params macs top1 top5',
    system=SYSTEM,
    module=MnasNet,
    input_size=224,
    renames=inverted.TIMM,
)
register(
    Variant(
        'mnasnet_small',
        SYSTEM,
        MnasNet,
        {'genotype': SMALL, 'stem_features': 8, 'dropout_rate': 0.0},
        input_size=224,
        params=2_030_264,
        macs=68_339_184,
        top1=66.0,  # "about 66" in the authors' README
        reference='timm:mnasnet_small',
        renames=inverted.TIMM,
    )
)
register(
    Variant(
        'mnasnet_b1',
        SYSTEM,
        MnasNet,
        {'genotype': B1},
        input_size=224,
        params=4_383_312,
        macs=314_415_872,
        top1=74.5,
        reference='torchvision:mnasnet1_0',
        renames=inverted.renames(_torchvision()),
        old_names=inverted.from_timm(_torchvision()),
    )
)
register(
    Variant(
        'mnasnet_b1_130',
        SYSTEM,
        MnasNet,
        {'genotype': B1, 'width': 1.3},
        input_size=224,
        params=6_282_256,
        macs=526_362_432,
        reference='torchvision:mnasnet1_3',
        renames=inverted.renames(_torchvision()),
        old_names=inverted.from_timm(_torchvision()),
    )
)
