"""DPN: Dual Path Networks (Chen, Li, Xiao, Jin, Yan, Feng; NIPS 2017).

https://arxiv.org/abs/1707.01629

What is new: the output of a ResNeXt bottleneck is split. Some channels are added to a residual path
(feature reuse), the others are appended to a densely connected path (feature exploration); every
block sees both. The paper has DPN-92, 98 and 131, the authors' repository
(https://github.com/cypw/DPNs) also 68 and 107.

Agrees with: timm's dpn68, dpn68b, dpn92, dpn98, dpn131, dpn107, and so with the authors' MXNet
code: epsilon is 1e-3, the default of MXNet; the classifier is a 1x1 convolution. Not included: the
authors' mean-max pooling for tests at 320 pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import grouped

SYSTEM = System(
    name='DPN',
    title='Dual Path Networks',
    venue='NIPS 2017',
    arxiv='1707.01629',
    top1=79.0,
    top5=94.5,
    headline='dpn131',
    params=79.5,
    macs=16_000,
)


class DualPath(nn.Module):
    """A block that adds `width` channels to one path and appends `increment` to the other.

    The first block of a stage projects both paths, to `width` and 2 * `increment` channels.
    """

    width: int
    increment: int
    inner: int
    groups: int
    strides: int
    project: bool
    unit: Callable[..., nn.Module]
    split: bool = False  # whether each path has a convolution of its own at the end

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps the concatenated paths (N, H, W, C) to the concatenated paths (N, H', W', C')."""
        old = x
        if self.project:
            features, name = self.width + 2 * self.increment, f'c1x1_w_s{self.strides}'
            old, _ = self.unit(features, 1, strides=self.strides, name=name)(x)
        features = self.width + self.increment
        parts = (self.width, self.increment) if self.split else features
        new = grouped.bottleneck(self.unit, x, self.inner, parts, self.strides, self.groups)
        (residual, dense), (add, append) = (
            jnp.split(path, [self.width], axis=-1) for path in (old, new)
        )
        return jnp.concatenate([residual + add, dense, append], axis=-1)


class DPN(nn.Module):
    """Stages of dual path blocks; each stage doubles the channels of the residual path."""

    block_sizes: Sequence[int]
    increments: Sequence[int]  # channels that each block of a stage appends
    inner: int  # channels of the first stage's grouped convolutions
    groups: int
    width: int = 256  # of the first stage's residual path
    stem_features: int = 64
    stem_window: int = 7
    split: bool = False  # the authors' form `b` of a block
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv, norm, unit = grouped.layers(self, train)
        x = grouped.stem(self, images, conv, norm, self.stem_window)
        for i, (size, increment) in enumerate(zip(self.block_sizes, self.increments, strict=True)):
            for j in range(size):
                x = DualPath(
                    self.width * 2**i,
                    increment,
                    self.inner * 2**i,
                    self.groups,
                    strides=2 if i and not j else 1,
                    project=not j,
                    unit=unit,
                    split=self.split,
                    name=f'conv{i + 2}_{j + 1}',
                )(x)
            self.sow('intermediates', f'stage{i + 1}', x)
        x = nn.relu(norm(name='conv5_bn_ac')(x))
        x = jnp.mean(x, (1, 2), keepdims=True)
        self.sow('intermediates', 'pre_logits', x[:, 0, 0])
        x = conv(self.num_classes, 1, use_bias=True, name='classifier')(x)
        return x[:, 0, 0].astype(jnp.float32)


# Top-1 and top-5 are from the authors' README; DPN-107 was pretrained on 5,000 other classes.
IMAGENET = {
    'dpn92': (
        (3, 4, 20, 3),
        (16, 32, 24, 128),
        96,
        32,
        64,
        37_668_392,
        6_501_684_224,
        79.27,
        94.63,
    ),
    'dpn98': (
        (3, 6, 20, 3),
        (16, 32, 32, 128),
        160,
        40,
        96,
        61_570_728,
        11_671_217_152,
        79.85,
        94.85,
    ),
    'dpn131': (
        (4, 8, 28, 3),
        (16, 32, 32, 128),
        160,
        40,
        128,
        79_254_504,
        16_013_648_896,
        80.07,
        94.88,
    ),
    'dpn107': (
        (4, 8, 20, 3),
        (20, 64, 64, 128),
        200,
        50,
        128,
        86_917_800,
        18_298_764_288,
        80.25,
        95.06,
    ),
}
TIMM = (
    (r'\.conv3\.(conv\d)\.', lambda match: f'.c1x1_c{match[1][-1]}.'),
    (r'^conv1\.', 'conv1_1.'),
    (r'^conv5_bn_ac\.', 'conv5_bn_ac.bn.'),
    (r'^conv', 'features.conv'),
    (r'\.conv3\.(conv\d)\.', lambda match: f'.c1x1_c{match[1][-1]}.'),
    (r'\.conv1\.', '.c1x1_a.'),
    (r'\.conv2\.', '.c3x3_b.'),
    (r'\.conv3\.', '.c1x1_c.'),
)

register_table(
    IMAGENET,
    'block_sizes increments inner groups stem_features params macs top1 top5',
    system=SYSTEM,
    module=DPN,
    input_size=224,
    reference=lambda name: f'timm:{name}',
    renames=TIMM,
)
DPN68 = {
    'block_sizes': (3, 4, 12, 3),
    'increments': (16, 32, 32, 64),
    'inner': 128,
    'groups': 32,
    'width': 64,
    'stem_features': 10,
    'stem_window': 3,
}
register(
    Variant(
        'dpn68b',
        SYSTEM,
        DPN,
        {**DPN68, 'split': True},
        input_size=224,
        params=12_611_602,
        macs=2_326_163_456,
        reference='timm:dpn68b',
        renames=TIMM,
    )
)
register(
    Variant(
        'dpn68',
        SYSTEM,
        DPN,
        DPN68,
        input_size=224,
        params=12_611_602,
        macs=2_326_163_456,
        top1=76.43,
        top5=93.07,
        reference='timm:dpn68',
        renames=TIMM,
    )
)
