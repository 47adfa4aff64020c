"""WRN: Wide Residual Networks (Zagoruyko, Komodakis; BMVC 2016).

https://arxiv.org/abs/1605.07146

What is new: residual networks k times as wide and far less deep train faster and are more accurate
than thin ones of a thousand layers; dropout is between the two convolutions of a block.

Agrees with: pytorchcv's wrn* for CIFAR; the ImageNet networks are not pre-activated (page 6), and
agree with torchvision's wide_resnet50_2 and wide_resnet101_2, and with timm's ResNet of basic
blocks with wider stages. As in the authors' code the stem of the latter keeps its 64 channels.

Tables 8 and 9 of the paper disagree on the top-5 error of WRN-50-2-bottleneck: 6.03 in Table 8; in
Table 9, as in the reading list, 5.79, Table 8's number for ResNet-200.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init, preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm

SYSTEM = System(
    name='WRN',
    title='Wide Residual Networks',
    venue='BMVC 2016',
    arxiv='1605.07146',
    top1=78.1,
    top5=94.21,
    headline='wrn50_2',
    params=68.9,
)


class WRN(nn.Module):
    """WRN-depth-k for small images: pre-activation blocks of two 3x3 convolutions (Table 1)."""

    depth: int  # 6 n + 4, with n blocks in each of three stages
    k: int  # widening factor
    dropout_rate: float = 0.0  # between the convolutions of a block
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        def act(x: jax.Array) -> jax.Array:
            return nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))

        def block(width: int, strides: int, name: str) -> nn.Module:
            return preact.PreActUnit(preact.basic(width, strides), conv, norm, act, name=name)

        x = conv(16, 3, name='conv1')(images)
        self.sow('intermediates', 'stem', x)
        blocks = (self.depth - 4) // 6
        x = preact.stages(self, x, block, [(width * self.k,) * blocks for width in (16, 32, 64)])
        return preact.head(self, x, norm)


class ImageNetWRN(nn.Module):
    """ResNet with k times the channels of its basic blocks, or the inner ones of bottlenecks."""

    stage_sizes: Sequence[int]
    k: float
    bottleneck: bool = False
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = batch_norm(self, train)
        parts = {'conv': conv, 'norm': norm, 'shortcut': residual.option_b}

        def block(width: int, strides: int, index: int, name: str) -> nn.Module:
            wide = int(self.k * width)
            if self.bottleneck:
                return residual.Bottleneck(width, strides, index, inner=wide, **parts, name=name)
            return residual.BasicBlock(wide, strides, index, **parts, name=name)

        x = residual.stem(self, images, conv, norm, 64)
        x = residual.stages(self, x, block, self.stage_sizes, (64, 128, 256, 512))
        return residual.head(self, x)


# Top-1 on CIFAR-10 without dropout: 40-4, 16-8 and 28-10 with normalized images (Table 5), all
# others with whitened images (Table 4).
CIFAR = {
    'wrn40_1_cifar': (40, 1, 563_930, 83_280_512, 93.15),
    'wrn40_2_cifar': (40, 2, 2_243_546, 327_599_360, 94.67),
    'wrn40_4_cifar': (40, 4, 8_949_210, 1_298_582_016, 95.47),
    'wrn40_8_cifar': (40, 8, 35_748_314, 5_172_024_320, 95.34),
    'wrn28_10_cifar': (28, 10, 36_479_194, 5_243_328_768, 96.00),
    'wrn28_12_cifar': (28, 12, 52_517_850, 7_543_905_792, 95.67),
    'wrn22_8_cifar': (22, 8, 17_158_106, 2_454_115_328, 95.62),
    'wrn22_10_cifar': (22, 10, 26_797_914, 3_827_751_168, 95.56),
    'wrn16_8_cifar': (16, 8, 10_961_370, 1_548_145_664, 95.73),
    'wrn16_10_cifar': (16, 10, 17_116_634, 2_412_173_568, 95.44),
}
# Top-1 and top-5 are the paper's (Tables 7 and 8).
IMAGENET = {
    'wrn18_1': (18, 1, 11_689_512, 1_814_073_344, 69.60, 89.07),
    'wrn18_1.5': (18, 1.5, 25_875_816, 3_866_327_040, 72.94, 91.00),
    'wrn18_2': (18, 2, 45_618_216, 6_695_706_624, 74.42, 91.94),
    'wrn18_3': (18, 3, 101_783_976, 14_724_378_624, 75.94, 92.67),
    'wrn34_1': (34, 1, 21_797_672, 3_663_761_408, 73.23, 91.33),
    'wrn34_1.5': (34, 1.5, 48_613_608, 8_028_125_184, 75.50, 92.42),
    'wrn34_2': (34, 2, 86_036_008, 14_094_458_880, 76.61, 93.00),
    'wrn50_2': (50, 2, 68_883_240, 11_398_021_120, 78.10, 93.97),
    'wrn101_2': (101, 2, 126_886_696, 22_753_050_624, None, None),  # torchvision's
}
STAGE_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# References other than timm's ResNet, widened.
TORCHVISION = {
    'wrn18_1': 'resnet18',
    'wrn34_1': 'resnet34',
    'wrn50_2': 'wide_resnet50_2',
    'wrn101_2': 'wide_resnet101_2',
}


def _imagenet(depth: int, k: float) -> dict[str, Any]:
    return {'stage_sizes': STAGE_SIZES[depth], 'k': k, 'bottleneck': depth >= 50}


def _reference(name: str) -> str:
    return f'torchvision:{TORCHVISION[name]}' if name in TORCHVISION else f'timm:{name}'


register_table(
    CIFAR,
    'depth k params macs top1',
    system=SYSTEM,
    module=WRN,
    input_size=32,
    reference=lambda name: f'pytorchcv:{name}10',
    renames=preact.PYTORCHCV_CIFAR,
)
register_table(
    IMAGENET,
    'depth k params macs top1 top5',
    system=SYSTEM,
    module=ImageNetWRN,
    fields=_imagenet,
    input_size=224,
    reference=_reference,
)
