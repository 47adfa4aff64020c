"""VGG: Very Deep Convolutional Networks for Large-Scale Image Recognition (ICLR 2015).

Simonyan, Zisserman; https://arxiv.org/abs/1409.1556

What is new: only 3x3 convolutions, two to four in a row between 2x2 max pools, for networks of 11
to 19 layers; then three linear layers. Table 1 names the networks A, A-LRN, B, C, D and E.

Agrees with: torchvision's vgg11 (A), vgg13 (B), vgg16 (D) and vgg19 (E), with the same parameter
names; the `_bn` variants (not in the paper) normalize after every convolution and keep its bias, as
torchvision's do. vgg16_c (C: the last convolution of stages 3 to 5 is 1x1) and vgg11_lrn (A-LRN,
with the constants of Krizhevsky et al. 2012, the paper's source) are in no package and are tested
against an independent reimplementation.

Images of other sizes work, as in torchvision, because the last map is pooled to 7x7 bins. The
paper's own method for larger images is `dense`: the linear layers become convolutions of the same
weights that slide over the map, and the logits are averaged (section 3.2).

All weights are drawn by Glorot & Bengio 2010; according to the paper this makes its pretraining of
the first and last layers unnecessary (section 3.1). Biases are zero.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm, local_response_norm
from cls.nn.pool import adaptive_avg_pool, max_pool, over_windows

SYSTEM = System(
    name='VGG',
    title='Very Deep Convolutional Networks for Large-Scale Image Recognition',
    venue='ICLR 2015',
    arxiv='1409.1556',
    top1=76.3,  # D and E together, many crops and dense evaluation (Table 6)
    top5=93.2,
    headline='vgg19',
    params=144,
)


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each followed by a 2x2 max pool, and three linear layers."""

    depths: Sequence[int]  # convolutions of each stage
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    pointwise: bool = False  # the third convolution of a stage is 1x1 (C)
    lrn: bool = False  # local response normalization after the first convolution (A-LRN)
    batch_norm: bool = False
    bins: int = 7  # height and width of the pooled last feature map
    hidden: int = 4096
    dropout_rate: float = 0.5
    num_classes: int = 1000
    # Side of the training images, for sliding over larger ones in evaluation; 0: no sliding.
    dense: int = 0
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(
            Conv, use_bias=True, dtype=self.dtype, kernel_init=init.glorot_uniform
        )
        norm = batch_norm(self, train)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=init.glorot_uniform)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)

        x, index = images, 0  # the index in torchvision's list of layers gives the names
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(depth):
                window = 1 if self.pointwise and i == 2 else 3
                x = conv(width, window, name=f'features.{index}')(x)
                if self.batch_norm:
                    index += 1
                    x = norm(name=f'features.{index}')(x)
                x = nn.relu(x)
                index += 2
                if self.lrn and stage == 1 and i == 0:
                    x = local_response_norm(x)
            x = max_pool(x, 2, 2)
            index += 1
            self.sow('intermediates', f'stage{stage}', x)

        slides = self.dense and not train
        if slides:
            x = over_windows(x, self.bins, flatten)
        else:
            x = flatten(adaptive_avg_pool(x, self.bins))
        x = dropout(nn.relu(dense(self.hidden, name='classifier.0')(x)))
        x = nn.relu(dense(self.hidden, name='classifier.3')(x))
        self.sow('intermediates', 'pre_logits', x)
        x = dense(self.num_classes, name='classifier.6')(dropout(x)).astype(jnp.float32)
        return x.mean(1) if slides else x


def flatten(x: jax.Array) -> jax.Array:
    """Returns (N, H, W, C) as (N, C * H * W), in PyTorch's order."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


# Convolutions of the five stages are Table 1's. Top-1 and top-5 are the paper's at a single scale,
# by dense evaluation (Table 3; C, D and E trained with scale jitter).
PLAIN = {
    'vgg11': ((1, 1, 2, 2, 2), {}, 132_863_336, 7_609_090_048, 70.4, 89.6),
    'vgg11_lrn': ((1, 1, 2, 2, 2), {'lrn': True}, 132_863_336, 7_609_090_048, 70.3, 89.5),
    'vgg13': ((2, 2, 2, 2, 2), {}, 133_047_848, 11_308_466_176, 71.3, 90.1),
    'vgg16_c': ((2, 2, 3, 3, 3), {'pointwise': True}, 133_638_952, 11_770_888_192, 72.7, 91.2),
    'vgg16': ((2, 2, 3, 3, 3), {}, 138_357_544, 15_470_264_320, 74.4, 91.9),
    'vgg19': ((2, 2, 4, 4, 4), {}, 143_667_240, 19_632_062_464, 74.5, 92.0),
}
BATCH_NORM = {
    'vgg11_bn': ((1, 1, 2, 2, 2), {'batch_norm': True}, 132_868_840, 7_609_090_048, None, None),
    'vgg13_bn': ((2, 2, 2, 2, 2), {'batch_norm': True}, 133_053_736, 11_308_466_176, None, None),
    'vgg16_bn': ((2, 2, 3, 3, 3), {'batch_norm': True}, 138_365_992, 15_470_264_320, None, None),
    'vgg19_bn': ((2, 2, 4, 4, 4), {'batch_norm': True}, 143_678_248, 19_632_062_464, None, None),
}


def _reference(name: str) -> str | None:
    return None if name in ('vgg11_lrn', 'vgg16_c') else f'torchvision:{name}'


register_table(
    PLAIN | BATCH_NORM,
    'depths fields params macs top1 top5',
    system=SYSTEM,
    module=VGG,
    input_size=224,
    reference=_reference,
)
