"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware (ICLR 2019).

Cai, Zhu, Han; https://arxiv.org/abs/1812.00332

What is new: the search runs on ImageNet itself and for the device that the net is meant for, as
only one path of the net that holds all candidates is in memory at a time. Candidates for each of 21
blocks are inverted residuals with windows of 3, 5 or 7 and expansion 3 or 6, and none at all, which
makes a net shallower (section 4.2). `genotype` is a point of that space.

Agrees with: pytorchcv's proxylessnas_*, which hold the authors' released nets
(github.com/mit-han-lab/proxylessnas); a candidate that is none leaves a gap in its numbering of
blocks, not in ours. The authors draw depthwise kernels smaller (he_fout without division by the
groups), which the normalisation behind them undoes.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual
from cls.nn.norm import BatchNorm

SYSTEM = System(
    name='ProxylessNAS',
    title='ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware',
    venue='ICLR 2019',
    arxiv='1812.00332',
    top1=75.1,
    top5=92.5,
    headline='proxyless_gpu',
    params=7.1,
    macs=465,
)

# The authors' nets (github.com/han-cai/files, proxylessnas/*.config; the paper's figure 4).
GPU = Genotype(
    (
        ('r1_k3_s1_e1_o24',),
        ('r1_k5_s2_e3_o32',),
        ('r1_k7_s2_e3_o56', 'r1_k3_s1_e3_o56'),
        (
            'r1_k7_s2_e6_o112',
            'r1_k5_s1_e3_o112',
            'r1_k5_s1_e6_o128',
            'r1_k3_s1_e3_o128',
            'r1_k5_s1_e3_o128',
        ),
        ('r1_k7_s2_e6_o256', 'r2_k7_s1_e6_o256', 'r1_k5_s1_e6_o256', 'r1_k7_s1_e6_o432'),
    )
)
CPU = Genotype(
    (
        ('r1_k3_s1_e1_o24',),
        ('r1_k3_s2_e6_o32', 'r3_k3_s1_e3_o32'),
        ('r1_k3_s2_e6_o48', 'r2_k3_s1_e3_o48', 'r1_k5_s1_e3_o48'),
        ('r1_k3_s2_e6_o88', 'r1_k3_s1_e3_o88', 'r1_k5_s1_e6_o104', 'r3_k3_s1_e3_o104'),
        ('r1_k5_s2_e6_o216', 'r2_k5_s1_e3_o216', 'r1_k3_s1_e3_o216', 'r1_k5_s1_e6_o360'),
    )
)
MOBILE = Genotype(
    (
        ('r1_k3_s1_e1_o16',),
        ('r1_k5_s2_e3_o32', 'r1_k3_s1_e3_o32'),
        ('r1_k7_s2_e3_o40', 'r1_k3_s1_e3_o40', 'r2_k5_s1_e3_o40'),
        ('r1_k7_s2_e6_o80', 'r3_k5_s1_e3_o80', 'r1_k5_s1_e6_o96', 'r3_k5_s1_e3_o96'),
        ('r1_k7_s2_e6_o192', 'r1_k7_s1_e6_o192', 'r2_k7_s1_e3_o192', 'r1_k7_s1_e6_o320'),
    )
)
MOBILE_14 = Genotype(  # MOBILE with 1.4 times the channels
    (
        ('r1_k3_s1_e1_o24',),
        ('r1_k5_s2_e3_o40', 'r1_k3_s1_e3_o40'),
        ('r1_k7_s2_e3_o56', 'r1_k3_s1_e3_o56', 'r2_k5_s1_e3_o56'),
        ('r1_k7_s2_e6_o112', 'r3_k5_s1_e3_o112', 'r1_k5_s1_e6_o136', 'r3_k5_s1_e3_o136'),
        ('r1_k7_s2_e6_o256', 'r1_k7_s1_e6_o256', 'r2_k7_s1_e3_o256', 'r1_k7_s1_e6_o448'),
    )
)


class ProxylessNAS(nn.Module):
    """A net of ProxylessNAS's space: inverted residuals with ReLU6 and without gates."""

    genotype: Genotype
    stem_features: int
    head_features: int
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm, train, epsilon=1e-3, group=self.bn_group, dtype=self.dtype
        )
        block = functools.partial(InvertedResidual, conv=conv, norm=norm)
        x = inverted.stem(self, images, self.stem_features, conv, norm, 'relu6')
        x = inverted.stages(self, x, inverted.scaled(self.genotype), block, 'relu6')
        return inverted.head(self, x, self.head_features, conv, norm, 'relu6', train)


# pytorchcv's names; `present` are the numbers, in its five stages, of units with a block.
def _renames(present: tuple[tuple[int, ...], ...]) -> tuple[tuple[str, str], ...]:
    return (
        (r'^conv_stem\.', 'features.init_block.conv.'),
        (r'^bn1\.', 'features.init_block.bn.'),
        (r'^conv_head\.', 'features.final_block.conv.'),
        (r'^bn2\.', 'features.final_block.bn.'),
        (r'^classifier\.', 'output.'),
        *(
            (rf'^blocks\.{stage}\.{place}\.', f'features.stage{stage + 1}.unit{unit}.body.')
            for stage, units in enumerate(present)
            for place, unit in enumerate(units)
        ),
        (r'\.conv_pw\.', '.bc_conv.conv.'),
        (r'\.body\.bn1\.', '.body.bc_conv.bn.'),
        (r'\.conv_dw\.', '.dw_conv.conv.'),
        (r'\.body\.bn2\.', '.body.dw_conv.bn.'),
        (r'\.conv_pwl\.', '.pw_conv.conv.'),
        (r'\.body\.bn3\.', '.body.pw_conv.bn.'),
    )


# Genotype, channels of stem and head, parameters, multiply-adds, top-1 and top-5 in percent: the
# paper's (section 4.2), but mobile14's, which are the authors' of the net that they released.
TABLE = {
    'gpu': (GPU, 40, 1728, 7_119_848, 465_260_160, 75.1, 92.5),
    'cpu': (CPU, 40, 1432, 4_361_648, 439_243_864, 75.3, 92.4),
    'mobile': (MOBILE, 32, 1280, 4_080_512, 320_427_584, 74.6, 92.2),
    'mobile14': (MOBILE_14, 48, 1792, 6_857_568, 580_883_408, 76.7, 93.3),
}
EIGHT, FIVE = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5)
PRESENT = {
    'gpu': ((1,), (1,), (1, 4), (1, 4, 5, 7, 8), FIVE),
    'cpu': ((1,), (1, 2, 3, 4), (1, 2, 3, 4), (1, 4, 5, 6, 7, 8), FIVE),
    'mobile': ((1,), (1, 2), (1, 2, 3, 4), EIGHT, FIVE),
    'mobile14': ((1,), (1, 2), (1, 2, 3, 4), EIGHT, FIVE),
}
for name, (genotype, stem, head, params, macs, top1, top5) in TABLE.items():
    register(
        Variant(
            f'proxyless_{name}',
            SYSTEM,
            ProxylessNAS,
            {'genotype': genotype, 'stem_features': stem, 'head_features': head},
            224,
            params,
            macs,
            top1,
            top5,
            reference=f'pytorchcv:proxylessnas_{name}',
            renames=_renames(PRESENT[name]),
        )
    )
