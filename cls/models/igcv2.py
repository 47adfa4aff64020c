"""IGCV2: Interleaved Structured Sparse Convolutional Neural Networks (Xie et al.; CVPR 2018).

https://arxiv.org/abs/1804.06202

What is new: a convolution is the product of several sparse ones instead of IGCV1's two: a
channel-wise 3x3 convolution and grouped 1x1 convolutions, with permutations in between. Two
conditions guide the numbers K of channels in a group. In the complementary condition the K of all
1x1 convolutions multiply to the width C, so that exactly one path leads from each input to each
output. The balance condition minimizes the parameters: all K equal, to 9 for a 3x3 window.

Neither code nor a table of widths is published, and these networks are FITTED to the published
numbers of parameters and multiply-adds. Two facts are certain: a block has the form of IGCV1's,
without normalization between the convolutions, and a network widens at each reduction of the
resolution.

The three ImageNet networks replace the layers of MobileNet (1704.04861, Table 1). One multiplier of
its widths, 1.25, times 1, 0.5 and 0.25, meets the published multiply-adds to 1.8, 0.3 and -0.8 %
and the parameters to 6.8, 10.7 and 6.6 % (published with two digits and one), if there are two 1x1
convolutions, of K = C / 2 and 2: complementary, but not balanced. For balanced blocks no multiplier
of MobileNet's widths meets both: with K = 8, and enough convolutions to make them complementary,
the best are off by 25, 19 and 12 %.

The CIFAR network has 20 layers as IGCV1's, three stages of six, and two 1x1 convolutions of K = 8:
balanced, but not complementary within a block. A first width of 416 is then the multiple of 8 that
gives the published 0.65 M parameters for 100 classes. It has no shortcuts.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.errors import UserError
from cls.models.registry import System, Variant, register, register_table
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.igc import InterleavedConv
from cls.nn.norm import batch_norm
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
    """Returns the number of channels in a group of each 1x1 convolution, with a 0 filled in.

    The complementary condition determines a single 0: the product of all is `features`. Raises
    UserError when a number does not divide `features`.
    """
    rest = features // math.prod(k for k in branches if k)
    sizes = tuple(k or rest for k in branches)
    if any(k < 1 or features % k for k in sizes):
        raise UserError(f'groups of {sizes} channels do not divide {features} channels')
    return sizes


class IGCV2(nn.Module):
    """A stem, stages of interleaved sparse convolutions, and a linear classifier."""

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
        norm = batch_norm(self, train)
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


# Width of the stem; top-1 is the paper's.
IMAGENET = {
    'igcv2_1_0': (40, 4_377_280, 573_913_600, 70.7),
    'igcv2_0_5': (20, 1_439_540, 156_499_200, 65.5),
    'igcv2_0_25': (10, 532_870, 45_635_200, 54.9),
}
register_table(
    IMAGENET,
    'width params macs top1',
    system=SYSTEM,
    module=IGCV2,
    fields={
        'stage_sizes': (1, 2, 2, 6, 2),
        'scales': (2, 4, 8, 16, 32),
        'branches': (0, 2),
    },
    input_size=224,
)
register(
    Variant(
        'igcv2_c416_cifar',
        SYSTEM,
        IGCV2,
        {
            'width': 416,
            'stage_sizes': (6, 6, 6),
            'scales': (1, 2, 4),
            'branches': (8, 8),
            'stem_strides': 1,
            'num_classes': 100,
        },
        input_size=32,
        params=650_308,
        macs=123_488_768,
        top1=77.05,  # CIFAR-100
    )
)
