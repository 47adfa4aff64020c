"""Residual Attention Network for Image Classification (Wang et al.; CVPR 2017).

https://arxiv.org/abs/1704.06904

What is new: attention modules. Parallel to a trunk of residual units T a mask branch M goes down by
max pooling and back up by interpolation; the output of a module is (1 + M) T (equation 3), so that
a mask of zeros leaves the trunk unchanged. Attention-56 has one module at each of three
resolutions.

Agrees with: pytorchcv's resattnet56 and resattnet92, with the parameters and multiply-adds of the
authors' Caffe networks (github.com/fwang91/residual-attention-network). AttentionNeXt-56 is the
authors' prototxt: ResNeXt units that end in a rectifier, masks without the other networks' sums
after skips and the last interpolation, and unpadded pooling with a possibly partial last window. It
is tested against an independent reimplementation.

The authors' code has no CIFAR networks. Section 4.1 gives three stages of m modules with two more
residual units in each, and 36 m + 20 weighted layers in the trunk. Modules of p + t + p = 1 + 2 + 1
bottlenecks of three convolutions make 36 m layers, the units 18, the first convolution and the
classifier 2; Attention-452 has p, t, r = 2, 4, 3 and m = 6 (section 4.1): 72 m + 20. The rest is as
for ImageNet with the widths of ResNet-164 for CIFAR, 64, 128 and 256, and its 3x3 stem of 16. With
the classifier for CIFAR-100, Attention-92 and -236 then have 1.9 and 5.1 million parameters, as in
the paper, but Attention-452 has 10.2 million for the paper's 8.6. No number of units in the masks
that follows from r = 3 meets that; ours follows the text. That both units of a stage precede its
modules is our interpretation too.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import max_pool
from cls.nn.resize import bilinear
from cls.nn.units import ConvNorm, NormConv

SYSTEM = System(
    name='Residual Attention',
    title='Residual Attention Network for Image Classification',
    venue='CVPR 2017',
    arxiv='1704.06904',
    top1=80.5,  # Attention-92 at 320 pixels
    top5=95.2,
    headline='attention92',
    params=51.3,
    macs=10_400,
)


def preact_unit(features: int, strides: int, conv: Callable, norm: Callable, name: str):
    """Returns a pre-activation bottleneck with the stride in its 3x3 convolution."""
    return preact.PreActUnit(preact.bottleneck(features // 4, strides), conv, norm, name=name)


def resnext_unit(features: int, strides: int, conv: Callable, norm: Callable, name: str):
    """Returns a ResNeXt bottleneck of 32 groups, half as wide inside."""
    return residual.Bottleneck(
        features // 4,
        strides,
        0,  # its index, unused by option_b
        conv,
        norm,
        residual.option_b,
        inner=features // 2,
        groups=32,
        name=name,
    )


def pool(x: jax.Array, resnext: bool) -> jax.Array:
    """Returns the 3x3 max pool with stride 2; AttentionNeXt's is not padded and rounds sizes up."""
    return max_pool(x, 3, 2, 'VALID', ceil_mode=True) if resnext else max_pool(x, 3, 2, 1)


