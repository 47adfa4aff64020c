"""Inception-ResNet-v2: Inception-v4, Inception-ResNet and the Impact of Residual Connections.

Szegedy, Ioffe, Vanhoucke, Alemi; AAAI 2017; https://arxiv.org/abs/1602.07261

What is new: Inception blocks that compute a residual. A linear 1x1 convolution restores the width
of the input, and the residual is scaled down before the sum (section 3.3); without the scaling such
a wide network does not train.

Agrees with: timm's inception_resnet_v2, with the same parameter names: the authors' released
network (inception_resnet_v2.py in TF-Slim). Departs from that, as timm does: norms have a scale,
and there is no auxiliary head (the paper has none either). The released network departs from the
paper's figures: its stem is Inception-v3's and a block of branches, where the paper has
Inception-v4's; there are 10, 20, 10 residual blocks of 320, 1088, 2080 channels, where the paper
has 5, 10, 5 of 384, 1154, 2048; the last block has no rectifier, and a 1x1 convolution follows it.
Initial values are those of the released code. Images have at least 75 pixels a side.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import inception, init
from cls.nn.inception import AVERAGE, MAX, Mixed, ScaledResidual, Unit

SYSTEM = System(
    name='Inception-ResNet-v2',
    title='Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning',
    venue='AAAI 2017',
    arxiv='1602.07261',
    top1=82.2,  # 144 crops (Table 4)
    top5=96.3,
    headline='inception_resnet_v2',
)

# 35x35, 320 channels.
MIXED_5B = {
    'branch0': (Unit(96, 1),),
    'branch1': (Unit(48, 1), Unit(64, 5)),
    'branch2': (Unit(64, 1), Unit(96, 3), Unit(96, 3)),
    'branch3': (AVERAGE, Unit(64, 1)),
}
BLOCK35 = {  # figure 16
    'branch0': (Unit(32, 1),),
    'branch1': (Unit(32, 1), Unit(32, 3)),
    'branch2': (Unit(32, 1), Unit(48, 3), Unit(64, 3)),
}
# To 17x17, 1088 channels: figure 7 with k, l, m, n of Table 1.
REDUCTION_A = {
    'branch0': (Unit(384, 3, 2, 'VALID'),),
    'branch1': (Unit(256, 1), Unit(256, 3), Unit(384, 3, 2, 'VALID')),
    'branch2': (MAX,),
}
BLOCK17 = {  # figure 17
    'branch0': (Unit(192, 1),),
    'branch1': (Unit(128, 1), Unit(160, (1, 7)), Unit(192, (7, 1))),
}
# To 8x8, 2080 channels: figure 18.
REDUCTION_B = {
    'branch0': (Unit(256, 1), Unit(384, 3, 2, 'VALID')),
    'branch1': (Unit(256, 1), Unit(288, 3, 2, 'VALID')),
    'branch2': (Unit(256, 1), Unit(288, 3), Unit(320, 3, 2, 'VALID')),
    'branch3': (MAX,),
}
BLOCK8 = {  # figure 19
    'branch0': (Unit(192, 1),),
    'branch1': (Unit(192, 1), Unit(224, (1, 3)), Unit(256, (3, 1))),
}


class InceptionResNetV2(nn.Module):
    """A stem and three resolutions of scaled residual Inception blocks.

    `blocks` excludes the last one, with scale 1 and without a rectifier.
    """

    blocks: Sequence[int] = (10, 20, 9)
    scales: Sequence[float] = (0.17, 0.1, 0.2)  # of the residuals, for each resolution
    width: float = 1.0  # multiplier of the features of all units
    small_images: bool = False  # a stem of one convolution for 16 to 32 pixels (ours)
    dropout_rate: float = 0.2
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv, unit = inception.layers(self, train, init.glorot_uniform)
        residual = functools.partial(ScaledResidual, unit=unit, conv=conv)

        stem = inception.SMALL_STEM if self.small_images else inception.STEM
        x = inception.chain(images, stem, unit)
        self.sow('intermediates', 'stem', x)
        stages = (
            (MIXED_5B, 'mixed_5b', BLOCK35, 'repeat'),
            (REDUCTION_A, 'mixed_6a', BLOCK17, 'repeat_1'),
            (REDUCTION_B, 'mixed_7a', BLOCK8, 'repeat_2'),
        )
        settings = zip(stages, self.blocks, self.scales, strict=True)
        for i, ((first, first_name, block, name), count, scale) in enumerate(settings, 1):
            x = Mixed(first, unit, name=first_name)(x)
            for j in range(count):
                x = residual(block, scale=scale, name=f'{name}.{j}')(x)
            self.sow('intermediates', f'stage{i}', x)
        x = residual(BLOCK8, scale=1.0, act=None, name='block8')(x)
        x = unit(Unit(1536, 1), name='conv2d_7b')(x)
        return inception.head(self, x, train, 'classif', init.glorot_uniform)


register(
    Variant(
        'inception_resnet_v2',
        SYSTEM,
        InceptionResNetV2,
        {},
        input_size=299,
        params=55_843_464,
        macs=13_155_794_016,
        top1=80.1,  # Table 2
        top5=95.1,
        reference='timm:inception_resnet_v2',
    )
)
