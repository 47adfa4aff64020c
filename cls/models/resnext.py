"""ResNeXt: Aggregated Residual Transformations (Xie, Girshick, Dollar, Tu, He; CVPR 2017).

https://arxiv.org/abs/1611.05431

What is new: 'cardinality'. A bottleneck becomes C paths of the same form, d channels wide each
(written C x d), whose sums are added to the shortcut; figure 3 (c), built here, is the same with a
3x3 convolution of C groups. Table 1 has the ImageNet nets, section 5.3 the CIFAR ones. All else is
ResNet (cls/nn/residual.py), with the stride on the 3x3 convolution as in the authors' code.

Agrees with: timm's nets of these names (torchvision's resnext50_32x4d, 101_64x4d and 101_32x8d are
the same), whose names the parameters bear; resnext101_32x8d is torchvision's and not in the paper.
The CIFAR nets agree with pytorchcv's and the authors' code, which says that the paper's numbers for
CIFAR are by pre-activated blocks and batches of 256, and that these blocks and batches of 128 give
better ones.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import residual
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
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
    """A residual net of grouped bottlenecks, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    cardinality: int  # C, paths of a block
    path_width: int  # d, channels of a path in the first stage; doubled with each stage
    widths: Sequence[int] = (64, 128, 256, 512)  # a quarter of the stages' outputs
    cifar: bool = False  # 3x3 stem without pooling
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)

        def block(width, strides, index, name):
            inner = self.cardinality * self.path_width * width // self.widths[0]
            parts = (width, strides, index, conv, norm, residual.option_b)
            return Bottleneck(*parts, inner=inner, groups=self.cardinality, name=name)

        stem = residual.cifar_stem if self.cifar else residual.stem
        x = stem(self, images, conv, norm, self.widths[0])
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        return residual.head(self, x)


# Package, blocks per stage, C, d (Table 1), parameters and multiply-adds, and the paper's top-1 and
# top-5 (Tables 3 and 4).
IMAGENET = {
    'resnext50_32x4d': ('timm', (3, 4, 6, 3), 32, 4, 25_028_904, 4_230_479_872, 77.8, None),
    'resnext101_32x4d': ('timm', (3, 4, 23, 3), 32, 4, 44_177_704, 7_969_996_800, 78.8, 94.4),
    'resnext101_64x4d': ('timm', (3, 4, 23, 3), 64, 4, 83_455_272, 15_460_270_080, 79.6, 94.7),
    'resnext101_32x8d': (
        'torchvision',
        (3, 4, 23, 3),
        32,
        8,
        88_791_336,
        16_414_015_488,
        None,
        None,
    ),
}
for name, (package, sizes, c, d, params, macs, top1, top5) in IMAGENET.items():
    fields = {'stage_sizes': sizes, 'cardinality': c, 'path_width': d}
    reference = f'{package}:{name}'
    register(
        Variant(name, SYSTEM, ResNeXt, fields, 224, params, macs, top1, top5, reference=reference)
    )

# C, d, parameters and multiply-adds, and CIFAR-10 top-1 (Table 7; means of ten runs).
CIFAR = {
    'resnext29_8x64d_cifar': (8, 64, 34_426_698, 5_387_266_048, 96.35),
    'resnext29_16x64d_cifar': (16, 64, 68_155_210, 10_688_866_304, 96.42),
}
# pytorchcv's names, which for a CIFAR stem are shorter by one.
PYTORCHCV_CIFAR = ((r'^(conv|bn)1\.', r'features.init_block.\1.'), *residual.PYTORCHCV)
for name, (c, d, params, macs, top1) in CIFAR.items():
    fields = {
        'stage_sizes': (3, 3, 3),
        'cardinality': c,
        'path_width': d,
        'widths': (64, 128, 256),
        'cifar': True,
        'num_classes': 10,
    }
    known = {'reference': f'pytorchcv:{name}10', 'renames': PYTORCHCV_CIFAR}
    register(Variant(name, SYSTEM, ResNeXt, fields, 32, params, macs, top1, **known))
