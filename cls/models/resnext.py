"""ResNeXt: Aggregated Residual Transformations (Xie, Girshick, Dollar, Tu, He; CVPR 2017).

https://arxiv.org/abs/1611.05431

What is new: 'cardinality'. A bottleneck becomes C paths of the same form, each d channels wide
(written C x d); their sum is added to the shortcut. Figure 3 (c), built here, is the same with a
3x3 convolution of C groups. Table 1 has the ImageNet networks, section 5.3 the CIFAR ones. The rest
is ResNet (cls/nn/residual.py), with the stride in the 3x3 convolution as in the authors' code.

Agrees with: timm's networks of these names, with the same parameter names (torchvision's
resnext50_32x4d, 101_64x4d and 101_32x8d are the same); the networks of 32 wide paths and ResNeXt-D
are not in the paper. The CIFAR networks agree with pytorchcv's and the authors' code. That code
says that the
paper's numbers for CIFAR are from pre-activation blocks and batches of 256, and that these blocks
and batches of 128 give better ones.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.residual import Bottleneck

SYSTEM = System(
    name='ResNeXt',
    title='Aggregated Residual Transformations for Deep Neural Networks',
    venue='CVPR 2017',
    arxiv='1611.05431',
    top1=None,
    top5=96.97,  # ensemble, test set (second place of ILSVRC 2016)
    headline='resnext101_64x4d',
    macs=15_600,
)


class ResNeXt(nn.Module):
    """A residual network of grouped bottlenecks, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    cardinality: int  # C, paths of a block
    path_width: int  # d, channels of a path in the first stage; each stage doubles them
    widths: Sequence[int] = (64, 128, 256, 512)  # a quarter of the stages' outputs
    cifar: bool = False  # 3x3 stem without pooling
    deep_stem: Sequence[int] = ()  # as ResNet's
    averaged: bool = False  # as ResNet's
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        shortcut = residual.averaged if self.averaged else residual.option_b

        def block(width, strides, index, name):
            inner = self.cardinality * self.path_width * width // self.widths[0]
            parts = (width, strides, index, conv, norm, shortcut)
            return Bottleneck(*parts, inner=inner, groups=self.cardinality, name=name)

        if self.deep_stem:
            x = residual.deep_stem(self, images, conv, norm, self.deep_stem)
        else:
            stem = residual.cifar_stem if self.cifar else residual.stem
            x = stem(self, images, conv, norm, self.widths[0])
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        return residual.head(self, x)


# Blocks per stage are Table 1's; top-1 and top-5 are the paper's (Tables 3 and 4).
IMAGENET = {
    'resnext50_32x4d': ((3, 4, 6, 3), 32, 4, 25_028_904, 4_230_479_872, 77.8, None),
    'resnext101_32x4d': ((3, 4, 23, 3), 32, 4, 44_177_704, 7_969_996_800, 78.8, 94.4),
    'resnext101_64x4d': ((3, 4, 23, 3), 64, 4, 83_455_272, 15_460_270_080, 79.6, 94.7),
}
# Wide networks pretrained on photographs with hashtags (1805.00932), and ResNeXt with the stem and
# shortcuts of ResNet-D.
MORE = {
    'resnext101_32x16d': ((3, 4, 23, 3), 16, {}, 194_026_792, 36_163_289_088),
    'resnext101_32x32d': ((3, 4, 23, 3), 32, {}, 468_530_472, 87_106_781_184),
    'resnext50d_32x4d': (
        (3, 4, 6, 3),
        4,
        {'deep_stem': (32, 32, 64), 'averaged': True},
        25_048_136,
        4_470_120_448,
    ),
}
# Shallow networks that pytorchcv added.
SHALLOW = {
    'resnext14_16x4d': (1, 16, 4, 7_127_336, 1_035_272_192),
    'resnext14_32x2d': (1, 32, 2, 7_029_416, 1_020_821_504),
    'resnext14_32x4d': (1, 32, 4, 9_411_880, 1_590_820_864),
    'resnext26_16x4d': (2, 16, 4, 10_119_976, 1_475_215_360),
    'resnext26_32x2d': (2, 32, 2, 9_924_136, 1_446_313_984),
    'resnext26_32x4d': (2, 32, 4, 15_389_480, 2_470_707_200),
    'resnext38_32x4d': (3, 32, 4, 21_367_080, 3_350_593_536),
}


def _shallow(blocks: int, **fields: int) -> dict[str, Any]:
    return {'stage_sizes': (blocks,) * 4, **fields}


register_table(
    IMAGENET,
    'stage_sizes cardinality path_width params macs top1 top5',
    system=SYSTEM,
    module=ResNeXt,
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register(
    Variant(
        'resnext101_32x8d',
        SYSTEM,
        ResNeXt,
        {'stage_sizes': (3, 4, 23, 3), 'cardinality': 32, 'path_width': 8},
        input_size=224,
        params=88_791_336,
        macs=16_414_015_488,
        reference='torchvision:resnext101_32x8d',
    )
)

register_table(
    MORE,
    'stage_sizes path_width fields params macs',
    system=SYSTEM,
    module=ResNeXt,
    fields={'cardinality': 32},
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register_table(
    SHALLOW,
    'blocks cardinality path_width params macs',
    system=SYSTEM,
    module=ResNeXt,
    fields=_shallow,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=residual.PYTORCHCV,
)

# Top-1 on CIFAR-10 (Table 7; means of ten runs).
CIFAR = {
    'resnext29_8x64d_cifar': (3, 8, 64, 34_426_698, 5_387_266_048, 96.35),
    'resnext29_16x64d_cifar': (3, 16, 64, 68_155_210, 10_688_866_304, 96.42),
    'resnext20_16x4d_cifar': (2, 16, 4, 1_995_082, 322_119_680, None),
    'resnext20_32x2d_cifar': (2, 32, 2, 1_946_698, 315_041_792, None),
    'resnext20_32x4d_cifar': (2, 32, 4, 3_295_562, 558_573_568, None),
    'resnext29_32x4d_cifar': (3, 32, 4, 4_775_754, 774_055_936, None),
    'resnext272_1x64d_cifar': (30, 1, 64, 44_540_746, 6_523_922_432, None),
    'resnext272_2x32d_cifar': (30, 2, 32, 32_928_586, 4_825_229_312, None),
}


def _cifar(blocks: int, **fields: int) -> dict[str, Any]:
    return {
        'stage_sizes': (blocks,) * 3,
        'widths': (64, 128, 256),
        'cifar': True,
        'num_classes': 10,
        **fields,
    }


register_table(
    CIFAR,
    'blocks cardinality path_width params macs top1',
    system=SYSTEM,
    module=ResNeXt,
    fields=_cifar,
    input_size=32,
    reference=lambda name: f'pytorchcv:{name}10',
    renames=residual.PYTORCHCV_CIFAR,
)
