"""RiR: Resnet in Resnet: Generalizing Residual Architectures (ICLR 2016 workshop).

Targ, Almeida, Lyman; https://arxiv.org/abs/1603.08029

What is new: a layer with two streams, both of which it reads and writes. The residual stream has a
shortcut around each layer, the transient one has none and can forget. Residual blocks made of two
such layers, with a shortcut of their own around both, are ResNets in a ResNet.

The variants ending in `_paper` have the paper's graph as nutszebra's Chainer code gives it
(github.com/nutszebra/resnet_in_resnet): shortcuts take every second pixel and fill new channels
with zeros behind the old, a block that widens halves the image in its second layer, and the
class maps are rectified before their mean. They are held against a restatement. That code's
convolutions have biases besides, which normalisation makes useless; here none has.

The other variants agree with pytorchcv's rir_cifar10 and rir_cifar100, whose names all parameters
bear. There, layers stand without the shortcut around two; where the shape changes the layer's own
shortcut is a 1x1 convolution (23,040 parameters in all); the first layer of a stage halves the
image; class maps are not rectified.
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
from cls.nn.norm import BatchNorm
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
    """Every strides-th pixel, with zeros for new channels behind the old."""
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


class Layer(nn.Module):
    """The generalised residual layer (equation 1): four convolutions between two streams."""

    width: int  # of each stream
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    projection: bool  # where the shape changes, in place of zero_padded

    @nn.compact
    def __call__(self, streams: Streams) -> Streams:
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
    """Stages of blocks of two generalised residual layers; each stage but the first halves."""

    stage_sizes: Sequence[int]  # blocks
    widths: Sequence[int]  # of each stream
    pytorchcv: bool = False  # its graph instead of the paper's
    num_classes: int = 10
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
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


# Classes, the form, parameters, multiply-adds, and the paper's top-1.
VARIANTS = {
    'rir18_wide_cifar': (10, True, 9_492_980, 1_279_279_104, None),
    'rir18_wide_cifar100': (100, True, 9_527_720, 1_281_490_944, None),
    'rir18_wide_cifar_paper': (10, False, 9_469_940, 1_531_723_776, 94.99),
    'rir18_wide_cifar100_paper': (100, False, 9_504_680, 1_533_935_616, 77.10),
}
PYTORCHCV = ((r'^(init_block|stage\d)\.', r'features.\1.'),)
for name, (classes, pytorchcv, params, macs, top1) in VARIANTS.items():
    fields = {
        'stage_sizes': (2, 3, 3),
        'widths': (48, 96, 192),
        'pytorchcv': pytorchcv,
        'num_classes': classes,
    }
    reference = f'pytorchcv:rir_cifar{classes}' if pytorchcv else None
    known = {'reference': reference, 'renames': PYTORCHCV}
    register(Variant(name, SYSTEM, RiR, fields, 32, params, macs, top1, **known))
