"""PReLU-nets: Delving Deep into Rectifiers (He, Zhang, Ren, Sun; ICCV 2015).

https://arxiv.org/abs/1502.01852

What is new: a rectifier whose slope for negative inputs is learnt, one for each channel, and an
initialisation under which rectified nets of thirty layers start to learn. The nets A, B and C
(Table 3) follow VGG-19 with wider layers, most of them moved to smaller images, and end in spatial
pyramid pooling; on the small net of 14 layers (Table 1) ReLU and PReLU are compared.

No package has these nets; they are held against a restatement. The convolutions' multiply-adds
are the paper's 1.90, 2.32 and 5.30 times 10^10 (Table 3).

Not in the paper, and chosen here:
* the 2x2 convolutions of the small net keep the image's size, their one row and column of zeros
  at the bottom and right (images of 112, 37 and 18 pixels, the last of which has bins of 3x3);
* bins of the pyramid are PyTorch's: where they do not fit, neighbours share a pixel;
* convolutions are drawn with the variance 2 / fan-out, equation 14, as the paper does; for fully
  connected layers it does not say, and they have 2 / fan-in, equation 10.

Over larger images the net slides (`dense`): of each 14x14 window of the last map, the map of an
image of 224, the pyramid is taken, and the logits of all windows are averaged (section 3, testing).

Variants' top-1 and top-5: A, B and C tested at many scales, densely (Table 6); the small net from
ten crops (Table 2).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.pool import adaptive_max_pool, max_pool, over_windows

SYSTEM = System(
    name='PReLU-nets',
    title='Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet '
    'Classification',
    venue='ICCV 2015',
    arxiv='1502.01852',
    top1=None,
    top5=95.06,  # six models together, test set (Table 7)
    headline='prelunet_c',
    macs=53_000,
)


class PReLU(nn.Module):
    """x where it is positive, a x where it is not, with a slope a for each channel (section 2.1).

    Parameter: `weight` (C,), the slopes. Weight decay would pull them to ReLU's, so it is to spare
    them (config.optim.decay_mask 'kernels').
    """

    weight_init: Callable = init.Constant(0.25)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., C) to the same."""
        slope = self.param('weight', self.weight_init, (x.shape[-1],), jnp.float32)
        return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


def spatial_pyramid(x: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Maxima over n x n bins for each n of `levels`: (N, H, W, C) to (N, C * sum of all n * n).

    Each level is flattened channel by channel.
    """
    pooled = (adaptive_max_pool(x, n).transpose(0, 3, 1, 2) for n in levels)
    return jnp.concatenate([bins.reshape(len(x), -1) for bins in pooled], 1)


class PReLUNet(nn.Module):
    """Convolutions in stages with a max pool before each, a pyramid, and three linear layers."""

    stage_sizes: Sequence[int]
    widths: Sequence[int]
    stem_width: int = 96
    stem_pool: int = 2  # window and stride of the pool behind the first convolution
    window: int = 3
    pyramid: Sequence[int] = (7, 3, 2, 1)
    hidden: int = 4096  # of the two linear layers before the last
    dropout_rate: float = 0.5
    num_classes: int = 1000
    dense: int = 0  # evaluation: side of training's images, over larger ones the net slides; 0: not
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        dense = functools.partial(Dense, kernel_init=init.he_normal, dtype=self.dtype)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)

        x = PReLU(name='prelu1')(conv(self.stem_width, 7, 2, name='conv1')(images))
        self.sow('intermediates', 'stem', x)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 2):
            pool = self.stem_pool if stage == 2 else 2
            x = max_pool(x, pool, pool)
            for i in range(1, size + 1):
                x = conv(width, self.window, padding='SAME', name=f'conv{stage}_{i}')(x)
                x = PReLU(name=f'prelu{stage}_{i}')(x)
            self.sow('intermediates', f'stage{stage - 1}', x)

        slides = self.dense and not train
        if slides:
            pyramid = functools.partial(spatial_pyramid, levels=self.pyramid)
            x = over_windows(x, self.map_side(self.dense), pyramid)
        else:
            x = spatial_pyramid(x, self.pyramid)
        for i in (1, 2):
            x = PReLU(name=f'prelu_fc{i}')(dense(self.hidden, name=f'fc{i}')(x))
            if i == 2:
                self.sow('intermediates', 'pre_logits', x)
            x = dropout(x)
        x = dense(self.num_classes, name='fc3')(x).astype(jnp.float32)
        return x.mean(1) if slides else x

    def map_side(self, side: int) -> int:
        """Returns the side of the last map of an image of this side."""
        side = -(-side // 2)
        for stage in range(len(self.widths)):
            side //= self.stem_pool if stage == 0 else 2
        return side


# Convolutions per stage and their widths (Table 3), parameters, multiply-adds, top-1 and top-5.
LARGE = {
    'prelunet_a': ((5, 5, 5), (256, 512, 512), 178_032_072, 19_058_106_368, 77.03, 93.72),
    'prelunet_b': ((6, 6, 6), (256, 512, 512), 183_343_048, 23_219_904_512, 77.15, 93.73),
    'prelunet_c': ((6, 6, 6), (384, 768, 896), 330_623_944, 53_463_130_112, 78.41, 94.29),
}
for name, (sizes, widths, params, macs, top1, top5) in LARGE.items():
    fields = {'stage_sizes': sizes, 'widths': widths}
    register(Variant(name, SYSTEM, PReLUNet, fields, 224, params, macs, top1, top5))

# Table 1.
SMALL = {
    'stage_sizes': (4, 6),
    'widths': (128, 256),
    'stem_width': 64,
    'stem_pool': 3,
    'window': 2,
    'pyramid': (6, 3, 2, 1),
}
register(
    Variant('prelunet_14', SYSTEM, PReLUNet, SMALL, 224, 75_004_200, 972_472_320, 67.36, 87.25)
)
