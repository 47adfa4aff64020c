"""ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (ECCV 2018).

Ma, Zhang, Zheng, Sun; https://arxiv.org/abs/1807.11164

What is new: units (figure 3) that split the channels, pass one half on unchanged, convolve the
other half without groups or bottlenecks, concatenate the two and shuffle them (cls/nn/shuffle.py);
this avoids elementwise sums and costs little memory access. Both branches read all channels where
the shape changes. A 1x1 convolution precedes the pooling (Table 5).

Agrees with: shufflenetv2_0.5x ... 2.0x with torchvision's, and the networks with `w` in their names
with pytorchcv's; the other variants have torchvision's parameter names. Those with `released` are
compared with the authors' code too (tests/weights/families/authors.npz).
The large networks of the paper's Table 6 are in no package and are tested against an independent
reimplementation of its appendix:

* shufflenetv2_50: four stages, the first without a stride (its Table 2);
* shufflenetv2_se_164: a stem of three convolutions, and in every unit squeeze and excitation of the
  convolved half, then its sum with the input of that half, before the last rectifier (its figure 2,
  c). Units that change the shape have no sum. The hidden layer of the excitation has half 'the
  channel number in the corresponding building blocks': here half of the convolved half, 85 in the
  first stage. Half of the unit, 170, would make 133,099,976 parameters and 12,599M; the paper has
  12.7G. The network that the authors released later for that accuracy and cost (ShuffleNetV2.Large
  of megvii-model/ShuffleNet-Series) is another: 3x3 convolutions in eight groups, 140.7M
  parameters, and as many hidden channels as the convolved half.

Not included: the 2x network with squeeze and excitation (Table 8: 24.6 % error, 597M in place of
591M); the paper does not describe its excitation.

Initial values are He et al.'s (1502.01852), by fan-out, as for ShuffleNet. Accuracies are by a
single crop.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import residual
from cls.nn.attention import SqueezeExcite
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import max_pool
from cls.nn.shuffle import channel_shuffle

SYSTEM = System(
    name='ShuffleNetV2',
    title='ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design',
    venue='ECCV 2018',
    arxiv='1807.11164',
    top1=81.44,  # SE-ShuffleNet v2-164 (Table 6)
    top5=None,
    headline='shufflenetv2_se_164',
    macs=12_700,
)


class ShuffleUnit(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions of half the channels (figure 3, c).

    With a change of shape (d) both halves of the output are convolutions of all channels.
    """

    features: int
    strides: int
    se_residual: bool  # figure 2 (c) of the appendix
    keeps: bool  # the channels of the first half, where the shape changes
    released: bool  # see ShuffleNetV2
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        channels, half = x.shape[-1], self.features // 2
        changes = self.strides > 1 or channels != self.features
        if changes:
            kept = channels if self.keeps or self.released else half
            first = self.conv(channels, 3, self.strides, groups=channels, name='branch1.0')(x)
            first = self.conv(kept, 1, name='branch1.2')(self.norm(name='branch1.1')(first))
            first = nn.relu(self.norm(name='branch1.3')(first))
        elif self.released:
            first, x = x[..., ::2], x[..., 1::2]
        else:
            first, x = jnp.split(x, 2, -1)
        y = nn.relu(self.norm(name='branch2.1')(self.conv(half, 1, name='branch2.0')(x)))
        y = self.conv(half, 3, self.strides, groups=half, name='branch2.3')(y)
        new = self.features - first.shape[-1]
        y = self.conv(new, 1, name='branch2.5')(self.norm(name='branch2.4')(y))
        y = self.norm(name='branch2.6')(y)
        if self.se_residual:
            y = SqueezeExcite(half // 2, self.conv, name='se')(y)
            y = y if changes else y + x
        x = jnp.concatenate((first, nn.relu(y)), -1)
        return x if self.released else channel_shuffle(x, 2)


class ShuffleNetV2(nn.Module):
    """3x3 convolutions and a max pool, stages of units, and a 1x1 convolution (Table 5)."""

    widths: Sequence[int]
    stage_sizes: Sequence[int] = (4, 8, 4)
    strides: Sequence[int] = (2, 2, 2)  # of the first unit of each stage
    stem: Sequence[int] = (24,)  # channels of its convolutions, the first with stride 2
    head_features: int = 1024
    se_residual: bool = False  # squeeze and excitation, and a sum, in every unit
    keeps: bool = False  # the number of channels in one half of a unit that changes the shape
    ceil: bool = False  # the stem's pooling, rounding its size up in place of padding
    # The form of megvii-model/ShuffleNet-Series: units split into even and odd channels in place of
    # halves and a shuffle, and the first branch of a change of shape keeps its number of channels.
    released: bool = False
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        x = images
        for i, width in enumerate(self.stem):
            x = conv(width, 3, 2 if i == 0 else 1, name=f'conv1.{3 * i}')(x)
            x = nn.relu(norm(name=f'conv1.{3 * i + 1}')(x))
        x = max_pool(x, 3, 2, padding=0 if self.ceil else 1, ceil_mode=self.ceil)
        self.sow('intermediates', 'stem', x)
        stages = zip(self.stage_sizes, self.widths, self.strides, strict=True)
        for stage, (size, width, strides) in enumerate(stages, 1):
            for i in range(size):
                first = strides if i == 0 else 1
                shape = (width, first, self.se_residual, self.keeps, self.released)
                # The paper and torchvision count the stem as the first stage.
                x = ShuffleUnit(*shape, conv, norm, name=f'stage{stage + 1}.{i}')(x)
            self.sow('intermediates', f'stage{stage}', x)
        last = f'conv{len(self.stage_sizes) + 2}'
        x = conv(self.head_features, 1, name=f'{last}.0')(x)
        x = nn.relu(norm(name=f'{last}.1')(x))
        return residual.head(self, x)


# Channels are Table 5's; top-1 is 100 - error of Table 8.
TABLE = {
    'shufflenetv2_0.5x': (
        (48, 96, 192),
        1024,
        1_366_792,
        40_476_448,
        60.3,
        'torchvision:shufflenet_v2_x0_5',
    ),
    'shufflenetv2_1.0x': (
        (116, 232, 464),
        1024,
        2_278_604,
        144_907_992,
        69.4,
        'torchvision:shufflenet_v2_x1_0',
    ),
    'shufflenetv2_1.5x': (
        (176, 352, 704),
        1024,
        3_503_624,
        295_759_392,
        72.6,
        'torchvision:shufflenet_v2_x1_5',
    ),
    'shufflenetv2_2.0x': (
        (244, 488, 976),
        2048,
        7_393_996,
        583_253_464,
        74.9,
        'torchvision:shufflenet_v2_x2_0',
    ),
}
register_table(
    TABLE,
    'widths head_features params macs top1 reference',
    system=SYSTEM,
    module=ShuffleNetV2,
    input_size=224,
)

# The authors' later weights, for PyTorch (megvii-model/ShuffleNet-Series). Only the first stage has
# other shapes; at 0.5x its halves are equal, and weights fill shufflenetv2_0.5x with the field.
RELEASED = {
    'shufflenetv2_1.0x_released': ((116, 232, 464), 1024, 2_279_760, 145_814_296),
    'shufflenetv2_1.5x_released': ((176, 352, 704), 1024, 3_507_720, 298_970_656),
    'shufflenetv2_2.0x_released': ((244, 488, 976), 2048, 7_403_600, 590_783_000),
}
register_table(
    RELEASED,
    'widths head_features params macs',
    system=SYSTEM,
    module=ShuffleNetV2,
    fields={'released': True},
    input_size=224,
)

# Table 2 of the appendix; top-1 from Table 6.
V2_50 = {
    'widths': (244, 488, 976, 1952),
    'stage_sizes': (3, 4, 6, 3),
    'stem': (64,),
}
SE_164 = {
    'widths': (340, 680, 1360, 2720),
    'stage_sizes': (10, 10, 23, 10),
    'stem': (64, 64, 128),
    'se_residual': True,
}
LARGE = {
    'shufflenetv2_50': (V2_50, 16_573_534, 2_304_152_672, 77.2),
    'shufflenetv2_se_164': (SE_164, 102_506_606, 12_568_127_992, 81.44),
}
register_table(
    LARGE,
    'fields params macs top1',
    system=SYSTEM,
    module=ShuffleNetV2,
    fields={'strides': (1, 2, 2, 2), 'head_features': 2048},
    input_size=224,
)

# pytorchcv's networks, with heads of its own. Without `b` the stem's pooling is not padded. With
# `b`, one half of a unit that changes the shape keeps its number of channels, as in the authors'
# code (megvii-model/ShuffleNet-Series).
HEADS = {'w1': ((116, 232, 464), 1024), 'w3d2': ((176, 352, 704), 1553)}
HEADS |= {'w2': ((244, 488, 976), 2153)}
PYTORCHCV = {
    'shufflenetv2_w3d2': ('w3d2', {'ceil': True}, 4_406_098, 314_536_776),
    'shufflenetv2_w2': ('w2', {'ceil': True}, 7_601_686, 588_379_984),
    'shufflenetv2b_w1': ('w1', {'keeps': True}, 2_279_760, 145_814_296),
    'shufflenetv2b_w3d2': ('w3d2', {'keeps': True}, 4_410_194, 317_748_040),
    'shufflenetv2b_w2': ('w2', {'keeps': True}, 7_611_290, 595_909_520),
}
ENDS = (
    (r'^conv1\.0\.', 'features.init_block.conv.conv.'),
    (r'^conv1\.1\.', 'features.init_block.conv.bn.'),
    (r'^conv5\.0\.', 'features.final_block.conv.'),
    (r'^conv5\.1\.', 'features.final_block.bn.'),
    (r'^fc\.', 'output.'),
    (
        r'^stage(\d)\.(\d)\.',
        lambda match: f'features.stage{int(match[1]) - 1}.unit{int(match[2]) + 1}.',
    ),
)
# Layer of a unit here -> in pytorchcv, without and with `b`.
LAYERS = {
    'branch2.0': ('compress_conv1', 'conv1.conv'),
    'branch2.1': ('compress_bn1', 'conv1.bn'),
    'branch2.3': ('dw_conv2', 'dconv.conv'),
    'branch2.4': ('dw_bn2', 'dconv.bn'),
    'branch2.5': ('expand_conv3', 'conv2.conv'),
    'branch2.6': ('expand_bn3', 'conv2.bn'),
    'branch1.0': ('dw_conv4', 'shortcut_dconv.conv'),
    'branch1.1': ('dw_bn4', 'shortcut_dconv.bn'),
    'branch1.2': ('expand_conv5', 'shortcut_conv.conv'),
    'branch1.3': ('expand_bn5', 'shortcut_conv.bn'),
}


def _pytorchcv(name: str) -> tuple[tuple[str, Any], ...]:
    form = int(name.startswith('shufflenetv2b'))
    inner = ((rf'\.{re.escape(ours)}\.', f'.{both[form]}.') for ours, both in LAYERS.items())
    return (*ENDS, *inner)


register_table(
    {name: (*HEADS[width], *row) for name, (width, *row) in PYTORCHCV.items()},
    'widths head_features fields params macs',
    system=SYSTEM,
    module=ShuffleNetV2,
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=_pytorchcv,
)
