"""Inception-v3: Rethinking the Inception Architecture for Computer Vision (CVPR 2016).

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna; https://arxiv.org/abs/1512.00567

What is new: large convolutions are factorized into small and into asymmetric ones (nx1 after 1xn),
pooling and strided convolutions halve the resolution in parallel, the auxiliary classifier is
batch-normalized, and labels are smoothed (part of the loss).

Agrees with: timm's inception_v3, and torchvision's inception_v3, with the latter's parameter names,
including those of the auxiliary head, a training-only part. Both are the authors' released network
(slim/inception_model.py in TensorFlow's models repository). The paper's Table 1 differs: its stem
ends in three 3x3 convolutions, where this one has 1x1, 3x3 and a pool, and it has 3, 5, 2 blocks.

Departs from the released network, with both packages: the average pool of a block includes the
zeros of its padding, where TensorFlow excludes them (`count_padding`), and norms have a scale.
Initial values are those of the released code. Images have at least 75 pixels a side; the auxiliary
head, designed for 17x17 pixels, has a smaller window on smaller maps and averages over larger ones.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import inception, init
from cls.nn.dense import Dense
from cls.nn.inception import MAX, Mixed, Unit
from cls.nn.pool import avg_pool

SYSTEM = System(
    name='Inception-v3',
    title='Rethinking the Inception Architecture for Computer Vision',
    venue='CVPR 2016',
    arxiv='1512.00567',
    top1=82.8,  # four networks, 144 crops (Table 5)
    top5=96.42,
    headline='inception_v3',
    macs=5_000,
)

AVERAGE = functools.partial(inception.AVERAGE, count_padding=True)


def inception_a(pool: int, average: inception.Pool = AVERAGE) -> inception.Branches:
    """Returns the branches at 35x35 (figure 5, with one 5x5 kept); pooling has `pool` channels."""
    return {
        'branch1x1': (Unit(64, 1),),
        'branch5x5': (Unit(48, 1), Unit(64, 5)),
        'branch3x3dbl': (Unit(64, 1), Unit(96, 3), Unit(96, 3)),
        'branch_pool': (average, Unit(pool, 1)),
    }


# 35x35 to 17x17 (figure 10).
REDUCTION_A = {
    'branch3x3': (Unit(384, 3, 2, 'VALID'),),
    'branch3x3dbl': (Unit(64, 1), Unit(96, 3), Unit(96, 3, 2, 'VALID')),
    'branch_pool': (MAX,),
}


def inception_b(inner: int, average: inception.Pool = AVERAGE) -> inception.Branches:
    """Returns the branches at 17x17, with factorized 7x7 (figure 6, n = 7) of `inner` channels."""
    row, column = (1, 7), (7, 1)
    return {
        'branch1x1': (Unit(192, 1),),
        'branch7x7': (Unit(inner, 1), Unit(inner, row), Unit(192, column)),
        'branch7x7dbl': (
            Unit(inner, 1),
            *(Unit(inner, window) for window in (column, row, column)),
            Unit(192, row),
        ),
        'branch_pool': (average, Unit(192, 1)),
    }


# 17x17 to 8x8.
REDUCTION_B = {
    'branch3x3': (Unit(192, 1), Unit(320, 3, 2, 'VALID')),
    'branch7x7x3': (
        Unit(192, 1),
        Unit(192, (1, 7)),
        Unit(192, (7, 1)),
        Unit(192, 3, 2, 'VALID'),
    ),
    'branch_pool': (MAX,),
}
BOTH_WAYS = (Unit(384, (1, 3)), Unit(384, (3, 1)))


def inception_c(average: inception.Pool = AVERAGE) -> inception.Branches:
    """Returns the branches at 8x8, with 1x3 and 3x1 in parallel (figure 7)."""
    return {
        'branch1x1': (Unit(320, 1),),
        'branch3x3': (Unit(384, 1), BOTH_WAYS),
        'branch3x3dbl': (Unit(448, 1), Unit(384, 3), BOTH_WAYS),
        'branch_pool': (average, Unit(192, 1)),
    }


class AuxiliaryHead(nn.Module):
    """The normalized auxiliary classifier on the last 17x17 block (section 4, figure 8)."""

    num_classes: int
    unit: inception.MakeUnit
    last_unit: inception.MakeUnit
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, num_classes) logits."""
        x = avg_pool(x, min(5, *x.shape[1:3]), 3)
        x = self.unit(Unit(128, 1), name='conv0')(x)
        window = (min(5, x.shape[1]), min(5, x.shape[2]))
        x = self.last_unit(Unit(768, window, padding='VALID'), name='conv1')(x)
        dense = Dense(
            self.num_classes, dtype=self.dtype, kernel_init=init.Normal(0.001, cut=True), name='fc'
        )
        return dense(jnp.mean(x, (1, 2)))