class AttentionModule(nn.Module):
    """Trunk and mask (figure 2), with `pre` residual units before and after them.

    The trunk has `trunk` units. The mask goes down and up `depth` times, with `between` units after
    each pooling and before each interpolation, and a unit in each skip connection.
    """

    depth: int
    pre: int  # p
    trunk: int  # t
    between: int  # r
    resnext: bool
    unit: Callable[..., nn.Module]  # (features, strides, name=)
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C)."""
        features = x.shape[-1]

        def units(x, count, name):
            for i in range(1, count + 1):
                x = self.unit(features, 1, name=f'{name}{i}')(x)
            return x

        x = units(x, self.pre, 'pre')
        trunk = units(x, self.trunk, 'trunk')
        levels = [x]
        for i in range(1, self.depth + 1):
            levels.append(units(pool(levels[-1], self.resnext), self.between, f'down{i}_'))
        mask = levels[-1]
        for i in range(self.depth, 0, -1):
            mask = units(mask, self.between, f'up{i}_')
            above = levels[i - 1]
            mask = bilinear(mask, (above.shape[1], above.shape[2]))
            if i > 1:
                skip = units(above, 1, f'skip{i}_')
                mask = mask + (skip if self.resnext else skip + above)
        if self.resnext:
            mask = ConvNorm(features, 1, self.conv, self.norm, name='mask.conv1')(mask)
            mask = self.conv(features, 1, name='mask.conv2')(mask)
        else:
            mask, _ = NormConv(features, 1, self.conv, self.norm, name='mask.conv1')(mask + trunk)
            mask, _ = NormConv(features, 1, self.conv, self.norm, name='mask.conv2')(mask)
        return units((1 + nn.sigmoid(mask)) * trunk, self.pre, 'post')


class ResidualAttention(nn.Module):
    """Stages of residual units and attention modules; each but the first halves the resolution."""

    modules: Sequence[int]  # in each stage
    units: Sequence[int] = (1, 1, 1, 3)  # in each stage, before the modules
    widths: Sequence[int] = (256, 512, 1024, 2048)
    pre: int = 1  # p, t and r of section 3.2
    trunk: int = 2
    between: int = 1
    resnext: bool = False
    cifar: bool = False
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        unit = resnext_unit if self.resnext else preact_unit
        unit = functools.partial(unit, conv=conv, norm=norm)
        attention = functools.partial(
            AttentionModule,
            pre=self.pre,
            trunk=self.trunk,
            between=self.between,
            resnext=self.resnext,
            unit=unit,
            conv=conv,
            norm=norm,
        )

        width, window, strides = (self.widths[0] // 4, 3, 1) if self.cifar else (64, 7, 2)
        x = ConvNorm(width, window, conv, norm, strides, name='init_block.conv')(images)
        x = x if self.cifar else pool(x, self.resnext)
        self.sow('intermediates', 'stem', x)
        stages = zip(self.widths, self.units, self.modules, strict=True)
        for i, (width, count, modules) in enumerate(stages, 1):
            for j in range(1, count + 1):
                strides = 2 if i > 1 and j == 1 else 1
                x = unit(width, strides, name=f'stage{i}.unit{j}')(x)
            for j in range(count + 1, count + modules + 1):
                x = attention(4 - i, name=f'stage{i}.unit{j}')(x)
            self.sow('intermediates', f'stage{i}', x)
        if not self.resnext:
            x = nn.relu(norm(name='post_activ.bn')(x))
        return residual.head(self, x, 'output')


# Top-1 and top-5 are from the authors' README (Attention-92 at 320 pixels).
IMAGENET = {
    'attention56': ((1, 1, 1, 0), 31_810_728, 6_270_836_736, 78.24, 94.1),
    'attention92': ((1, 2, 3, 0), 52_466_344, 10_533_789_696, 80.5, 95.2),
}
# Modules in each of three stages, p, t and r; top-1 on CIFAR-10.
CIFAR = {
    'attention92_cifar': (2, 1, 2, 1, 1_841_274, 211_913_216, 95.01),
    'attention236_cifar': (6, 1, 2, 1, 5_084_794, 568_265_216, 95.86),
    'attention452_cifar': (6, 2, 4, 3, 10_181_242, 984_386_048, 96.10),
}
PYTORCHCV = (
    (r'\.(conv[123])\.(conv|bn)\.', r'.body.\1.\2.'),
    (r'\.mask\.(conv[12])\.body\.', r'.middle_block.\1.'),
    (r'\.mask\.body\.', '.middle_block.'),
    (r'\.pre(\d)\.', r'.init_blocks.blocks.block\1.'),
    (r'\.trunk(\d)\.', r'.hg.skip_seq.skip1.blocks.block\1.'),
    (r'\.(down|up)(\d)_(\d)\.', r'.hg.\1_seq.\1\2.res_blocks.blocks.block\3.'),
    (r'\.skip(\d)_1\.', r'.hg.skip_seq.skip\1.skip1.'),
    (r'\.post1\.', '.final_block.'),
    (r'^(?!output)', 'features.'),
)


def _cifar(modules: int, **fields: int) -> dict[str, Any]:
    return {
        'modules': (modules,) * 3,
        'units': (2, 2, 2),
        'widths': (64, 128, 256),
        **fields,
        'cifar': True,
        'num_classes': 10,
    }


register_table(
    IMAGENET,
    'modules params macs top1 top5',
    system=SYSTEM,
    module=ResidualAttention,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name.replace("attention", "resattnet")}',
    renames=PYTORCHCV,
)
register(
    Variant(
        'attentionnext56',
        SYSTEM,
        ResidualAttention,
        {'modules': (1, 1, 1, 0), 'resnext': True},
        input_size=224,
        params=31_318_824,
        macs=6_419_106_816,
        top1=78.8,
        top5=94.4,
    )
)
register_table(
    CIFAR,
    'modules pre trunk between params macs top1',
    system=SYSTEM,
    module=ResidualAttention,
    fields=_cifar,
    input_size=32,
)
