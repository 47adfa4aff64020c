"""MobileNet: Efficient Convolutional Neural Networks for Mobile Vision Applications (2017).

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam; https://arxiv.org/abs/1704.04861

What is new: a network of depthwise separable convolutions with a norm and a rectifier after each of
their two parts (figure 3), and two numbers that shrink it: the width multiplier thins every layer
(section 3.3), the resolution multiplier is the size of the images (section 3.4; any size works).
At 224, 192, 160 and 128 pixels the paper has 70.6, 69.1, 67.2 and 64.4 % top-1 (Table 7).

Agrees with: mobilenet_100 and _125 with timm's mobilenetv1_* (the same parameter names, and ReLU6);
_075, _050 and _025 with pytorchcv's mobilenet_w3d4, wd2 and wd4 (unbounded rectifiers, as in the
paper).
Both pad strided convolutions on all sides. The _tf networks are those of the authors' TensorFlow
code (slim's mobilenet_v1.py) and of Keras, with Keras's tensor names: 'SAME' padding (with stride 2
and an even size only at the end), ReLU6, and an epsilon of 1e-3; they are tested against an
independent reimplementation. The paper's Table 1 also has a stride of 2 in the last block, in
contradiction to its sizes: an error.

Initial values, dropout (0.001) and the momentum of norms are those of the authors' code.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import inception, init
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.padding import Padding

SYSTEM = System(
    name='MobileNet',
    title='MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications',
    venue='arXiv 2017',
    arxiv='1704.04861',
    top1=70.6,
    top5=None,
    headline='mobilenet_100',
    params=4.2,
    macs=569,
)


class Separable(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with norm and rectifier (figure 3, right)."""

    features: int
    strides: int
    padding: Padding
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        channels = x.shape[-1]
        depthwise = {'padding': self.padding, 'groups': channels, 'name': 'conv_dw'}
        x = self.conv(channels, 3, self.strides, **depthwise)(x)
        x = self.act(self.norm(name='bn1')(x))
        x = self.conv(self.features, 1, name='conv_pw')(x)
        return self.act(self.norm(name='bn2')(x))


class MobileNet(nn.Module):
    """A 3x3 convolution with stride 2, and stages of separable convolutions (Table 1)."""

    stem_features: int = 32
    # Channels of each block; every stage but the first halves the resolution.
    stages: Sequence[Sequence[int]] = ((64,), (128,) * 2, (256,) * 2, (512,) * 6, (1024,) * 2)
    width: float = 1.0  # multiplier of all channels
    padding: Padding = None  # of 3x3 convolutions: None (symmetric) or 'SAME' (TensorFlow's)
    clipped: bool = False  # ReLU6 in place of ReLU
    head_features: int = 0  # of a 1x1 convolution before the pooling; 0: none (the paper)
    dropout_rate: float = 0.001
    num_classes: int = 1000
    bn_group: int = 0
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        kernel_init = init.Normal(0.09, cut=True)
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = batch_norm(self, train, epsilon=self.bn_epsilon, momentum=self.bn_momentum)
        act = nn.relu6 if self.clipped else nn.relu

        features = int(self.stem_features * self.width)
        x = conv(features, 3, 2, padding=self.padding, name='conv_stem')(images)
        x = act(norm(name='bn1')(x))
        self.sow('intermediates', 'stem', x)
        for stage, blocks in enumerate(self.stages):
            for i, features in enumerate(blocks):
                strides = 2 if stage > 0 and i == 0 else 1
                shape = (int(features * self.width), strides, self.padding)
                x = Separable(*shape, conv, norm, act, name=f'blocks.{stage}.{i}')(x)
            self.sow('intermediates', f'stage{stage + 1}', x)
        if self.head_features:
            x = act(norm(name='bn2')(conv(self.head_features, 1, name='conv_head')(x)))
        return inception.head(self, x, train, 'classifier', kernel_init)


BLOCKS = [(stage, i) for stage, blocks in enumerate(MobileNet.stages) for i in range(len(blocks))]
# Names of pytorchcv.
PYTORCHCV = (
    (r'^conv_stem\.', 'features.init_block.conv.'),
    (r'^bn1\.', 'features.init_block.bn.'),
    *(
        (rf'^blocks\.{stage}\.{i}\.', f'features.stage{stage + 1}.unit{i + 1}.')
        for stage, i in BLOCKS
    ),
    (r'\.conv_(dw|pw)\.', r'.\1_conv.conv.'),
    (r'\.bn1\.', '.dw_conv.bn.'),
    (r'\.bn2\.', '.pw_conv.bn.'),
    (r'^classifier\.', 'output.'),
)
# Names of Keras; the blocks of all stages are numbered consecutively from 1.
KERAS = (
    (r'^conv_stem\.', 'conv1.'),
    (r'^bn1\.', 'conv1_bn.'),
    *(
        (rf'^blocks\.{stage}\.{i}\.(conv|bn)(\w+)\.', rf'\1\2_{number}.')
        for number, (stage, i) in enumerate(BLOCKS, 1)
    ),
    (r'^bn1_(\d+)\.', r'conv_dw_\1_bn.'),
    (r'^bn2_(\d+)\.', r'conv_pw_\1_bn.'),
    (r'^classifier\.', 'conv_preds.'),
)
TENSORFLOW = {'padding': 'SAME', 'clipped': True, 'bn_epsilon': 1e-3}
CLIPPED = {'clipped': True}
# Top-1 is the paper's (Table 6).
TABLE = {
    'mobilenet_100': (
        1.0,
        CLIPPED,
        4_231_976,
        568_740_352,
        70.6,
        'timm:mobilenetv1_100',
        (),
    ),
    'mobilenet_125': (1.25, CLIPPED, 6_270_840, 879_516_800, None, 'timm:mobilenetv1_125', ()),
    'mobilenet_100h': (
        1.0,
        {**CLIPPED, 'head_features': 1024},
        5_282_600,
        620_120_576,
        None,
        'timm:mobilenetv1_100h',
        (),
    ),
    'mobilenet_100_tf': (1.0, TENSORFLOW, 4_231_976, 568_740_352, 70.6, None, KERAS),
    'mobilenet_075': (
        0.75,
        {},
        2_585_560,
        325_400_448,
        68.4,
        'pytorchcv:mobilenet_w3d4',
        PYTORCHCV,
    ),
    'mobilenet_075_tf': (0.75, TENSORFLOW, 2_585_560, 325_400_448, 68.4, None, KERAS),
    'mobilenet_050': (
        0.5,
        {},
        1_331_592,
        149_497_088,
        63.7,
        'pytorchcv:mobilenet_wd2',
        PYTORCHCV,
    ),
    'mobilenet_050_tf': (0.5, TENSORFLOW, 1_331_592, 149_497_088, 63.7, None, KERAS),
    'mobilenet_025': (
        0.25,
        {},
        470_072,
        41_030_272,
        50.6,
        'pytorchcv:mobilenet_wd4',
        PYTORCHCV,
    ),
    'mobilenet_025_tf': (0.25, TENSORFLOW, 470_072, 41_030_272, 50.6, None, KERAS),
}
register_table(
    TABLE,
    'width fields params macs top1 reference renames',
    system=SYSTEM,
    module=MobileNet,
    input_size=224,
)
