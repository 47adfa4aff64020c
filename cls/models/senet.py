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

The networks that timm and pytorchcv added agree with these packages: they pool as PyTorch's ResNet
does (`padded`). sepreactresnet* have pre-activation units (1603.05027); those for CIFAR have no
norm before the classifier.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import preact, residual
from cls.nn.attention import SqueezeExcite
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.residual import BasicBlock, Bottleneck, Projection
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
    """A residual network with squeeze and excitation, and the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: bool = True
    inner: tuple[int, int] = (1, 1)  # channels of the 1x1 and 3x3 convolutions, in widths
    groups: int = 1  # of the 3x3 convolutions
    stride_on_first: bool = False  # of a block's convolutions
    deep: bool = False  # SENet-154's stem and projections
    deep_stem: Sequence[int] = ()  # channels of 3x3 convolutions in place of the 7x7 one
    averaged: bool = False  # shortcuts average pixels instead of skipping them
    cifar: bool = False  # a 3x3 stem without pooling
    padded: bool = False  # the stem's pooling, on all sides, as in PyTorch's ResNet
    reduction: int = 16  # r
    rectified: bool = False  # a rectifier before the gates
    drop_path_rate: float = 0.0  # of the last block, rising from 0 in the first
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        shortcut = residual.averaged if self.averaged else residual.option_b
        drop_rate = self.drop_path_rate if train else 0.0
        gates = excite(self.reduction, conv, self.rectified)
        shape = {
            'conv': conv,
            'norm': norm,
            'shortcut': wide_projection if self.deep else shortcut,
            'refine': residual.dropping(drop_rate, sum(self.stage_sizes), gates),
        }

        def block(width, strides, index, name):
            if not self.bottleneck:
                return BasicBlock(width, strides, index, **shape, name=name)
            return Bottleneck(
                width,
                strides,
                index,
                **shape,
                stride_on_first=self.stride_on_first,
                inner=(self.inner[0] * width, self.inner[1] * width),
                groups=self.groups,
                name=name,
            )

        x, width = images, self.widths[0]
        stem = ((width, 3, 1),) if self.cifar else ((width, 7, 2),)
        widths = (width, width, 2 * width) if self.deep else self.deep_stem
        if widths:
            stem = tuple((width, 3, 1 if i else 2) for i, width in enumerate(widths))
        for i, convolution in enumerate(stem, 1):
            x = nn.relu(norm(name=f'layer0.bn{i}')(conv(*convolution, name=f'layer0.conv{i}')(x)))
        if not self.cifar:
            x = max_pool(x, 3, 2, padding=int(self.padded), ceil_mode=not self.padded)
        self.sow('intermediates', 'stem', x)
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        return residual.head(self, x, name='last_linear', dropout=dropout)


def excite(
    reduction: int, conv: Callable[..., nn.Module], rectified: bool = False
) -> residual.Refine:
    """Returns squeeze and excitation of a residual, with 1 / `reduction` of the channels inside."""

    def refine(block: nn.Module, x: jax.Array) -> jax.Array:
        x = nn.relu(x) if rectified else x
        return SqueezeExcite(x.shape[-1] // reduction, conv, name='se_module')(x)

    return refine


def wide_projection(block: nn.Module, x: jax.Array) -> jax.Array:
    """Returns the shortcut by option B, with 3x3 convolutions for stride 2 (appendix, c)."""
    if block.strides == 1:
        return residual.option_b(block, x)
    features = block.width * block.expansion
    parts = (features, block.strides, block.conv, block.norm)
    return Projection(*parts, window=3, name='downsample')(x)


class SEPreActResNet(nn.Module):
    """A pre-activation residual network (1603.05027) with squeeze and excitation."""

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: bool = False
    stride_on_first: bool = False  # of a bottleneck's convolutions
    cifar: bool = False  # a 3x3 stem without pooling, and no norm before the classifier
    reduction: int = 16  # r
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        refine = excite(self.reduction, conv)
        layers = preact.basic
        if self.bottleneck:
            layers = functools.partial(preact.bottleneck, stride_on_first=self.stride_on_first)

        def unit(width: int, strides: int, name: str) -> nn.Module:
            return preact.PreActUnit(layers(width, strides), conv, norm, refine=refine, name=name)

        stem = residual.cifar_stem if self.cifar else residual.stem
        x = stem(self, images, conv, norm, self.widths[0])
        sizes = zip(self.stage_sizes, self.widths, strict=True)
        x = preact.stages(self, x, unit, [(width,) * size for size, width in sizes])
        return residual.head(self, x, 'output') if self.cifar else preact.head(self, x, norm)


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
# Networks that timm added. The legacy ones have the authors' pooling, the rest that of PyTorch's
# ResNet and of the tricks of 1812.01187.
LEGACY = {
    'legacy_seresnet18': (
        {'bottleneck': False, 'rectified': True},
        (2, 2, 2, 2),
        11_778_592,
        1_814_160_384,
    ),
    'legacy_seresnet34': (
        {'bottleneck': False, 'rectified': True},
        (3, 4, 6, 3),
        21_958_868,
        3_663_918_592,
    ),
    'legacy_seresnext26_32x4d': (RESNEXT, (2, 2, 2, 2), 16_790_280, 2_472_099_840),
}
D = {'deep_stem': (32, 32, 64), 'averaged': True}
TIMM = {
    'seresnet152d': (D, (3, 8, 36, 3), 66_841_080, 11_759_845_376),
    'seresnext26d_32x4d': (RESNEXT | D, (2, 2, 2, 2), 16_809_512, 2_711_740_416),
    'seresnext26t_32x4d': (
        RESNEXT | D | {'deep_stem': (24, 32, 64)},
        (2, 2, 2, 2),
        16_806_976,
        2_680_129_536,
    ),
    'seresnext101_32x8d': (
        {'inner': (4, 4), 'groups': 32},
        (3, 4, 23, 3),
        93_569_048,
        16_418_758_656,
    ),
    'seresnext101d_32x8d': (
        D | {'inner': (4, 4), 'groups': 32},
        (3, 4, 23, 3),
        93_588_280,
        16_658_399_232,
    ),
}


def _timm(name: str) -> tuple[tuple[str, str], ...]:
    """Returns renames to timm's names, which are those of its ResNets."""
    last = 3 if 'deep_stem' in TIMM[name][0] else 1
    numbered = last > 1
    return (
        (rf'^layer0\.bn{last}\.', 'bn1.'),
        *(
            (rf'^layer0\.conv{i + 1}\.', f'conv1.{3 * i}.' if numbered else 'conv1.')
            for i in range(3)
        ),
        *((rf'^layer0\.bn{i + 1}\.', f'conv1.{3 * i + 1}.') for i in range(2)),
        (r'\.se_module\.', '.se.'),
        (r'^last_linear\.', 'fc.'),
    )


