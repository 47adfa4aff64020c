"""IGCV1: Interleaved Group Convolutions for Deep Neural Networks (Zhang et al.; ICCV 2017).

https://arxiv.org/abs/1707.02725

What is new: a convolution is the product of two group convolutions, with a permutation in between.
The primary one, 3x3, has L groups of M channels; the secondary one, 1x1, has M groups, each with
one channel from every primary group. For the same parameters such a layer is wider than a dense
one.

Agrees with: the authors' MXNet code (github.com/hellozting/InterleavedGroupConvolutions). The
names follow its parts: g0 ... g4 for the stages, b1, b2, ... for the blocks of a stage, proj for
the projection of a shortcut. No package has these networks; the tests have an independent
reimplementation. Counts of the ImageNet networks are those of the graphs that the authors published
with their weights; their published code builds only L100M2. There is no normalization between the
two convolutions.

That code leaves the paper's rule in two places, and so do we. In the residual CIFAR networks the
first convolution of a unit that doubles the width keeps the number of secondary groups of the
previous width, so that these have 2L channels. In plain networks the momentum of the running
statistics is 0.99, elsewhere 0.9.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.igc import InterleavedConv
from cls.nn.norm import batch_norm
from cls.nn.pool import max_pool
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='IGCV1',
    title='Interleaved Group Convolutions for Deep Neural Networks',
    venue='ICCV 2017',
    arxiv='1707.02725',
    top1=73.05,
    top5=91.08,
    headline='igc_l100m2',
    params=8.61,
    macs=1_300,
)


class IGCUnit(nn.Module):
    """Two interleaved group convolutions and a shortcut ('+Ident.') with grouped projection."""

    features: int
    primary: int
    secondary: tuple[int, int]  # secondary groups of each of the two
    strides: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        igc = functools.partial(InterleavedConv, self.features, conv=self.conv, norm=self.norm)
        first, second = self.secondary
        y = igc((self.primary, first), strides=self.strides, name='conv1')(x)
        y = igc((self.primary, second), act=None, name='conv2')(y)
        if x.shape[-1] != self.features:
            project = functools.partial(ConvNorm, self.features, 1, self.conv, self.norm)
            x = project(self.strides, groups=self.primary, act=None, name='proj')(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Units (in a plain network convolutions) at one resolution; the first may halve it."""

    size: int
    partitions: tuple[int, int]  # L, M
    strides: int
    residual: bool
    late: bool  # the first convolution has the secondary groups of the previous width
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', L * M)."""
        primary, secondary = self.partitions
        parts = {'conv': self.conv, 'norm': self.norm}
        for i in range(self.size):
            parts |= {'strides': self.strides if i == 0 else 1, 'name': f'b{i + 1}'}
            if self.residual:
                first = x.shape[-1] // primary if self.late else secondary
                unit = IGCUnit(primary * secondary, primary, (first, secondary), **parts)
            else:
                unit = InterleavedConv(primary * secondary, self.partitions, **parts)
            x = unit(x)
        return x


class IGCV1(nn.Module):
    """A stem, three or four stages of interleaved group convolutions, and a linear classifier."""

    blocks: Sequence[int]  # units in each stage; in a plain network, convolutions
    partitions: Sequence[tuple[int, int]]  # of each stage: L primary and M secondary groups
    stem_features: int
    residual: bool = True  # '+Ident.'
    cifar: bool = False  # 3x3 stem without pooling, and `late` stages
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        momentum = 0.9 if self.residual else 0.99
        norm = batch_norm(self, train, momentum=momentum, epsilon=2e-5)

        window, strides = (3, 1) if self.cifar else (7, 2)
        x = ConvNorm(self.stem_features, window, conv, norm, strides=strides, name='g0')(images)
        x = x if self.cifar else max_pool(x, 3, 2, padding=1)
        self.sow('intermediates', 'stem', x)
        for i, (size, partitions) in enumerate(zip(self.blocks, self.partitions, strict=True), 1):
            strides = 1 if i == 1 else 2
            stage = Stage(
                size, partitions, strides, self.residual, self.cifar, conv, norm, name=f'g{i}'
            )
            x = stage(x)
            self.sow('intermediates', f'stage{i}', x)
        return residual.head(self, x)


# L and M of each stage (M doubles from stage to stage, in L100M2 L does). Top-1 and top-5 are by a
# single crop (the authors' README).
IMAGENET = {
    'igc_l4m32': ((4,) * 4, (32, 64, 128, 256), 128, 12_251_240, 1_944_641_536, 69.23, 89.01),
    'igc_l16m16': ((16,) * 4, (16, 32, 64, 128), 256, 13_528_296, 2_265_989_120, 70.60, 89.68),
    'igc_l100m2': ((100, 200, 400, 800), (2,) * 4, 100, 8_637_900, 1_264_780_800, 73.05, 91.08),
}
# L, M, blocks in each of three stages. The depth in the name counts the stem, the linear layer, and
# in between three stages of blocks of one convolution, or in residual networks of two.
CIFAR = {
    'igc_l24m2_d20_cifar': (24, 2, 6, False, 155_962, 28_755_840),
    'igc_l24m2_d38_cifar': (24, 2, 12, False, 317_242, 57_067_392),
    'igc_l24m2_d62_cifar': (24, 2, 20, False, 532_282, 94_816_128),
    'igc_l24m2_ident_d20_cifar': (24, 2, 3, True, 164_410, 29_738_880),
    'igc_l24m2_ident_d38_cifar': (24, 2, 6, True, 325_690, 58_050_432),
    'igc_l24m2_ident_d62_cifar': (24, 2, 10, True, 540_730, 95_799_168),
    'igc_l4m8_d38_cifar': (4, 8, 12, False, 575_914, 86_213_888),
    'igc_l32m26_ident_d20_cifar': (32, 26, 3, True, 24_215_370, 3_741_024_768),
}


def _imagenet(
    primary: Sequence[int], secondary: Sequence[int], stem_features: int
) -> dict[str, Any]:
    partitions = tuple(zip(primary, secondary, strict=True))
    return {'blocks': (2,) * 4, 'partitions': partitions, 'stem_features': stem_features}


def _cifar(primary: int, secondary: int, blocks: int, residual: bool) -> dict[str, Any]:
    """Returns the fields of a CIFAR network; M doubles from stage to stage."""
    return {
        'blocks': (blocks,) * 3,
        'partitions': tuple((primary, secondary * scale) for scale in (1, 2, 4)),
        'stem_features': primary * secondary,
        'residual': residual,
        'cifar': True,
        'num_classes': 10,
    }


register_table(
    IMAGENET,
    'primary secondary stem_features params macs top1 top5',
    system=SYSTEM,
    module=IGCV1,
    fields=_imagenet,
    input_size=224,
)
register_table(
    CIFAR,
    'primary secondary blocks residual params macs',
    system=SYSTEM,
    module=IGCV1,
    fields=_cifar,
    input_size=32,
)
