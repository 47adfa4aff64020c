"""ResNet: Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun; CVPR 2016).

https://arxiv.org/abs/1512.03385

What is new: layers learn a residual that is added to their input, so that networks of a hundred
layers train. Table 1 has the ImageNet networks, section 4.2 the CIFAR ones. The parts are in
cls/nn/residual.py, as later systems modify one of them.

Agrees with: torchvision's resnet18 ... resnet152, with the same parameter names and the stride of a
bottleneck in the 3x3 convolution; the `_v1` variants have the paper's graph, with the stride in the
first 1x1 (pytorchcv's resnet50, 101, 152). The CIFAR networks use the paper's option A: shortcuts
take every second pixel and pad the new channels with zeros, half on each side, as in the public
PyTorch weights for these networks (the paper does not specify the side).
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
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
    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: bool = False
    stride_on_first: bool = False  # of a bottleneck's convolutions (the paper's form)
    cifar: bool = False  # 3x3 stem without pooling, and option A shortcuts
    ceil_pool: bool = False  # the stem's pool as in the authors' Caffe files, see residual.stem
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
        shortcut = residual.option_a if self.cifar else residual.option_b
        block = functools.partial(block, conv=conv, norm=norm, shortcut=shortcut)

        imagenet_stem = functools.partial(residual.stem, ceil_pool=self.ceil_pool)
        stem = residual.cifar_stem if self.cifar else imagenet_stem
        x = stem(self, images, conv, norm, self.widths[0])
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


def _cifar(blocks: int) -> dict[str, Any]:
    return {
        'stage_sizes': (blocks,) * 3,
        'widths': (16, 32, 64),
        'cifar': True,
        'num_classes': 10,
    }


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
