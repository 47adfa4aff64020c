"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware (ICLR 2019).

Cai, Zhu, Han; https://arxiv.org/abs/1812.00332

What is new: the search runs directly on ImageNet and for the target device, as memory holds only
one path at a time of the network with all candidates. Candidates for each of 21 blocks are inverted
residuals with windows of 3, 5 or 7 and expansion 3 or 6, and no block at all, for shallower
networks (section 4.2). `genotype` is a point of that space.

Agrees with: pytorchcv's proxylessnas_*, the authors' released networks
(github.com/mit-han-lab/proxylessnas); an omitted block leaves a gap in its numbering of blocks, not
in ours. The authors draw depthwise kernels smaller (he_fout without division by the groups); the
following normalization cancels the difference.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import inverted
from cls.nn.conv import Conv
from cls.nn.inverted import Genotype, InvertedResidual
from cls.nn.norm import batch_norm

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

# The authors' networks (github.com/han-cai/files, proxylessnas/*.config; the paper's figure 4).
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
    """A network of ProxylessNAS's space: inverted residuals with ReLU6."""

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
        norm = batch_norm(self, train, epsilon=1e-3)
        block = functools.partial(InvertedResidual, conv=conv, norm=norm)
        x = inverted.stem(self, images, self.stem_features, conv, norm, 'relu6')
        x = inverted.stages(self, x, inverted.scaled(self.genotype), block, 'relu6')
        return inverted.head(self, x, self.head_features, conv, norm, 'relu6', train)


def _renames(present: tuple[tuple[int, ...], ...]) -> tuple[tuple[str, str], ...]:
    """Returns the pairs for pytorchcv's names, from the numbers of the units in its five stages."""
    return (
        (r'^conv_stem\.', 'features.init_block.conv.'),
        (r'^bn1\.', 'features.init_block.bn.'),
        (r'^conv_head\.', 'features.final_block.conv.'),
        (r'^bn2\.', 'features.final_block.bn.'),
        (r'^classifier\.', 'output.'),
        *(
            (rf'^blocks\.{stage}\.{block}\.', f'features.stage{stage + 1}.unit{unit}.body.')
            for stage, units in enumerate(present)
            for block, unit in enumerate(units)
        ),
        (r'\.conv_pw\.', '.bc_conv.conv.'),
        (r'\.body\.bn1\.', '.body.bc_conv.bn.'),
        (r'\.conv_dw\.', '.dw_conv.conv.'),
        (r'\.body\.bn2\.', '.body.dw_conv.bn.'),
        (r'\.conv_pwl\.', '.pw_conv.conv.'),
        (r'\.body\.bn3\.', '.body.pw_conv.bn.'),
    )


# Top-1 and top-5 are the paper's (section 4.2), for mobile14 those of the released network.
TABLE = {
    'proxyless_gpu': (GPU, 40, 1728, 7_119_848, 465_260_160, 75.1, 92.5),
    'proxyless_cpu': (CPU, 40, 1432, 4_361_648, 439_243_864, 75.3, 92.4),
    'proxyless_mobile': (MOBILE, 32, 1280, 4_080_512, 320_427_584, 74.6, 92.2),
    'proxyless_mobile14': (MOBILE_14, 48, 1792, 6_857_568, 580_883_408, 76.7, 93.3),
}
EIGHT, FIVE = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5)
PRESENT = {
    'proxyless_gpu': ((1,), (1,), (1, 4), (1, 4, 5, 7, 8), FIVE),
    'proxyless_cpu': ((1,), (1, 2, 3, 4), (1, 2, 3, 4), (1, 4, 5, 6, 7, 8), FIVE),
    'proxyless_mobile': ((1,), (1, 2), (1, 2, 3, 4), EIGHT, FIVE),
    'proxyless_mobile14': ((1,), (1, 2), (1, 2, 3, 4), EIGHT, FIVE),
}
register_table(
    TABLE,
    'genotype stem_features head_features params macs top1 top5',
    system=SYSTEM,
    module=ProxylessNAS,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name.replace("proxyless", "proxylessnas")}',
    renames=lambda name: _renames(PRESENT[name]),
)