class InceptionV3(nn.Module):
    """Three resolutions of Inception blocks; fields give the widths that differ between blocks."""

    pool_widths: Sequence[int] = (32, 64, 64)  # of the pooling branch, for each block at 35x35
    inner_widths: Sequence[int] = (128, 160, 160, 192)  # for each block at 17x17
    last_blocks: int = 2  # at 8x8
    width: float = 1.0  # multiplier of the features of all units
    small_images: bool = False  # a stem of one convolution for 16 to 32 pixels (ours)
    count_padding: bool = True  # in average pools; False: TensorFlow's
    aux_head: bool = True
    dropout_rate: float = 0.2  # of the released code
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv, unit = inception.layers(self, train, init.Normal(0.1, cut=True))
        average = functools.partial(inception.AVERAGE, count_padding=self.count_padding)

        stem = inception.SMALL_STEM if self.small_images else inception.STEM
        x = inception.chain(images, stem, unit)
        self.sow('intermediates', 'stem', x)
        for letter, pool in zip('bcdefgh', self.pool_widths, strict=False):
            x = Mixed(inception_a(pool, average), unit, name=f'Mixed_5{letter}')(x)
        self.sow('intermediates', 'stage1', x)
        x = Mixed(REDUCTION_A, unit, name='Mixed_6a')(x)
        for letter, inner in zip('bcdefgh', self.inner_widths, strict=False):
            x = Mixed(inception_b(inner, average), unit, name=f'Mixed_6{letter}')(x)
        self.sow('intermediates', 'stage2', x)
        if self.aux_head and (train or self.is_initializing()):
            last_conv = functools.partial(conv, kernel_init=init.Normal(0.01, cut=True))
            last_unit = functools.partial(unit, conv=last_conv)
            head = AuxiliaryHead(self.num_classes, unit, last_unit, self.dtype, name='AuxLogits')
            aux_logits = head(x).astype(jnp.float32)
            if train:
                self.sow('aux_logits', 'aux', aux_logits)
        x = Mixed(REDUCTION_B, unit, name='Mixed_7a')(x)
        for letter in 'bcdefgh'[: self.last_blocks]:
            x = Mixed(inception_c(average), unit, name=f'Mixed_7{letter}')(x)
        self.sow('intermediates', 'stage3', x)
        return inception.head(self, x, train, 'fc', init.Normal(0.01, cut=True))


register(
    Variant(
        'inception_v3',
        SYSTEM,
        InceptionV3,
        {},
        input_size=299,
        params=23_834_568,
        macs=5_713_216_096,
        top1=78.8,  # Table 3, the last row
        top5=94.4,
        reference='timm:inception_v3',
        renames=(
            (r'^conv2d_3b\.', 'Conv2d_3b_1x1.'),
            (r'^conv2d_(\w\w)\.', r'Conv2d_\1_3x3.'),
            (r'\.branch_pool\.1\.', '.branch_pool.'),
            *((rf'\.(branch\w+)\.{i}', rf'.\1_{i + 1}') for i in range(5)),
        ),
    )
)
