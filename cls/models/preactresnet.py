"""PreActResNet: Identity Mappings in Deep Residual Networks (He, Zhang, Ren, Sun; ECCV 2016).

https://arxiv.org/abs/1603.05027

What is new: batch normalization and rectifier move before each convolution, so that a signal passes
between any two units through sums only; networks of 1001 layers then train better than those of
110.

Agrees with: pytorchcv's preresnet*. Names ending in `b` have the stride of a bottleneck in the 3x3
convolution, as in Facebook's ResNet-200 (fb.resnet.torch), the source of the paper's numbers; the
others have it in the first 1x1. The CIFAR networks have it in the 3x3, while the code that the
authors refer to (resnet-1k-layers) has it in the first 1x1: `stride_on_first` is that form.

Departs from the paper, with pytorchcv: the ImageNet networks normalize and rectify both after the
first convolution and in the first unit, where the paper does so once (128 parameters more);
ResNet-110 projects where the number of channels changes, while the paper says so only of
bottlenecks.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm

SYSTEM = System(
    name='PreActResNet',
    title='Identity Mappings in Deep Residual Networks',
    venue='ECCV 2016',
    arxiv='1603.05027',
    top1=79.9,
    top5=95.2,
    headline='preactresnet200b',
)


class PreActResNet(nn.Module):
    """A pre-activation residual network, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    widths: Sequence[residual.Width] = (64, 128, 256, 512)
    bottleneck: bool = False
    stride_on_first: bool = False  # of a bottleneck's convolutions
    cifar: bool = False  # a 3x3 stem without normalization and pooling
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        layers = preact.basic
        if self.bottleneck:
            layers = functools.partial(preact.bottleneck, stride_on_first=self.stride_on_first)

        def unit(width: int, strides: int, name: str) -> nn.Module:
            return preact.PreActUnit(layers(width, strides), conv, norm, name=name)

        start = residual.each(self.widths[0], 1)[0]
        if self.cifar:
            x = conv(start, 3, name='conv1')(images)
            self.sow('intermediates', 'stem', x)
        else:
            x = residual.stem(self, images, conv, norm, start)
        sizes = zip(self.stage_sizes, self.widths, strict=True)
        x = preact.stages(self, x, unit, [residual.each(width, size) for size, width in sizes])
        return preact.head(self, x, norm)


