"""SENet: Squeeze-and-Excitation Networks (Hu, Shen, Albanie, Sun, Wu; CVPR 2018).

https://arxiv.org/abs/1709.01507

What is new: a unit that scales each channel of a block's output by a function of the global
averages of all channels (cls/nn/attention.py). In ResNet and ResNeXt it is on the residual before
the sum (figure 3), in BN-Inception on each module's output (figure 2). SENet-154 is a ResNeXt-152
(64x4d) with further changes (appendix): the first 1x1 convolutions have half the channels, three
3x3 convolutions replace the 7x7 one, projections with stride 2 are 3x3, and dropout precedes the
classifier.

Agrees with: timm's legacy_* networks, with the same parameter names and the graph of the authors'
Caffe networks: the stem's pooling is not padded and rounds its size up (Caffe's), and SE-ResNet has
the stride in the first 1x1 convolution. se_bn_inception agrees with an independent reimplementation
of the authors' Caffe network. Caffe refuses an odd height or width before a strided module; our
pooling pads it, so that all branches of the module have the size of its convolutions.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import residual
from cls.nn.attention import SqueezeExcite
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.residual import Bottleneck, Projection
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='SENet',
    title='Squeeze-and-Excitation Networks',
    venue='CVPR 2018',
    arxiv='1709.01507',
    top1=None,
    top5=97.749,  # ensemble, test set (first place of ILSVRC 2017)
    headline='seresnet50',
    params=28.1,
    macs=3_870,
)


class SENet(nn.Module):
    """A residual network of bottlenecks with squeeze and excitation."""

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    inner: tuple[int, int] = (1, 1)  # channels of the 1x1 and 3x3 convolutions, in widths
    groups: int = 1  # of the 3x3 convolutions
    stride_on_first: bool = False  # of a block's convolutions
    deep: bool = False  # SENet-154's stem and projections
    reduction: int = 16  # r
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        def excite(block, x):
            return SqueezeExcite(x.shape[-1] // self.reduction, conv, name='se_module')(x)

        def block(width, strides, index, name):
            return Bottleneck(
                width,
                strides,
                index,
                conv,
                norm,
                shortcut=wide_projection if self.deep else residual.option_b,
                refine=excite,
                stride_on_first=self.stride_on_first,
                inner=(self.inner[0] * width, self.inner[1] * width),
                groups=self.groups,
                name=name,
            )

        x, width = images, self.widths[0]
        convolutions = ((width, 3, 2), (width, 3, 1), (2 * width, 3, 1))
        for i, shape in enumerate(convolutions if self.deep else ((width, 7, 2),), 1):
            x = nn.relu(norm(name=f'layer0.bn{i}')(conv(*shape, name=f'layer0.conv{i}')(x)))
        x = max_pool(x, 3, 2, ceil_mode=True)
        self.sow('intermediates', 'stem', x)
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        return residual.head(self, x, name='last_linear', dropout=dropout)


def wide_projection(block: nn.Module, x: jax.Array) -> jax.Array:
    """Returns the shortcut by option B, with 3x3 convolutions for stride 2 (appendix, c)."""
    if block.strides == 1:
        return residual.option_b(block, x)
    features = block.width * block.expansion
    parts = (features, block.strides, block.conv, block.norm)
    return Projection(*parts, window=3, name='downsample')(x)


# BN-Inception's modules (Ioffe & Szegedy 2015, figure 5): channels of the 1x1 convolution; of the
# 1x1 and the 3x3; of the 1x1 and the two 3x3; the pooling, and channels of its 1x1 projection.
# Modules without the first and the last have stride 2, and begin a stage.
INCEPTION = {
    '3a': (64, (64, 64), (64, 96), avg_pool, 32),
    '3b': (64, (64, 96), (64, 96), avg_pool, 64),
    '3c': (0, (128, 160), (64, 96), max_pool, 0),
    '4a': (224, (64, 96), (96, 128), avg_pool, 128),
    '4b': (192, (96, 128), (96, 128), avg_pool, 128),
    '4c': (160, (128, 160), (128, 160), avg_pool, 128),
    '4d': (96, (128, 192), (160, 192), avg_pool, 128),
    '4e': (0, (128, 192), (192, 256), max_pool, 0),
    '5a': (352, (192, 320), (160, 224), avg_pool, 128),
    '5b': (352, (192, 320), (192, 224), max_pool, 128),
}


class InceptionModule(nn.Module):
    """A module of INCEPTION with squeeze and excitation; names are those of the Caffe network."""

    single: int
    triple: tuple[int, int]
    double: tuple[int, int]
    pool: Any
    projection: int
    reduction: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', C')."""

        def unit(features, window, name, x, strides=1):
            return ConvNorm(features, window, self.conv, self.norm, strides, name=name)(x)

        strides = 1 if self.single else 2
        y = unit(self.triple[0], 1, '3x3_reduce', x)
        branches = [unit(self.triple[1], 3, '3x3', y, strides)]
        y = unit(self.double[0], 1, 'double3x3_reduce', x)
        y = unit(self.double[1], 3, 'double3x3a', y)
        branches += [unit(self.double[1], 3, 'double3x3b', y, strides)]
        if self.single:
            counted = {'count_padding': True} if self.pool is avg_pool else {}
            pooled = self.pool(x, 3, 1, 1, **counted)
            branches = [unit(self.single, 1, '1x1', x), *branches]
            branches += [unit(self.projection, 1, 'pool_proj', pooled)]
        else:
            branches += [self.pool(x, 3, 2, 'SAME')]  # unpadded for even sizes, rounding up
        x = jnp.concatenate(branches, -1)
        names = ('1x1_down', '1x1_up')
        return SqueezeExcite(x.shape[-1] // self.reduction, self.conv, names=names, name='se')(x)


class SEBNInception(nn.Module):
    """BN-Inception with squeeze and excitation in its modules."""

    reduction: int = 16
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        x = ConvNorm(64, 7, conv, norm, 2, name='conv1')(images)
        x = max_pool(x, 3, 2, ceil_mode=True)
        x = ConvNorm(64, 1, conv, norm, name='conv2_reduce')(x)
        x = ConvNorm(192, 3, conv, norm, name='conv2')(x)
        x = max_pool(x, 3, 2, ceil_mode=True)
        self.sow('intermediates', 'stem', x)
        inception: Any = functools.partial(
            InceptionModule, reduction=self.reduction, conv=conv, norm=norm
        )
        for name, module in INCEPTION.items():
            x = inception(*module, name=f'inception_{name}')(x)
            if name in ('3b', '4d', '5b'):
                self.sow('intermediates', f'stage{int(name[0]) - 2}', x)
        return residual.head(self, x, name='classifier')


RESNET = {'stride_on_first': True}
RESNEXT = {'inner': (2, 2), 'groups': 32}
SENET_154 = {'inner': (2, 4), 'groups': 64, 'deep': True, 'dropout_rate': 0.2}
# Top-1 and top-5 are the paper's (Table 2; SENet-154: Table 8, and 82.72 and 96.21 at 320 pixels).
TABLE = {
    'seresnet50': (RESNET, (3, 4, 6, 3), 28_088_024, 3_860_488_192, 76.71, 93.38),
    'seresnet101': (RESNET, (3, 4, 23, 3), 49_326_872, 7_574_937_600, 77.62, 93.93),
    'seresnet152': (RESNET, (3, 8, 36, 3), 66_821_848, 11_288_993_792, 78.43, 94.27),
    'seresnext50_32x4d': (RESNEXT, (3, 4, 6, 3), 27_559_896, 4_232_994_816, 78.90, 94.51),
    'seresnext101_32x4d': (RESNEXT, (3, 4, 23, 3), 48_955_416, 7_974_739_968, 79.30, 94.99),
    'senet154': (SENET_154, (3, 8, 36, 3), 115_088_984, 20_688_363_520, 81.32, 95.53),
}
register_table(
    TABLE,
    'fields stage_sizes params macs top1 top5',
    system=SYSTEM,
    module=SENet,
    input_size=224,
    reference=lambda name: f'timm:legacy_{name}',
)
register(
    Variant(
        'se_bn_inception', SYSTEM, SEBNInception, {}, 224, 11_931_622, 2_033_239_424, 75.77, 92.86
    )
)