register_table(
    LEGACY,
    'fields stage_sizes params macs',
    system=SYSTEM,
    module=SENet,
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
register_table(
    TIMM,
    'fields stage_sizes params macs',
    system=SYSTEM,
    module=SENet,
    fields={'padded': True},
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=_timm,
)
# Networks that pytorchcv added, with the pooling of PyTorch's ResNet. Those named `b` have the
# stride of a bottleneck in the 3x3 convolution.
FIRST = {'stride_on_first': True}
BOTTLENECK = {'bottleneck': True}
BASIC = {'bottleneck': False}
NARROW = {'inner': (1, 2), 'groups': 32, 'deep': True, 'dropout_rate': 0.2}
SHALLOW = {
    'seresnet10': (BASIC, (1, 1, 1, 1), 5_463_332, 889_272_832),
    'seresnet12': (BASIC, (2, 1, 1, 1), 5_537_896, 1_120_484_352),
    'seresnet14': (BASIC, (2, 2, 1, 1), 5_835_504, 1_351_697_408),
    'seresnet16': (BASIC, (2, 2, 2, 1), 7_024_640, 1_582_916_608),
    'seresnet18': (BASIC, (2, 2, 2, 2), 11_778_592, 1_814_160_384),
    'seresnet26': (BASIC, (3, 3, 3, 3), 18_093_852, 2_739_047_936),
    'seresnet34': (BASIC, (3, 4, 6, 3), 21_958_868, 3_663_918_592),
    'seresnetbc14b': ({}, (1, 1, 1, 1), 10_765_336, 1_469_489_152),
    'seresnetbc26b': ({}, (2, 2, 2, 2), 17_395_976, 2_343_649_280),
    'seresnetbc38b': ({}, (3, 3, 3, 3), 24_026_616, 3_217_809_408),
    'seresnet50b': ({}, (3, 4, 6, 3), 28_088_024, 4_091_699_200),
    'seresnet101b': ({}, (3, 4, 23, 3), 49_326_872, 7_806_148_608),
    'seresnet152b': ({}, (3, 8, 36, 3), 66_821_848, 11_520_204_800),
    'seresnet200': (FIRST, (3, 24, 36, 3), 71_835_864, 14_783_373_312),
    'seresnet200b': ({}, (3, 24, 36, 3), 71_835_864, 15_014_584_320),
    'seresnext101_64x4d': (
        {'inner': (4, 4), 'groups': 64},
        (3, 4, 23, 3),
        88_232_984,
        15_465_013_248,
    ),
}
DEEP = {
    'senet16': (NARROW, (1, 1, 1, 1), 31_366_168, 5_062_893_568),
    'senet28': (NARROW, (2, 2, 2, 2), 36_453_768, 5_709_053_952),
    'senet40': (NARROW, (3, 3, 3, 3), 41_541_368, 6_355_214_336),
    'senet52': (NARROW, (3, 4, 6, 3), 44_659_416, 7_001_104_384),
    'senet103': (NARROW, (3, 4, 23, 3), 60_963_096, 9_746_554_880),
}
PREACT = {
    'sepreactresnet10': ((1, 1, 1, 1), {}, 5_461_668, 889_272_832),
    'sepreactresnet12': ((2, 1, 1, 1), {}, 5_536_232, 1_120_484_352),
    'sepreactresnet14': ((2, 2, 1, 1), {}, 5_833_840, 1_351_697_408),
    'sepreactresnet16': ((2, 2, 2, 1), {}, 7_022_976, 1_582_916_608),
    'sepreactresnet18': ((2, 2, 2, 2), {}, 11_776_928, 1_814_160_384),
    'sepreactresnet26': ((3, 3, 3, 3), {}, 18_092_188, 2_739_047_936),
    'sepreactresnet34': ((3, 4, 6, 3), {}, 21_957_204, 3_663_918_592),
    'sepreactresnetbc26b': ((2, 2, 2, 2), BOTTLENECK, 17_388_424, 2_343_649_280),
    'sepreactresnetbc38b': ((3, 3, 3, 3), BOTTLENECK, 24_019_064, 3_217_809_408),
    'sepreactresnet50': ((3, 4, 6, 3), BOTTLENECK | FIRST, 28_080_472, 3_860_488_192),
    'sepreactresnet50b': ((3, 4, 6, 3), BOTTLENECK, 28_080_472, 4_091_699_200),
    'sepreactresnet101': ((3, 4, 23, 3), BOTTLENECK | FIRST, 49_319_320, 7_574_937_600),
    'sepreactresnet101b': ((3, 4, 23, 3), BOTTLENECK, 49_319_320, 7_806_148_608),
    'sepreactresnet152': ((3, 8, 36, 3), BOTTLENECK | FIRST, 66_814_296, 11_288_993_792),
    'sepreactresnet152b': ((3, 8, 36, 3), BOTTLENECK, 66_814_296, 11_520_204_800),
    'sepreactresnet200': ((3, 24, 36, 3), BOTTLENECK | FIRST, 71_828_312, 14_783_373_312),
    'sepreactresnet200b': ((3, 24, 36, 3), BOTTLENECK, 71_828_312, 15_014_584_320),
}
# Networks for CIFAR, also of pytorchcv: blocks in each of three stages.
CIFAR = {
    'seresnet20_cifar': (3, False, 274_847, 40_815_200),
    'seresnet56_cifar': (9, False, 862_889, 125_753_888),
    'seresnet110_cifar': (18, False, 1_744_952, 253_161_920),
    'seresnet1202_cifar': (200, False, 19_582_226, 2_829_635_456),
    'seresnet164_cifar': (18, True, 1_906_258, 247_840_256),
    'seresnet272_cifar': (30, True, 3_153_826, 408_401_408),
    'seresnet542_cifar': (60, True, 6_272_746, 809_804_288),
    'seresnet1001_cifar': (111, True, 11_574_910, 1_492_189_184),
}
PREACT_CIFAR = {
    'sepreactresnet20_cifar': (3, False, 274_559, 40_815_200),
    'sepreactresnet56_cifar': (9, False, 862_601, 125_753_888),
    'sepreactresnet110_cifar': (18, False, 1_744_664, 253_161_920),
    'sepreactresnet1202_cifar': (200, False, 19_581_938, 2_829_635_456),
    'sepreactresnet164_cifar': (18, True, 1_904_882, 247_840_256),
    'sepreactresnet272_cifar': (30, True, 3_152_450, 408_401_408),
    'sepreactresnet542_cifar': (60, True, 6_271_370, 809_804_288),
    'sepreactresnet1001_cifar': (111, True, 11_573_534, 1_492_189_184),
}
# pytorchcv's names.
_GATES = (r'\.se_module\.fc(\d)\.', r'.se.conv\1.')
PYTORCHCV = (
    (r'^layer0\.(conv|bn)1\.', r'features.init_block.conv.\1.'),
    *residual.PYTORCHCV,
    _GATES,
    (r'^last_linear\.', 'output.'),
)
PYTORCHCV_CIFAR = ((r'^layer0\.(conv|bn)1\.', r'features.init_block.\1.'), *PYTORCHCV)
PYTORCHCV_DEEP = (
    (r'^layer0\.(conv|bn)(\d)\.', r'features.init_block.conv\2.\1.'),
    *residual.PYTORCHCV,
    _GATES,
    (r'^last_linear\.', 'output.fc.'),
)
PYTORCHCV_PREACT = (*preact.PYTORCHCV, _GATES)


def _pytorchcv(name: str) -> str:
    """Returns pytorchcv's name; that of the bottlenecks for CIFAR has a `bn`."""
    name = name.replace('preact', 'pre')
    if name.endswith('_cifar'):
        depth = name.partition('resnet')[2].removesuffix('_cifar')
        bottleneck = 'bn' if depth in ('164', '272', '542') else ''
        name = name.replace(f'{depth}_cifar', f'{depth}{bottleneck}_cifar10')
    return f'pytorchcv:{name}'


def _cifar(blocks: int, bottleneck: bool) -> dict[str, Any]:
    return {
        'stage_sizes': (blocks,) * 3,
        'widths': (16, 32, 64),
        'bottleneck': bottleneck,
        'cifar': True,
        'num_classes': 10,
    }


register(
    Variant(
        'se_bn_inception', SYSTEM, SEBNInception, {}, 224, 11_931_622, 2_033_239_424, 75.77, 92.86
    )
)
register_table(
    SHALLOW,
    'fields stage_sizes params macs',
    system=SYSTEM,
    module=SENet,
    fields={'padded': True},
    input_size=224,
    reference=_pytorchcv,
    renames=PYTORCHCV,
)
register_table(
    DEEP,
    'fields stage_sizes params macs',
    system=SYSTEM,
    module=SENet,
    fields={'padded': True},
    input_size=224,
    reference=_pytorchcv,
    renames=PYTORCHCV_DEEP,
)
register_table(
    PREACT,
    'stage_sizes fields params macs',
    system=SYSTEM,
    module=SEPreActResNet,
    input_size=224,
    reference=_pytorchcv,
    renames=PYTORCHCV_PREACT,
)
register_table(
    CIFAR,
    'blocks bottleneck params macs',
    system=SYSTEM,
    module=SENet,
    fields=_cifar,
    input_size=32,
    reference=_pytorchcv,
    renames=PYTORCHCV_CIFAR,
)
register_table(
    PREACT_CIFAR,
    'blocks bottleneck params macs',
    system=SYSTEM,
    module=SEPreActResNet,
    fields=_cifar,
    input_size=32,
    reference=_pytorchcv,
    renames=PYTORCHCV_PREACT,
)
