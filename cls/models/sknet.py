"""SKNet: Selective Kernel Networks (Li, Wang, Hu, Yang; CVPR 2019).

https://arxiv.org/abs/1903.06586

What is new: a layer with kernels of several sizes (split). The global averages of their sum decide
(fuse) the share of each kernel in every output channel, by a softmax over the kernels (select). The
networks are ResNeXt with such a layer in place of the grouped 3x3 convolution: SK[M, G, r] =
SK[2, 32, 16] has M = 2 kernels, 3x3 and 3x3 with dilation 2 (for 5x5), G = 32 groups, and fuses to
max(channels / r, L) channels with L = 32 (section 3.1).

Agrees with: timm's skresnext50_32x4d, with the same parameter names, and pytorchcv's sknet50, 101
and 152. The released Caffe networks have the same sknet50 (with unpadded pooling in the stem,
`ceil_pool`). In their sknet101 the third stage (conv3) fuses to 16 channels, against the rule;
`fused_min` (32, 16, 32, 32) gives this form: 48,686,760 parameters. sknet152 is pytorchcv's and
not in the paper.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='SKNet',
    title='Selective Kernel Networks',
    venue='CVPR 2019',
    arxiv='1903.06586',
    top1=80.60,  # of the reading list; Table 2 has 79.81 for SKNet-101, 81.60 at 320 pixels
    top5=None,
    headline='sknet101',
    params=48.9,
    macs=8_460,
)


class SelectiveKernel(nn.Module):
    """One 3x3 convolution for each dilation, mixed channel by channel (section 3.1, figure 1)."""

    features: int
    strides: int
    fused: int  # channels of the fused features
    dilations: Sequence[int]
    groups: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features)."""
        kernels = []
        for i, dilation in enumerate(self.dilations):
            conv = functools.partial(self.conv, dilation=dilation)
            unit = ConvNorm(
                self.features,
                3,
                conv,
                self.norm,
                self.strides,
                groups=self.groups,
                name=f'paths.{i}',
            )
            kernels.append(unit(x))
        small = functools.partial(self.conv, window=1, kernel_init=init.Normal(0.01))
        z = jnp.mean(sum(kernels), (1, 2), keepdims=True)
        z = nn.relu(self.norm(name='attn.bn')(small(self.fused, name='attn.fc_reduce')(z)))
        z = small(len(kernels) * self.features, name='attn.fc_select')(z)
        choice = nn.softmax(z.reshape(z.shape[0], 1, 1, len(kernels), self.features), axis=-2)
        selected: Any = sum(kernel * choice[..., i, :] for i, kernel in enumerate(kernels))
        return selected


class SelectiveBottleneck(nn.Module):
    """residual.Bottleneck with twice the inner width and a selective kernel in the middle."""

    width: int
    strides: int
    index: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    kernel: Callable[..., nn.Module]  # (features, strides, conv=, norm=, name=)
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', 4 * width)."""
        parts: dict[str, Any] = {'conv': self.conv, 'norm': self.norm}
        inner = 2 * self.width
        y = ConvNorm(inner, 1, **parts, name='conv1')(x)
        y = self.kernel(inner, self.strides, **parts, name='conv2')(y)
        y = ConvNorm(self.width * self.expansion, 1, **parts, act=None, name='conv3')(y)
        return nn.relu(y + residual.option_b(self, x))


class SKNet(nn.Module):
    """A residual network of bottlenecks with selective kernels."""

    stage_sizes: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512)
    dilations: Sequence[int] = (1, 2)  # of the M kernels
    groups: int = 32  # G
    reduction: int = 16  # r
    fused_min: Sequence[int] = (32, 32, 32, 32)  # L, for each stage
    ceil_pool: bool = False  # the stem's pool as in the authors' Caffe files, see residual.stem
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        smallest = dict(zip(self.widths, self.fused_min, strict=True))

        def block(width, strides, index, name):
            fused = max(2 * width // self.reduction, smallest[width])
            settings = {'fused': fused, 'dilations': self.dilations, 'groups': self.groups}
            kernel = functools.partial(SelectiveKernel, **settings)
            return SelectiveBottleneck(width, strides, index, conv, norm, kernel, name=name)

        x = residual.stem(self, images, conv, norm, self.widths[0], self.ceil_pool)
        x = residual.stages(self, x, block, self.stage_sizes, self.widths)
        return residual.head(self, x)


PYTORCHCV = (
    *residual.PYTORCHCV,
    (r'\.(conv[123])\.', r'.body.\1.'),
    (r'\.paths\.0\.', '.branches.branch2.'),
    (r'\.paths\.1\.', '.branches.branch3.'),
    (r'\.attn\.fc_reduce\.', '.fc1.conv.'),
    (r'\.attn\.bn\.', '.fc1.bn.'),
    (r'\.attn\.fc_select\.', '.fc2.'),
)
# Blocks per stage are Table 1's; top-1 is the paper's (Table 2).
TABLE = {
    'sknet50': (
        (3, 4, 6, 3),
        27_479_784,
        4_462_710_784,
        79.21,
        'timm:skresnext50_32x4d',
        (),
    ),
    'sknet101': (
        (3, 4, 23, 3),
        48_736_040,
        8_448_724_992,
        79.81,
        'pytorchcv:sknet101',
        PYTORCHCV,
    ),
    'sknet152': (
        (3, 8, 36, 3),
        66_295_656,
        12_434_640_896,
        None,
        'pytorchcv:sknet152',
        PYTORCHCV,
    ),
}
register_table(
    TABLE,
    'stage_sizes params macs top1 reference renames',
    system=SYSTEM,
    module=SKNet,
    input_size=224,
)
