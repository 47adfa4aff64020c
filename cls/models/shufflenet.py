"""ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices (CVPR 2018).

Zhang, Zhou, Lin, Sun; https://arxiv.org/abs/1707.01083

What is new: grouped 1x1 convolutions, for cheap wide layers, and a channel shuffle
(cls/nn/shuffle.py) between two of them, so that information flows between the groups. Units of
bottleneck form around a depthwise convolution (figure 2) are stacked in three stages (Table 1).

Agrees with: pytorchcv's shufflenet_g* networks (1.5x and 2x by its get_shufflenet), with the same
parameter names. They scale the first convolution's 24 channels with the rest. The paper's 292M of
the 1.5x network need 24 channels in it, as in the authors' later code (megvii-model/
ShuffleNet-Series): --config.model.stem_features=24; neither form meets the paper's 13M of the 0.25x
network (11.0M, 17.9M). That code also shuffles after the depthwise convolution, where the paper's
figure does before it, and has no bias in the classifier.

shufflenet_g3_2x_se is in no package and is tested against an independent reimplementation. The
paper gives only its name and its 527M. The squeeze and excitation is ours, with the defaults of
SENet (1709.01507): on the residual before the sum, in units that concatenate on the full output; to
a sixteenth of the channels. That makes 526.9M; without the pooled channels it would be 526.5M.

Initial values are those of ResNeXt, as the paper trains with its settings. Accuracies are by a
single crop (Tables 2 and 5).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import residual
from cls.nn.attention import SqueezeExcite
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.shuffle import channel_shuffle
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='ShuffleNet',
    title='ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices',
    venue='CVPR 2018',
    arxiv='1707.01083',
    top1=75.3,  # 2x with squeeze and excitation (Table 5)
    top5=None,
    headline='shufflenet_g3_2x_se',
    macs=527,
)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions with a shortcut (figure 2).

    With stride 2 the shortcut is a 3x3 average pool, and is concatenated instead of added.
    """

    features: int
    strides: int
    groups: int
    first_groups: int  # of the first convolution
    reduction: int  # of the squeeze; 0: none
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        inner, new = self.features // 4, self.features
        if self.strides > 1:
            new -= x.shape[-1]
        y = self.conv(inner, 1, groups=self.first_groups, name='compress_conv1')(x)
        y = nn.relu(self.norm(name='compress_bn1')(y))
        y = channel_shuffle(y, self.groups)
        y = self.conv(inner, 3, self.strides, groups=inner, name='dw_conv2')(y)
        y = self.norm(name='dw_bn2')(y)
        y = self.conv(new, 1, groups=self.groups, name='expand_conv3')(y)
        y = self.norm(name='expand_bn3')(y)
        if self.strides > 1:
            pooled = avg_pool(x, 3, self.strides, padding=1, count_padding=True)
            y = jnp.concatenate((y, pooled), -1)
        if self.reduction:
            y = SqueezeExcite(self.features // self.reduction, self.conv, name='se')(y)
        return nn.relu(y if self.strides > 1 else y + x)


class ShuffleNet(nn.Module):
    """A 3x3 convolution, a max pool, and stages of units, the first with stride 2 (Table 1)."""

    widths: Sequence[int]
    groups: int
    stem_features: int = 24
    stage_sizes: Sequence[int] = (4, 8, 4)
    reduction: int = 0  # of the squeeze in every unit; 0: none
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)

        stem = ConvNorm(self.stem_features, 3, conv, norm, 2, name='features.init_block')
        x = max_pool(stem(images), 3, 2, padding=1)
        self.sow('intermediates', 'stem', x)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for i in range(1, size + 1):
                # Not grouped in the first unit with its few inputs (section 3.2).
                first_groups = 1 if stage == i == 1 else self.groups
                shape = (width, 2 if i == 1 else 1, self.groups, first_groups, self.reduction)
                x = ShuffleUnit(*shape, conv, norm, name=f'features.stage{stage}.unit{i}')(x)
            self.sow('intermediates', f'stage{stage}', x)
        return residual.head(self, x, name='output')


# Groups -> channels of the first stage at scale 1; each further stage doubles them (Table 1).
WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
# Top-1 is 100 - error of Table 2 (1.5x and 2x: Table 5).
TABLE = {
    'shufflenet_g1_1x': (1, 1, 1_531_936, 143_078_976, 66.4, 'pytorchcv:shufflenet_g1_w1'),
    'shufflenet_g2_1x': (2, 1, 1_733_848, 140_836_512, 67.3, 'pytorchcv:shufflenet_g2_w1'),
    'shufflenet_g3_1x': (3, 1, 1_865_728, 137_460_672, 67.4, 'pytorchcv:shufflenet_g3_w1'),
    'shufflenet_g4_1x': (4, 1, 1_968_344, 134_339_776, 67.2, 'pytorchcv:shufflenet_g4_w1'),
    'shufflenet_g8_1x': (8, 1, 2_434_768, 138_365_952, 67.6, 'pytorchcv:shufflenet_g8_w1'),
    'shufflenet_g3_0.25x': (3, 0.25, 305_902, 11_009_808, 45.0, 'pytorchcv:shufflenet_g3_wd4'),
    'shufflenet_g3_0.5x': (3, 0.5, 718_324, 37_589_856, 56.8, 'pytorchcv:shufflenet_g3_wd2'),
    'shufflenet_g1_0.25x': (1, 0.25, 209_746, 11_003_184, None, 'pytorchcv:shufflenet_g1_wd4'),
    'shufflenet_g1_0.5x': (1, 0.5, 534_484, 38_517_408, None, 'pytorchcv:shufflenet_g1_wd2'),
    'shufflenet_g1_0.75x': (1, 0.75, 975_214, 82_542_672, None, 'pytorchcv:shufflenet_g1_w3d4'),
    'shufflenet_g3_0.75x': (3, 0.75, 1_238_266, 79_740_144, None, 'pytorchcv:shufflenet_g3_w3d4'),
    'shufflenet_g3_1.5x': (3, 1.5, 3_443_212, 299_612_448, 71.5, 'pytorchcv:shufflenet_g3_w3d2'),
    'shufflenet_g3_2x': (3, 2, 5_450_776, 524_045_184, 73.7, 'pytorchcv:shufflenet_g3_w2'),
}


def _fields(groups: int, scale: float) -> dict[str, Any]:
    return {
        'widths': tuple(int(WIDTHS[groups] * 2**stage * scale) for stage in range(3)),
        'groups': groups,
        'stem_features': int(24 * scale),
    }


register_table(
    TABLE,
    'groups scale params macs top1 reference',
    system=SYSTEM,
    module=ShuffleNet,
    fields=_fields,
    input_size=224,
)
register(
    Variant(
        'shufflenet_g3_2x_se',
        SYSTEM,
        ShuffleNet,
        {**_fields(3, 2), 'reduction': 16},
        input_size=224,
        params=8_349_136,
        macs=526_925_184,
        top1=75.3,
    )
)