# Top-1 and top-5 are the paper's, by a single crop of 320 pixels (Table 5; ResNet-200 trained with
# scale and aspect ratio augmentation).
BASIC = {
    'preactresnet18': ((2, 2, 2, 2), 11_687_848, 1_814_073_344),
    'preactresnet34': ((3, 4, 6, 3), 21_796_008, 3_663_761_408),
}
BOTTLENECK = {
    'preactresnet50': ((3, 4, 6, 3), True, 25_549_480, 3_857_973_248, None, None),
    'preactresnet50b': ((3, 4, 6, 3), False, 25_549_480, 4_089_184_256, None, None),
    'preactresnet101': ((3, 4, 23, 3), True, 44_541_608, 7_570_194_432, None, None),
    'preactresnet101b': ((3, 4, 23, 3), False, 44_541_608, 7_801_405_440, None, None),
    'preactresnet152': ((3, 8, 36, 3), True, 60_185_256, 11_282_415_616, 78.9, 94.5),
    'preactresnet152b': ((3, 8, 36, 3), False, 60_185_256, 11_513_626_624, None, None),
    'preactresnet200': ((3, 24, 36, 3), True, 64_666_280, 14_776_270_848, None, None),
    'preactresnet200b': ((3, 24, 36, 3), False, 64_666_280, 15_007_481_856, 79.9, 95.2),
}
# Networks that pytorchcv added. The thin ones end at full width.
SMALL = {
    'preactresnet10': ((1, 1, 1, 1), {}, 5_417_128, 889_229_312),
    'preactresnet12': ((2, 1, 1, 1), {}, 5_491_112, 1_120_440_320),
    'preactresnet14': ((2, 2, 1, 1), {}, 5_786_536, 1_351_651_328),
    'preactresnet16': ((2, 2, 2, 1), {}, 6_967_208, 1_582_862_336),
    'preactresnet18_wd4': (
        (2, 2, 2, 2),
        {'widths': (16, 32, 64, (128, 512))},
        3_935_960,
        269_254_656,
    ),
    'preactresnet18_wd2': (
        (2, 2, 2, 2),
        {'widths': (32, 64, 128, (256, 512))},
        5_802_440,
        605_433_856,
    ),
    'preactresnet18_w3d4': (
        (2, 2, 2, 2),
        {'widths': (48, 96, 192, (384, 512))},
        8_473_784,
        1_124_655_104,
    ),
    'preactresnet26': ((3, 3, 3, 3), {}, 17_958_568, 2_738_917_376),
    'preactresnetbc14b': ((1, 1, 1, 1), {'bottleneck': True}, 10_057_384, 1_468_792_832),
    'preactresnetbc26b': ((2, 2, 2, 2), {'bottleneck': True}, 15_987_624, 2_342_256_640),
    'preactresnetbc38b': ((3, 3, 3, 3), {'bottleneck': True}, 21_917_864, 3_215_720_448),
    'preactresnet269b': ((3, 30, 48, 8), {'bottleneck': True}, 102_065_832, 20_029_898_752),
}
# Units in each of three stages; top-1 on CIFAR-10 (Tables 3 and 4).
CIFAR = {
    'preactresnet110_cifar': (18, False, 1_730_522, 253_149_824, 93.63),
    'preactresnet164_cifar': (18, True, 1_703_258, 247_646_720, 94.54),
    'preactresnet1001_cifar': (111, True, 10_327_706, 1_490_995_712, 95.08),
    'preactresnet20_cifar': (3, False, 272_282, 40_813_184, None),
    'preactresnet56_cifar': (9, False, 855_578, 125_747_840, None),
    'preactresnet272_cifar': (30, True, 2_816_090, 408_078_848, None),
    'preactresnet542_cifar': (60, True, 5_598_170, 809_159_168, None),
    'preactresnet1202_cifar': (200, False, 19_423_834, 2_829_501_056, None),
}


def _pytorchcv(name: str) -> str:
    return f'pytorchcv:{name.replace("preact", "pre")}'


def _cifar_reference(name: str) -> str | None:
    """Returns pytorchcv's name; that of bottlenecks has a `bn`.

    None for 1001 layers, which amplify rounding errors: a shallower form is tested against a
    reimplementation.
    """
    depth = name.removeprefix('preactresnet').removesuffix('_cifar')
    bottleneck = 'bn' if depth in ('164', '272', '542') else ''
    return None if depth == '1001' else f'pytorchcv:preresnet{depth}{bottleneck}_cifar10'


def _cifar(units: int, bottleneck: bool) -> dict[str, Any]:
    return {
        'stage_sizes': (units,) * 3,
        'widths': (16, 32, 64),
        'bottleneck': bottleneck,
        'cifar': True,
        'num_classes': 10,
    }


register_table(
    BASIC,
    'stage_sizes params macs',
    system=SYSTEM,
    module=PreActResNet,
    input_size=224,
    reference=_pytorchcv,
    renames=preact.PYTORCHCV,
)
register_table(
    BOTTLENECK,
    'stage_sizes stride_on_first params macs top1 top5',
    system=SYSTEM,
    module=PreActResNet,
    fields={'bottleneck': True},
    input_size=224,
    reference=_pytorchcv,
    renames=preact.PYTORCHCV,
)
register_table(
    CIFAR,
    'units bottleneck params macs top1',
    system=SYSTEM,
    module=PreActResNet,
    fields=_cifar,
    input_size=32,
    reference=_cifar_reference,
    renames=preact.PYTORCHCV_CIFAR,
)
register_table(
    SMALL,
    'stage_sizes fields params macs',
    system=SYSTEM,
    module=PreActResNet,
    input_size=224,
    reference=_pytorchcv,
    renames=preact.PYTORCHCV,
)
