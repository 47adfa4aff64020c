"""ResNet: Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun; CVPR 2016).

https://arxiv.org/abs/1512.03385

What is new: layers learn a residual that is added to their input, so that networks of a hundred
layers train. Table 1 has the ImageNet networks, section 4.2 the CIFAR ones. The parts are in
cls/nn/residual.py, as later systems modify one of them.

Agrees with: torchvision's resnet18 ... resnet152, with the same parameter names and the stride of a
bottleneck in the 3x3 convolution; the `_v1` variants have the paper's graph, with the stride in the
first 1x1 (pytorchcv's resnet50, 101, 152). The CIFAR networks use the paper's option A: shortcuts
take every second pixel and pad the new channels with zeros, half on each side, as in the public
PyTorch weights for these networks (the paper does not specify the side). The forms C, D, S and T
agree with timm's networks of these names. The networks of further depths and widths, `_projected`
and the bottlenecks for CIFAR (with projections, option B) agree with pytorchcv's.
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
from cls.nn.residual import BasicBlock, Bottleneck

SYSTEM = System(
    name='ResNet',
    title='Deep Residual Learning for Image Recognition',
    venue='CVPR 2016',
    arxiv='1512.03385',
    top1=None,
    top5=96.43,  # ensemble of six, test set (Table 5)
    headline='resnet152_v1',
    macs=11_300,
)


class ResNet(nn.Module):
    """A residual network of basic or bottleneck blocks, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    widths: Sequence[residual.Width] = (64, 128, 256, 512)
    bottleneck: bool = False
    stride_on_first: bool = False  # of a bottleneck's convolutions (the paper's form)
    cifar: bool = False  # 3x3 stem without pooling, and option A shortcuts
    projected: bool = False  # option B shortcuts also in a network for CIFAR
    deep_stem: Sequence[int] = ()  # channels of 3x3 convolutions in place of the 7x7 one (C, D)
    averaged: bool = False  # shortcuts average pixels instead of skipping them (D)
    ceil_pool: bool = False  # the stem's pool as in the authors' Caffe files, see residual.stem
    drop_path_rate: float = 0.0  # of the last block, rising from 0 in the first
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        block = BasicBlock
        if self.bottleneck:
            block = functools.partial(Bottleneck, stride_on_first=self.stride_on_first)
        shortcut = residual.option_a if self.cifar and not self.projected else residual.option_b
        shortcut = residual.averaged if self.averaged else shortcut
        drop_rate, blocks = self.drop_path_rate if train else 0.0, sum(self.stage_sizes)
        refine = residual.dropping(drop_rate, blocks)
        block = functools.partial(block, conv=conv, norm=norm, shortcut=shortcut, refine=refine)

        if self.deep_stem:
            x = residual.deep_stem(self, images, conv, norm, self.deep_stem)
        else:
            imagenet_stem = functools.partial(residual.stem, ceil_pool=self.ceil_pool)
            stem = residual.cifar_stem if self.cifar else imagenet_stem
            x = stem(self, images, conv, norm, residual.each(self.widths[0], 1)[0])
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        return residual.head(self, x)


# Blocks per stage are Table 1's. Top-1 and top-5 are the paper's, by ten crops (Table 3; ResNet-34
# with option B, as here). The paper trained bottlenecks of the _v1 form.
BASIC = {
    'resnet18': ((2, 2, 2, 2), 11_689_512, 1_814_073_344, 72.12, None),
    'resnet34': ((3, 4, 6, 3), 21_797_672, 3_663_761_408, 75.48, 92.54),
}
BOTTLENECK = {
    'resnet50': ((3, 4, 6, 3), 25_557_032, 4_089_184_256),
    'resnet101': ((3, 4, 23, 3), 44_549_160, 7_801_405_440),
    'resnet152': ((3, 8, 36, 3), 60_192_808, 11_513_626_624),
}
PAPER = {
    'resnet50_v1': ((3, 4, 6, 3), 25_557_032, 3_857_973_248, 77.15, 93.29),
    'resnet101_v1': ((3, 4, 23, 3), 44_549_160, 7_570_194_432, 78.25, 93.95),
    'resnet152_v1': ((3, 8, 36, 3), 60_192_808, 11_282_415_616, 78.57, 94.29),
}
# Blocks in each of three stages (n); top-1 on CIFAR-10 (Table 6; 110: the best of five runs).
CIFAR = {
    'resnet20_cifar': (3, 269_722, 40_551_040, 91.25),
    'resnet32_cifar': (5, 464_154, 68_862_592, 92.49),
    'resnet44_cifar': (7, 658_586, 97_174_144, 92.83),
    'resnet56_cifar': (9, 853_018, 125_485_696, 93.03),
    'resnet110_cifar': (18, 1_727_962, 252_887_680, 93.57),
    'resnet1202_cifar': (200, 19_421_274, 2_829_238_912, 92.07),
}
# The name of the classifier in the public PyTorch weights of the CIFAR networks.
CIFAR_WEIGHTS = ((r'^fc\.', 'linear.'),)


