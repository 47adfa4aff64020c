"""PReLU networks: Delving Deep into Rectifiers (He, Zhang, Ren, Sun; ICCV 2015).

https://arxiv.org/abs/1502.01852

What is new: a rectifier with a learned slope for negative inputs, one for each channel, and an
initialization with which rectified networks of thirty layers start to learn. The models A, B and C
(Table 3) follow VGG-19 with wider layers, most of them at lower resolutions, and end in spatial
pyramid pooling; the small model of 14 layers (Table 1) compares ReLU and PReLU.

No package has these networks; they are tested against an independent reimplementation. The
multiply-adds of the convolutions are the paper's 1.90, 2.32 and 5.30 times 10^10 (Table 3).

Not in the paper, and chosen by us:
* the 2x2 convolutions of the small model keep the image's size, with a row and a column of zeros
  at the bottom and right (images of 112, 37 and 18 pixels, the last with bins of 3x3);
* bins of the pyramid are PyTorch's: where they do not divide the map, neighbors share a pixel;
* convolutions are drawn with the variance 2 / fan-out, equation 14, as in the paper; it does not
  specify fully connected layers, and ours have 2 / fan-in, equation 10.

On larger images the network slides (`dense`): the pyramid pools each 14x14 window of the last map,
the size of the map of an image of 224 pixels, and the logits of all windows are averaged (section
3, testing).

Top-1 and top-5 of the variants: A, B and C tested densely at several scales (Table 6); the small
model by ten crops (Table 2).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
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
    """x if positive, otherwise a * x, with a learned slope a for each channel (section 2.1).

    Parameter: `weight` (C,), the slopes. Exclude it from weight decay (config.optim.decay_mask
    'kernels'): with slopes of zero PReLU is ReLU.
    """

    weight_init: Callable = init.Constant(0.25)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., C) to (..., C)."""
        slope = init.parameter(self, 'weight', self.weight_init, (x.shape[-1],))
        return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


def spatial_pyramid(x: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Returns the maxima of (N, H, W, C) over n x n bins for each n of `levels`.

    The result is (N, C * sum of n * n), each level flattened in PyTorch's order (N, C, n, n).
    """
    pooled = (adaptive_max_pool(x, n).transpose(0, 3, 1, 2) for n in levels)
    return jnp.concatenate([bins.reshape(x.shape[0], -1) for bins in pooled], 1)


class PReLUNet(nn.Module):
    """Stages of convolutions, each after a max pool, a spatial pyramid, and three linear layers."""

    stage_sizes: Sequence[int]
    widths: Sequence[int]
    stem_width: int = 96
    stem_pool: int = 2  # window and stride of the pool after the first convolution
    window: int = 3
    pyramid: Sequence[int] = (7, 3, 2, 1)
    hidden: int = 4096  # of the two linear layers before the last
    dropout_rate: float = 0.5
    num_classes: int = 1000
    # Side of the training images, for sliding over larger ones in evaluation; 0: no sliding.
    dense: int = 0
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
        """Returns the side of the last feature map for images of a side, in pixels."""
        side = -(-side // 2)
        for stage in range(len(self.widths)):
            side //= self.stem_pool if stage == 0 else 2
        return side


# Convolutions per stage and their widths are Table 3's.
LARGE = {
    'prelunet_a': ((5, 5, 5), (256, 512, 512), 178_032_072, 19_058_106_368, 77.03, 93.72),
    'prelunet_b': ((6, 6, 6), (256, 512, 512), 183_343_048, 23_219_904_512, 77.15, 93.73),
    'prelunet_c': ((6, 6, 6), (384, 768, 896), 330_623_944, 53_463_130_112, 78.41, 94.29),
}
register_table(
    LARGE,
    'stage_sizes widths params macs top1 top5',
    system=SYSTEM,
    module=PReLUNet,
    input_size=224,
)

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
