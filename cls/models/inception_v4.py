"""Inception-v4: Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning.

Szegedy, Ioffe, Vanhoucke, Alemi; AAAI 2017; https://arxiv.org/abs/1602.07261

What is new: a deeper, wider and more uniform Inception network, without the constraints that
partitioned training put on earlier ones: all blocks of one resolution are the same, and the stem
itself has branches (figures 3 to 9).

Agrees with: timm's inception_v4, with the same parameter names: the authors' released network
(inception_v4.py in TF-Slim), also the source of the order of 1xn and nx1 in a branch. Departs from
that, as timm does: norms have a scale, and there is no auxiliary head (the paper has none either).
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
from cls.nn.inception import AVERAGE, MAX, Mixed, Unit

SYSTEM = System(
    name='Inception-v4',
    title='Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning',
    venue='AAAI 2017',
    arxiv='1602.07261',
    top1=82.3,  # 144 crops (Table 4)
    top5=96.2,
    headline='inception_v4',
)

ROW, COLUMN = (1, 7), (7, 1)

# Figure 3: 299 pixels to 35.
STEM = (
    Unit(32, 3, 2, 'VALID'),
    Unit(32, 3, 1, 'VALID'),
    Unit(64, 3),
    {'maxpool': (MAX,), 'conv': (Unit(96, 3, 2, 'VALID'),)},
    {
        'branch0': (Unit(64, 1), Unit(96, 3, 1, 'VALID')),
        'branch1': (Unit(64, 1), Unit(64, ROW), Unit(64, COLUMN), Unit(96, 3, 1, 'VALID')),
    },
    {'conv': (Unit(192, 3, 2, 'VALID'),), 'maxpool': (MAX,)},
)
# For 16 to 32 pixels; not in the paper.
SMALL_STEM = (inception.SMALL_STEM['conv2d_1a'],)

# Figure 4: 35x35, 384 channels.
INCEPTION_A = {
    'branch0': (Unit(96, 1),),
    'branch1': (Unit(64, 1), Unit(96, 3)),
    'branch2': (Unit(64, 1), Unit(96, 3), Unit(96, 3)),
    'branch3': (AVERAGE, Unit(96, 1)),
}
# Figure 7 with k, l, m, n of Table 1.
REDUCTION_A = {
    'branch0': (Unit(384, 3, 2, 'VALID'),),
    'branch1': (Unit(192, 1), Unit(224, 3), Unit(256, 3, 2, 'VALID')),
    'branch2': (MAX,),
}
# Figure 5: 17x17, 1024 channels.
INCEPTION_B = {
    'branch0': (Unit(384, 1),),
    'branch1': (Unit(192, 1), Unit(224, ROW), Unit(256, COLUMN)),
    'branch2': (
        Unit(192, 1),
        Unit(192, COLUMN),
        Unit(224, ROW),
        Unit(224, COLUMN),
        Unit(256, ROW),
    ),
    'branch3': (AVERAGE, Unit(128, 1)),
}
# Figure 8.
REDUCTION_B = {
    'branch0': (Unit(192, 1), Unit(192, 3, 2, 'VALID')),
    'branch1': (Unit(256, 1), Unit(256, ROW), Unit(320, COLUMN), Unit(320, 3, 2, 'VALID')),
    'branch2': (MAX,),
}
# Figure 6: 8x8, 1536 channels.
BOTH_WAYS = (Unit(256, (1, 3)), Unit(256, (3, 1)))
INCEPTION_C = {
    'branch0': (Unit(256, 1),),
    'branch1': (Unit(384, 1), BOTH_WAYS),
    'branch2': (Unit(384, 1), Unit(448, (3, 1)), Unit(512, (1, 3)), BOTH_WAYS),
    'branch3': (AVERAGE, Unit(256, 1)),
}


class InceptionV4(nn.Module):
    """A stem and three resolutions of Inception blocks (figure 9)."""

    blocks: Sequence[int] = (4, 7, 3)
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
        kernel_init = init.VarianceScaling(2.0, 'fan_in', 'truncated_normal')
        _, unit = inception.layers(self, train, kernel_init)

        a, b, c = self.blocks
        stages = {
            'stem': SMALL_STEM if self.small_images else STEM,
            'stage1': (INCEPTION_A,) * a,
            'stage2': (REDUCTION_A, *(INCEPTION_B,) * b),
            'stage3': (REDUCTION_B, *(INCEPTION_C,) * c),
        }
        x, index = images, 0
        for stage, blocks in stages.items():
            for block in blocks:
                make: Any = unit if isinstance(block, Unit) else functools.partial(Mixed, unit=unit)
                x = make(block, name=f'features.{index}')(x)
                index += 1
            self.sow('intermediates', stage, x)
        return inception.head(self, x, train, 'last_linear', init.glorot_uniform)


register(
    Variant(
        'inception_v4',
        SYSTEM,
        InceptionV4,
        {},
        input_size=299,
        params=42_679_816,
        macs=12_253_974_624,
        top1=80.0,  # Table 2
        top5=95.0,
        reference='timm:inception_v4',
        # timm has no lists in the last three blocks, whose branches fork.
        renames=((r'^(features\.(?:19|20|21)\.branch[12])\.(\d)', r'\1_\2'),),
    )
)