# Networks that pytorchcv added, here and in the next two tables. The thin ones end at full width.
SMALL = {
    'resnet10': ((1, 1, 1, 1), {}, 5_418_792, 889_229_312),
    'resnet12': ((2, 1, 1, 1), {}, 5_492_776, 1_120_440_320),
    'resnet14': ((2, 2, 1, 1), {}, 5_788_200, 1_351_651_328),
    'resnet16': ((2, 2, 2, 1), {}, 6_968_872, 1_582_862_336),
    'resnet18_wd4': ((2, 2, 2, 2), {'widths': (16, 32, 64, (128, 512))}, 3_937_400, 269_254_656),
    'resnet18_wd2': ((2, 2, 2, 2), {'widths': (32, 64, 128, (256, 512))}, 5_804_296, 605_433_856),
    'resnet18_w3d4': (
        (2, 2, 2, 2),
        {'widths': (48, 96, 192, (384, 512))},
        8_476_056,
        1_124_655_104,
    ),
    'resnet26_basic': ((3, 3, 3, 3), {}, 17_960_232, 2_738_917_376),
    'resnetbc14b': ((1, 1, 1, 1), {'bottleneck': True}, 10_064_936, 1_468_792_832),
    'resnetbc38b': ((3, 3, 3, 3), {'bottleneck': True}, 21_925_416, 3_215_720_448),
    'resnet200': ((3, 24, 36, 3), {'bottleneck': True}, 64_673_832, 15_007_481_856),
    'resnet200_v1': (
        (3, 24, 36, 3),
        {'bottleneck': True, 'stride_on_first': True},
        64_673_832,
        14_776_270_848,
    ),
}
# The networks for CIFAR with projections where the number of channels changes (option B).
PROJECTED = {
    'resnet20_cifar_projected': (3, False, 272_474, 40_813_184),
    'resnet56_cifar_projected': (9, False, 855_770, 125_747_840),
    'resnet110_cifar_projected': (18, False, 1_730_714, 253_149_824),
    'resnet1202_cifar_projected': (200, False, 19_424_026, 2_829_501_056),
    'resnet164_cifar': (18, True, 1_704_154, 247_646_720),
    'resnet272_cifar': (30, True, 2_816_986, 408_078_848),
    'resnet542_cifar': (60, True, 5_599_066, 809_159_168),
    'resnet1001_cifar': (111, True, 10_328_602, 1_490_995_712),
}
# Bag of Tricks (1812.01187) has a deep stem (C), and with averaging shortcuts ResNet-D; S has the
# wide stem of SENet-154, T a stem of growing width.
C = {'deep_stem': (32, 32, 64)}
D = {**C, 'averaged': True}
S = {'deep_stem': (64, 64, 128)}
T = {'deep_stem': (24, 32, 64), 'averaged': True}
TRICKS = {
    'resnet10t': (T, False, (1, 1, 1, 1), 5_435_488, 1_097_259_008),
    'resnet14t': (T, True, (1, 1, 1, 1), 10_081_632, 1_676_822_528),
    'resnet18d': (D, False, (2, 2, 2, 2), 11_708_744, 2_053_713_920),
    'resnet26d': (D, True, (2, 2, 2, 2), 16_014_408, 2_581_897_216),
    'resnet26t': (T, True, (2, 2, 2, 2), 16_011_872, 2_550_286_336),
    'resnet34d': (D, False, (3, 4, 6, 3), 21_816_904, 3_903_401_984),
    'resnet50c': (C, True, (3, 4, 6, 3), 25_576_264, 4_328_824_832),
    'resnet50d': (D, True, (3, 4, 6, 3), 25_576_264, 4_328_824_832),
    'resnet50s': (S, True, (3, 4, 6, 3), 25_680_808, 5_444_337_664),
    'resnet101c': (C, True, (3, 4, 23, 3), 44_568_392, 8_041_046_016),
    'resnet101d': (D, True, (3, 4, 23, 3), 44_568_392, 8_041_046_016),
    'resnet101s': (S, True, (3, 4, 23, 3), 44_672_936, 9_156_558_848),
    'resnet152c': (C, True, (3, 8, 36, 3), 60_212_040, 11_753_267_200),
    'resnet152d': (D, True, (3, 8, 36, 3), 60_212_040, 11_753_267_200),
    'resnet152s': (S, True, (3, 8, 36, 3), 60_316_584, 12_868_780_032),
    'resnet200d': (D, True, (3, 24, 36, 3), 64_693_064, 15_247_122_432),
}
# Shallow networks of pytorchcv with the tricks of form D.
SHALLOW_D = {
    'resneta10': (D, False, (1, 1, 1, 1), 5_438_024, 1_128_869_888),
    'resnetabc14b': (D, True, (1, 1, 1, 1), 10_084_168, 1_708_433_408),
}
PYTORCHCV_D = (
    (r'^bn1\.', 'features.init_block.conv3.bn.'),
    *((rf'^conv1\.{3 * i}\.', f'features.init_block.conv{i + 1}.conv.') for i in range(3)),
    *((rf'^conv1\.{3 * i + 1}\.', f'features.init_block.conv{i + 1}.bn.') for i in range(2)),
    (r'\.downsample\.1\.', '.identity_block.conv.conv.'),
    (r'\.downsample\.2\.', '.identity_block.conv.bn.'),
    *residual.PYTORCHCV,
)
# The names of pytorchcv, other than a variant's own.
RENAMED = {
    'resnet26_basic': 'resnet26',
    'resnet200': 'resnet200b',
    'resnet200_v1': 'resnet200',
}


