"""Xception: Deep Learning with Depthwise Separable Convolutions (Chollet; CVPR 2017).

https://arxiv.org/abs/1610.02357

What is new: Inception blocks at the extreme of one branch for each channel: depthwise separable
convolutions, without a rectifier between their two parts, in residual blocks (figure 5).

Agrees with: timm's legacy_xception, with the same parameter names. Its layers are those of Keras,
with two departures that come with this reference: norms add 1e-5 to the variance, where Keras adds
1e-3, and a max pool pads both sides, where TensorFlow pads images of even size only at the end
(`epsilon` and `pool_padding`).
Initial values are Keras's. Inputs may have any size.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import inception, init
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.padding import Padding
from cls.nn.pool import max_pool

SYSTEM = System(
    name='Xception',
    title='Xception: Deep Learning with Depthwise Separable Convolutions',
    venue='CVPR 2017',
    arxiv='1610.02357',
    top1=79.0,
    top5=94.5,
    headline='xception',
    params=22.86,
)


class Separable(nn.Module):
    """3x3 depthwise and 1x1 convolution."""

    features: int
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features)."""
        x = self.conv(x.shape[-1], 3, groups=x.shape[-1], name='conv1')(x)
        return self.conv(self.features, 1, name='pointwise')(x)


class Block(nn.Module):
    """Rectifier, separable convolution and norm for each width, a pool, and the residual sum.

    H' and W' are ceil(H / strides) and ceil(W / strides). The shortcut is a 1x1 convolution where
    the shape changes.
    """

    widths: Sequence[int]
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    rectified: bool = True  # begins with a rectifier
    pool_padding: Padding = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', widths[-1])."""
        y, layer = x, 0
        for i, width in enumerate(self.widths):
            if i or self.rectified:
                y, layer = nn.relu(y), layer + 1
            y = Separable(width, self.conv, name=f'rep.{layer}')(y)
            y = self.norm(name=f'rep.{layer + 1}')(y)
            layer += 2
        if self.strides > 1:
            y = max_pool(y, 3, self.strides, self.pool_padding)
        if x.shape != y.shape:
            x = self.conv(self.widths[-1], 1, self.strides, name='skip')(x)
            x = self.norm(name='skipbn')(x)
        return x + y


class Xception(nn.Module):
    """Entry flow, middle flow and exit flow (figure 5)."""

    stem: Sequence[int] = (32, 64)  # channels of two convolutions, the first with stride 2
    entry: Sequence[int] = (128, 256, 728)  # of blocks with stride 2
    middle: int = 8  # blocks without a stride
    exit: Sequence[int] = (1024, 1536, 2048)  # a block with stride 2 and two separable convolutions
    dropout_rate: float = 0.5
    num_classes: int = 1000
    pool_padding: Padding = 1  # 'SAME' is Keras's, and its epsilon 1e-3
    epsilon: float = 1e-5
    bn_group: int = 0
    bn_momentum: float = 0.99
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.glorot_uniform)
        norm = batch_norm(self, train, momentum=self.bn_momentum, epsilon=self.epsilon)
        block = functools.partial(Block, conv=conv, norm=norm, pool_padding=self.pool_padding)

        x = images
        for i, (width, strides) in enumerate(zip(self.stem, (2, 1), strict=True), 1):
            x = conv(width, 3, strides, padding='VALID', name=f'conv{i}')(x)
            x = nn.relu(norm(name=f'bn{i}')(x))
        self.sow('intermediates', 'stem', x)
        index = 1
        for width in self.entry:
            x = block((width, width), 2, rectified=index > 1, name=f'block{index}')(x)
            self.sow('intermediates', f'stage{index}', x)
            index += 1
        for _ in range(self.middle):
            x = block((width,) * 3, 1, name=f'block{index}')(x)
            index += 1
        self.sow('intermediates', f'stage{len(self.entry) + 1}', x)
        x = block((width, self.exit[0]), 2, name=f'block{index}')(x)
        for i, width in enumerate(self.exit[1:], 3):
            x = Separable(width, conv, name=f'conv{i}')(x)
            x = nn.relu(norm(name=f'bn{i}')(x))
        self.sow('intermediates', f'stage{len(self.entry) + 2}', x)
        return inception.head(self, x, train, 'fc', init.glorot_uniform)


register(
    Variant(
        'xception',
        SYSTEM,
        Xception,
        {},
        input_size=299,
        params=22_855_952,
        macs=8_357_403_496,
        top1=79.0,  # Table 1
        top5=94.5,
        reference='timm:legacy_xception',
    )
)
