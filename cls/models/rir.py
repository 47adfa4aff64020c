"""RiR: Resnet in Resnet: Generalizing Residual Architectures (ICLR 2016 workshop).

Targ, Almeida, Lyman; https://arxiv.org/abs/1603.08029

What is new: a layer that reads and writes two streams. The residual stream has a shortcut around
each layer, the transient stream has none and can forget. Residual blocks of two such layers, with
another shortcut around both, are ResNets in a ResNet.

The variants ending in `_paper` have the paper's graph, by nutszebra's Chainer code
(github.com/nutszebra/resnet_in_resnet): shortcuts take every second pixel and append zeros for new
channels, a block that widens halves the resolution in its second layer, and the class maps are
rectified before their mean. They are tested against an independent reimplementation. That code's
convolutions also have biases, redundant before normalization; ours have none.

The other variants agree with pytorchcv's rir_cifar10 and rir_cifar100; all variants have its
parameter names. In these, there is no shortcut around two layers; where the shape changes the
layer's own shortcut is a 1x1 convolution (23,040 parameters in all); the first layer of a stage
halves the resolution; class maps are not rectified.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.units import ConvNorm

SYSTEM = System(
    name='RiR',
    title='Resnet in Resnet: Generalizing Residual Architectures',
    venue='ICLR 2016 workshop',
    arxiv='1603.08029',
    top1=None,  # CIFAR only
    top5=None,
    headline='rir18_wide_cifar_paper',
)

Streams = tuple[jax.Array, jax.Array]  # residual and transient, (N, H, W, C) each


def zero_padded(x: jax.Array, width: int, strides: int) -> jax.Array:
    """Returns every strides-th pixel of (N, H, W, C), with zeros appended to `width` channels."""
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


class Layer(nn.Module):
    """The generalized residual layer (equation 1): four convolutions between two streams."""

    width: int  # of each stream
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    projection: bool  # a 1x1 convolution in place of zero_padded

    @nn.compact
    def __call__(self, streams: Streams) -> Streams:
        """Maps both streams to (N, H', W', width) each."""
        residual, transient = streams
        conv = functools.partial(self.conv, self.width, 3, self.strides)
        if residual.shape[-1] == self.width and self.strides == 1:
            shortcut = residual
        elif self.projection:
            shortcut = self.conv(self.width, 1, self.strides, name='identity_conv')(residual)
        else:
            shortcut = zero_padded(residual, self.width, self.strides)
        to_residual = conv(name='res_pass_conv')(residual) + conv(name='trans_cross_conv')(
            transient
        )
        to_transient = conv(name='trans_pass_conv')(transient) + conv(name='res_cross_conv')(
            residual
        )
        return (
            nn.relu(self.norm(name='res_postactiv.bn')(to_residual + shortcut)),
            nn.relu(self.norm(name='trans_postactiv.bn')(to_transient)),
        )


class RiR(nn.Module):
    """Stages of blocks of two layers; each stage but the first halves the resolution."""

    stage_sizes: Sequence[int]  # blocks
    widths: Sequence[int]  # of each stream
    pytorchcv: bool = False  # pytorchcv's graph in place of the paper's
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = batch_norm(self, train)
        layer = functools.partial(Layer, conv=conv, norm=norm, projection=self.pytorchcv)
        unit = functools.partial(ConvNorm, conv=conv, norm=norm)

        streams = tuple(
            unit(self.widths[0], 3, name=f'init_block.{name}_conv')(images)
            for name in ('res', 'trans')
        )
        self.sow('intermediates', 'stem', jnp.concatenate(streams, -1))
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), 1):
            for block in range(size):
                halve = stage > 1 and block == 0
                before = streams[0]
                for i, halves in enumerate((self.pytorchcv, not self.pytorchcv), 1):
                    strides = 2 if halve and halves else 1
                    name = f'stage{stage}.unit{2 * block + i}'
                    streams = layer(width, strides, name=name)(streams)
                if not self.pytorchcv:
                    around = zero_padded(before, width, 2 if halve else 1)
                    streams = (streams[0] + around, streams[1])
            self.sow('intermediates', f'stage{stage}', jnp.concatenate(streams, -1))

        x = jnp.concatenate(streams, -1)
        self.sow('intermediates', 'pre_logits', jnp.mean(x, (1, 2)))
        act = None if self.pytorchcv else nn.relu
        x = unit(self.num_classes, 1, act=act, name='output.final_conv')(x)
        return jnp.mean(x.astype(jnp.float32), (1, 2))


# Top-1 is the paper's.
TABLE = {
    'rir18_wide_cifar': (10, True, 9_492_980, 1_279_279_104, None, 'pytorchcv:rir_cifar10'),
    'rir18_wide_cifar100': (100, True, 9_527_720, 1_281_490_944, None, 'pytorchcv:rir_cifar100'),
    'rir18_wide_cifar_paper': (10, False, 9_469_940, 1_531_723_776, 94.99, None),
    'rir18_wide_cifar100_paper': (100, False, 9_504_680, 1_533_935_616, 77.10, None),
}
PYTORCHCV = ((r'^(init_block|stage\d)\.', r'features.\1.'),)
register_table(
    TABLE,
    'num_classes pytorchcv params macs top1 reference',
    system=SYSTEM,
    module=RiR,
    fields={'stage_sizes': (2, 3, 3), 'widths': (48, 96, 192)},
    input_size=32,
    renames=PYTORCHCV,
)
