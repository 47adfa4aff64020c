"""PreActResNet: Identity Mappings in Deep Residual Networks (He, Zhang, Ren, Sun; ECCV 2016).

https://arxiv.org/abs/1603.05027

What is new: batch normalisation and rectifier move in front of each convolution, so that a signal
passes from any unit to any other by sums alone; nets of 1001 layers train better than those of 110.

Agrees with: pytorchcv's preresnet*. A `b` says that the stride of a bottleneck lies on the 3x3
convolution, as in Facebook's ResNet-200 (fb.resnet.torch), whose numbers the paper gives; without
it, on the first 1x1. In the CIFAR nets it lies on the 3x3, where the code that the authors refer to
(resnet-1k-layers) has it on the first 1x1: `stride_on_first` is that form.

Departs from the paper, with pytorchcv: the ImageNet nets normalise and rectify both after the first
convolution and in the first unit, where the paper does so once (128 parameters more); ResNet-110
projects where the number of channels changes, which the paper says of bottlenecks alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm

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
    """A pre-activation residual net, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: bool = False
    stride_on_first: bool = False  # of a bottleneck's convolutions
    cifar: bool = False  # a 3x3 stem without normalisation and pooling
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
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


# Units per stage, parameters and multiply-adds, and the paper's top-1 and top-5 from a single crop
# of 320 pixels (Table 5; ResNet-200 trained with scale and aspect ratio).
BASIC = {
    'preactresnet18': ((2, 2, 2, 2), 11_687_848, 1_814_073_344, None, None),
    'preactresnet34': ((3, 4, 6, 3), 21_796_008, 3_663_761_408, None, None),
}
BOTTLENECK = {
    'preactresnet50': ((3, 4, 6, 3), 25_549_480, 3_857_973_248, None, None),
    'preactresnet50b': ((3, 4, 6, 3), 25_549_480, 4_089_184_256, None, None),
    'preactresnet101': ((3, 4, 23, 3), 44_541_608, 7_570_194_432, None, None),
    'preactresnet101b': ((3, 4, 23, 3), 44_541_608, 7_801_405_440, None, None),
    'preactresnet152': ((3, 8, 36, 3), 60_185_256, 11_282_415_616, 78.9, 94.5),
    'preactresnet152b': ((3, 8, 36, 3), 60_185_256, 11_513_626_624, None, None),
    'preactresnet200': ((3, 24, 36, 3), 64_666_280, 14_776_270_848, None, None),
    'preactresnet200b': ((3, 24, 36, 3), 64_666_280, 15_007_481_856, 79.9, 95.2),
}
# Units in each of three stages, whether they are bottlenecks, and CIFAR-10 top-1 (Tables 3 and 4).
CIFAR = {
    'preactresnet110_cifar': (18, False, 1_730_522, 253_149_824, 93.63),
    'preactresnet164_cifar': (18, True, 1_703_258, 247_646_720, 94.54),
    'preactresnet1001_cifar': (111, True, 10_327_706, 1_490_995_712, 95.08),
}
# 1001 layers magnify rounding so that they are held against a restatement of fewer.
PYTORCHCV = {
    'preactresnet110_cifar': 'pytorchcv:preresnet110_cifar10',
    'preactresnet164_cifar': 'pytorchcv:preresnet164bn_cifar10',
}

for name, (sizes, params, macs, top1, top5) in {**BASIC, **BOTTLENECK}.items():
    register(
        Variant(
            name,
            SYSTEM,
            PreActResNet,
            {
                'stage_sizes': sizes,
                'bottleneck': name in BOTTLENECK,
                'stride_on_first': name in BOTTLENECK and not name.endswith('b'),
            },
            224,
            params,
            macs,
            top1,
            top5,
            reference=f'pytorchcv:{name.replace("preact", "pre")}',
            renames=preact.PYTORCHCV,
        )
    )
for name, (units, bottleneck, params, macs, top1) in CIFAR.items():
    register(
        Variant(
            name,
            SYSTEM,
            PreActResNet,
            {
                'stage_sizes': (units,) * 3,
                'widths': (16, 32, 64),
                'bottleneck': bottleneck,
                'cifar': True,
                'num_classes': 10,
            },
            32,
            params,
            macs,
            top1,
            reference=PYTORCHCV.get(name),
            renames=preact.PYTORCHCV_CIFAR,
        )
    )
