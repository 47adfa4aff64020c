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
    widths: Sequence[int] = (64, 128, 256, 512)
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

        if self.cifar:
            x = conv(self.widths[0], 3, name='conv1')(images)
            self.sow('intermediates', 'stem', x)
        else:
            x = residual.stem(self, images, conv, norm, self.widths[0])
        sizes = zip(self.stage_sizes, self.widths, strict=True)
        x = preact.stages(self, x, unit, [(width,) * size for size, width in sizes])
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
# Units in each of three stages; top-1 on CIFAR-10 (Tables 3 and 4).
CIFAR = {
    'preactresnet110_cifar': (18, False, 1_730_522, 253_149_824, 93.63),
    'preactresnet164_cifar': (18, True, 1_703_258, 247_646_720, 94.54),
    'preactresnet1001_cifar': (111, True, 10_327_706, 1_490_995_712, 95.08),
}
# 1001 layers amplify rounding errors, so a shallower form is tested against a reimplementation.
REFERENCES = {
    'preactresnet110_cifar': 'pytorchcv:preresnet110_cifar10',
    'preactresnet164_cifar': 'pytorchcv:preresnet164bn_cifar10',
}


def _pytorchcv(name: str) -> str:
    return f'pytorchcv:{name.replace("preact", "pre")}'


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
    reference=REFERENCES.get,
    renames=preact.PYTORCHCV_CIFAR,
)