def _cifar(blocks: int, bottleneck: bool | None = None) -> dict[str, Any]:
    """Returns the fields of a network for CIFAR: the paper's, or for a `bottleneck` projected."""
    return {
        'stage_sizes': (blocks,) * 3,
        'widths': (16, 32, 64),
        'bottleneck': bool(bottleneck),
        'cifar': True,
        'projected': bottleneck is not None,
        'num_classes': 10,
    }


def _projected(name: str) -> str:
    depth, *_ = name.removeprefix('resnet').split('_')
    return f'pytorchcv:resnet{depth}{"bn" if depth in ("164", "272", "542") else ""}_cifar10'


register_table(
    BASIC,
    'stage_sizes params macs top1 top5',
    system=SYSTEM,
    module=ResNet,
    input_size=224,
    reference=lambda name: f'torchvision:{name}',
)
register_table(
    BOTTLENECK,
    'stage_sizes params macs',
    system=SYSTEM,
    module=ResNet,
    fields={'bottleneck': True},
    input_size=224,
    reference=lambda name: f'torchvision:{name}',
)
register_table(
    PAPER,
    'stage_sizes params macs top1 top5',
    system=SYSTEM,
    module=ResNet,
    fields={'bottleneck': True, 'stride_on_first': True},
    input_size=224,
    reference=lambda name: f'pytorchcv:{name.removesuffix("_v1")}',
    renames=residual.PYTORCHCV,
)
register_table(
    CIFAR,
    'blocks params macs top1',
    system=SYSTEM,
    module=ResNet,
    fields=_cifar,
    input_size=32,
    renames=CIFAR_WEIGHTS,
)
register_table(
    SMALL,
    'stage_sizes fields params macs',
    system=SYSTEM,
    module=ResNet,
    input_size=224,
    reference=lambda name: f'pytorchcv:{RENAMED.get(name, name)}',
    renames=residual.PYTORCHCV,
)
register(
    Variant(
        'resnet26',
        SYSTEM,
        ResNet,
        {'stage_sizes': (2, 2, 2, 2), 'bottleneck': True},
        input_size=224,
        params=15_995_176,
        macs=2_342_256_640,
        reference='timm:resnet26',
    )
)
register_table(
    SHALLOW_D,
    'fields bottleneck stage_sizes params macs',
    system=SYSTEM,
    module=ResNet,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=PYTORCHCV_D,
)
register_table(
    PROJECTED,
    'blocks bottleneck params macs',
    system=SYSTEM,
    module=ResNet,
    fields=_cifar,
    input_size=32,
    reference=_projected,
    renames=residual.PYTORCHCV_CIFAR,
)
register_table(
    TRICKS,
    'fields bottleneck stage_sizes params macs',
    system=SYSTEM,
    module=ResNet,
    input_size=224,
    reference=lambda name: f'timm:{name}',
)
