"""Res2Net: A New Multi-scale Backbone Architecture (Gao et al.; TPAMI 2019).

https://arxiv.org/abs/1904.01169

What is new: the 3x3 convolution of a bottleneck is split into `scales` groups of channels that read
each other's outputs in turn, y1 = x1, yi = Ki(xi + y(i-1)) (figure 2), so that one block has
receptive fields of several sizes. Res2NeXt uses grouped convolutions in it; the DLA networks are
deep layer aggregation (1707.06484) with such blocks. '26w_4s' is a width of 26 channels, at the
first stage, in each of 4 scales.

Agrees with: timm's res2net50_26w_4s ... and dla60_res2net, dla60_res2next, with the names and the
weights of the authors' code (github.com/Res2Net/Res2Net-PretrainedModels). The CIFAR networks are
in no package. They are tested against an independent reimplementation and have the parameters of
public reproductions: 23.7, 33.0 and 36.1 million, where Table 4 says 24.3, 33.8 and 36.7.

Departs from the paper, with the authors' code: the group without a convolution is the last, not the
first; in the first block of a stage it is average-pooled (3x3, zeros included), and the other
groups do not read each other. The DLA networks have fewer parameters than the authors count (20.85
and 17.03 for 21.15 and 17.33 million): their code has unused projections. Max pools of the DLA
networks round odd sizes up, as the parallel convolutions do; otherwise some image sizes would not
fit.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import residual
from cls.nn.conv import Conv
from cls.nn.dla import Tree
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool

SYSTEM = System(
    name='Res2Net',
    title='Res2Net: A New Multi-scale Backbone Architecture',
    venue='TPAMI 2019',
    arxiv='1904.01169',
    top1=79.20,  # Res2Net-50, 26w x 8s
    top5=94.37,
    headline='res2net50_26w_8s',
    params=48.4,
    macs=8_300,
)


def bottle2neck(
    block: nn.Module, x: jax.Array, shortcut: jax.Array, inner: int, features: int, first: bool
) -> jax.Array:
    """Returns the output of a bottleneck with several scales in place of its 3x3 convolution.

    Args:
      block: has `conv`, `norm`, `strides`, `scales` and `groups` (of a scale's convolution).
      x: (N, H, W, C).
      shortcut: (N, H', W', features), added to the result.
      inner: channels of a scale.
      features: channels of the result.
      first: whether scales are independent and the last is average-pooled, as in the first block of
        a stage.
    """
    x = block.conv(inner * block.scales, 1, name='conv1')(x)
    x = nn.relu(block.norm(name='bn1')(x))
    *convolved, last = jnp.split(x, block.scales, axis=-1)
    outputs = []
    for i, part in enumerate(convolved):
        y = part if first or i == 0 else part + outputs[-1]
        y = block.conv(inner, 3, block.strides, groups=block.groups, name=f'convs.{i}')(y)
        outputs.append(nn.relu(block.norm(name=f'bns.{i}')(y)))
    if first:
        last = avg_pool(last, 3, block.strides, padding=1, count_padding=True)
    x = block.conv(features, 1, name='conv3')(jnp.concatenate([*outputs, last], axis=-1))
    return nn.relu(block.norm(name='bn3')(x) + shortcut)


class Bottle2neck(nn.Module):
    """The block of the residual networks, for cls.nn.residual."""

    width: int
    strides: int
    index: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    base_width: int  # of a scale and group, at `width` 64
    scales: int
    groups: int
    shortcut: Callable[[nn.Module, jax.Array], jax.Array] = residual.option_b
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', 4 * width)."""
        inner = math.floor(self.width * self.base_width / 64) * self.groups
        shortcut = self.shortcut(self, x)
        first = shortcut is not x
        return bottle2neck(self, x, shortcut, inner, self.width * self.expansion, first)


class Res2Net(nn.Module):
    """A residual network of Bottle2necks, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    base_width: int
    scales: int
    groups: int = 1
    widths: Sequence[int] = (64, 128, 256, 512)
    cifar: bool = False
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
        block = functools.partial(
            Bottle2neck,
            conv=conv,
            norm=norm,
            base_width=self.base_width,
            scales=self.scales,
            groups=self.groups,
            shortcut=residual.averaged if self.averaged else residual.option_b,
        )
        if self.deep_stem:
            x = residual.deep_stem(self, images, conv, norm, self.deep_stem)
        else:
            stem = residual.cifar_stem if self.cifar else residual.stem
            x = stem(self, images, conv, norm, self.widths[0])
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        return residual.head(self, x)


class DLABottle2neck(nn.Module):
    """The block of the DLA networks: half as wide inside; its shortcut comes from the tree."""

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    base_width: int
    scales: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, shortcut: jax.Array) -> jax.Array:
        """Maps (N, H, W, C), and the shortcut (N, H', W', features), to (N, H', W', features)."""
        inner = math.floor(self.features * self.base_width / 64) * self.groups // 2
        return bottle2neck(self, x, shortcut, inner, self.features, self.strides > 1)


class Res2NetDLA(nn.Module):
    """DLA-60 of DLABottle2necks: three plain convolutions and four trees."""

    base_width: int
    scales: int = 4
    groups: int = 1
    levels: Sequence[int] = (1, 2, 3, 1)
    widths: Sequence[int] = (16, 32, 128, 256, 512, 1024)
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        block = functools.partial(
            DLABottle2neck,
            conv=conv,
            norm=norm,
            base_width=self.base_width,
            scales=self.scales,
            groups=self.groups,
        )
        x = images
        plain = (
            ('base_layer', self.widths[0], 7, 1),
            ('level0', self.widths[0], 3, 1),
            ('level1', self.widths[1], 3, 2),
        )
        for name, width, window, strides in plain:
            x = conv(width, window, strides, name=f'{name}.0')(x)
            x = nn.relu(norm(name=f'{name}.1')(x))
        self.sow('intermediates', 'stem', x)
        for i, (levels, width) in enumerate(zip(self.levels, self.widths[2:], strict=True), 1):
            level_root = i > 1
            x = Tree(levels, width, 2, block, conv, norm, level_root, name=f'level{i + 1}')(x)
            self.sow('intermediates', f'stage{i}', x)
        x = jnp.mean(x, (1, 2), keepdims=True)
        self.sow('intermediates', 'pre_logits', x[:, 0, 0])
        x = conv(self.num_classes, 1, use_bias=True, name='fc')(x)
        return x[:, 0, 0].astype(jnp.float32)


# Top-1 and top-5 are from the authors' README, here and in DLA.
IMAGENET = {
    'res2net50_48w_2s': ((3, 4, 6, 3), 48, 2, 1, 25_287_304, 4_159_832_064, 77.32, 93.53),
    'res2net50_26w_4s': ((3, 4, 6, 3), 26, 4, 1, 25_699_120, 4_255_166_464, 77.99, 93.85),
    'res2net50_14w_8s': ((3, 4, 6, 3), 14, 8, 1, 25_059_816, 4_178_898_944, 78.14, 93.86),
    'res2net50_26w_6s': ((3, 4, 6, 3), 26, 6, 1, 37_051_448, 6_295_523_328, 78.58, 94.13),
    'res2net50_26w_8s': ((3, 4, 6, 3), 26, 8, 1, 48_403_776, 8_335_880_192, 79.20, 94.37),
    'res2net101_26w_4s': ((3, 4, 23, 3), 26, 4, 1, 45_206_688, 8_066_974_464, 79.19, 94.43),
    'res2next50': ((3, 4, 6, 3), 4, 4, 8, 24_671_464, 4_172_677_120, 78.24, 93.91),
}
# The authors' networks with the stem and shortcuts of ResNet-D (1812.01187).
D = {
    'res2net50d': ((3, 4, 6, 3), 25_718_352, 4_494_807_040),
    'res2net101d': ((3, 4, 23, 3), 45_225_920, 8_306_615_040),
}
DLA = {
    'dla60_res2net': (28, 1, 20_848_072, 4_122_681_344, 78.47, 94.20),
    'dla60_res2next': (4, 8, 17_032_984, 3_458_752_512, 78.45, 94.14),
}
# Top-1 on CIFAR-100 (Table 4).
CIFAR = {
    'res2next29_6c_24w_4s_cifar': (24, 4, 6, 23_705_732, 3_852_374_016, 83.02),
    'res2next29_8c_25w_4s_cifar': (25, 4, 8, 32_957_436, 5_366_935_552, 83.07),
    'res2next29_6c_24w_6s_cifar': (24, 6, 6, 36_146_180, 5_879_009_280, 83.21),
}

register_table(
    IMAGENET,
    'stage_sizes base_width scales groups params macs top1 top5',
    system=SYSTEM,
    module=Res2Net,
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register_table(
    D,
    'stage_sizes params macs',
    system=SYSTEM,
    module=Res2Net,
    fields={'base_width': 26, 'scales': 4, 'deep_stem': (32, 32, 64), 'averaged': True},
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register_table(
    DLA,
    'base_width groups params macs top1 top5',
    system=SYSTEM,
    module=Res2NetDLA,
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register_table(
    CIFAR,
    'base_width scales groups params macs top1',
    system=SYSTEM,
    module=Res2Net,
    fields={
        'stage_sizes': (3, 3, 3),
        'widths': (64, 128, 256),
        'cifar': True,
        'num_classes': 100,
    },
    input_size=32,
)
