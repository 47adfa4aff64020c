"""IGCV2: Interleaved Structured Sparse Convolutional Neural Networks (Xie et al.; CVPR 2018).

https://arxiv.org/abs/1804.06202

What is new: IGCV1 makes a convolution the product of two sparse ones; here it is one of several, a
channel-wise 3x3 convolution and grouped 1x1 convolutions, with permutations between. Two
conditions guide the numbers K of channels in a group. The complementary one has the K of all 1x1
convolutions multiply to the width C, so that each output is reached from each input by one path.
The balance condition makes parameters fewest: all K equal, to 9 for a 3x3 window.

No code and no table of widths is published, and these nets are FITTED to the published numbers
of parameters and multiply-adds. What is certain is the form of the block, as IGCV1 with nothing
between the convolutions; that it widens where it halves the resolution, as there.

ImageNet's three nets replace MobileNet's layers (1704.04861, Table 1). One multiplier of its
widths, 1.25, then times 1, 0.5 and 0.25, meets the published multiply-adds to 1.8, 0.3 and -0.8 %
and parameters to 6.8, 10.7 and 6.6 % (which are given with two digits and one), if there are two
1x1 convolutions, of K = C / 2 and 2: complementary, but not balanced. No multiplier of MobileNet's
widths meets both for balanced blocks: with K = 8, and as many convolutions as make them
complementary, the best are off by 25, 19 and 12 %.

CIFAR's net has 20 layers as IGCV1's, three stages of six, and two 1x1 convolutions of K = 8:
balanced, but not complementary within a block. A first width of 416 is then the multiple of 8
that has the published 0.65 M parameters for 100 classes. It has no shortcuts here.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, Variant, register
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.igc import InterleavedConv
from cls.nn.norm import BatchNorm
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='IGCV2',
    title='IGCV2: Interleaved Structured Sparse Convolutional Neural Networks',
    venue='CVPR 2018',
    arxiv='1804.06202',
    top1=70.7,
    top5=None,
    headline='igcv2_1_0',
    params=4.1,
    macs=564,
)


def complete(branches: Sequence[int], features: int) -> tuple[int, ...]:
    """Returns how many channels a group of each 1x1 convolution has, with 0 replaced.

    A single 0 becomes what the complementary condition wants: the product is `features`. Raises
    UserError when a number does not divide `features`.
    """
    rest = features // math.prod(k for k in branches if k)
    known = tuple(k or rest for k in branches)
    if any(k < 1 or features % k for k in known):
        raise UserError(f'groups of {known} channels do not divide {features} channels')
    return known


class IGCV2(nn.Module):
    """A stem, interleaved sparse convolutions, the mean, a linear layer."""

    width: int  # of the stem
    stage_sizes: Sequence[int]  # convolutions in each stage
    scales: Sequence[int]  # widths of the stages, in units of the stem's
    branches: Sequence[int]  # channels in a group of each 1x1 convolution; see `complete`
    stem_strides: int = 2
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
        x = ConvNorm(self.width, 3, conv, norm, strides=self.stem_strides, name='g0')(images)
        self.sow('intermediates', 'stem', x)
        for stage, (size, scale) in enumerate(zip(self.stage_sizes, self.scales, strict=True), 1):
            features = self.width * scale
            pointwise = tuple(features // k for k in complete(self.branches, features))
            for i in range(size):
                groups = (x.shape[-1], *pointwise)
                strides = 2 if i == 0 and stage > 1 else 1
                name = f'g{stage}.b{i + 1}'
                x = InterleavedConv(features, groups, conv, norm, strides, name=name)(x)
            self.sow('intermediates', f'stage{stage}', x)
        return residual.head(self, x)


# The stem's width, parameters and multiply-adds, and the paper's top-1.
IMAGENET = {
    'igcv2_1_0': (40, 4_377_280, 573_913_600, 70.7),
    'igcv2_0_5': (20, 1_439_540, 156_499_200, 65.5),
    'igcv2_0_25': (10, 532_870, 45_635_200, 54.9),
}
for name, (width, *known) in IMAGENET.items():
    fields = {
        'width': width,
        'stage_sizes': (1, 2, 2, 6, 2),
        'scales': (2, 4, 8, 16, 32),
        'branches': (0, 2),
    }
    register(Variant(name, SYSTEM, IGCV2, fields, 224, *known))

fields = {
    'width': 416,
    'stage_sizes': (6, 6, 6),
    'scales': (1, 2, 4),
    'branches': (8, 8),
    'stem_strides': 1,
    'num_classes': 100,
}
# CIFAR-100's top-1.
register(Variant('igcv2_c416_cifar', SYSTEM, IGCV2, fields, 32, 650_308, 123_488_768, 77.05))
