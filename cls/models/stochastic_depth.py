"""Stochastic depth: Deep Networks with Stochastic Depth (Huang, Sun, Liu, Sedra, Weinberger).

ECCV 2016; https://arxiv.org/abs/1603.09382

What is new: in training, each mini-batch drops entire residual blocks, deeper ones more often, so
that training sees a short network and testing a deep one. In testing each residual is multiplied by
the survival probability of its block (eq. 5), p_l = 1 - l / L (1 - p_L).

Agrees with: the authors' Torch code, by an independent reimplementation
(tests/golden/restated/stochastic_depth.py). Its networks for CIFAR and SVHN are ResNets with biases
in the convolutions, and with shortcuts that average pixels and append zero channels. The ImageNet
network is torchvision's resnet152, and reads its weights; the paper trained it with
fb.resnet.torch, in the same graph.

Departs from that code: a dropped block is computed and its running statistics change, though its
output is discarded.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import init, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.residual import BasicBlock, Bottleneck
from cls.nn.shortcut import pooled

SYSTEM = System(
    name='Stochastic Depth',
    title='Deep Networks with Stochastic Depth',
    venue='ECCV 2016',
    arxiv='1603.09382',
    top1=78.02,
    top5=None,
    headline='resnet152_sd',
)


class StochasticDepth(nn.Module):
    """A residual network that drops the l-th of L blocks with probability l / L * drop_rate."""

    stage_sizes: Sequence[int]
    cifar: bool = False  # False: the ImageNet stem and bottlenecks
    drop_rate: float = 0.5  # 1 - p_L
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        norm = batch_norm(self, train)

        def drop(block: nn.Module, y: jax.Array) -> jax.Array:
            survival = 1 - (block.index + 1) / sum(self.stage_sizes) * self.drop_rate
            if not train:
                return y * survival
            # One gate for each microbatch, on all devices.
            return jnp.where(jax.random.bernoulli(block.make_rng('dropout'), survival), y, 0)

        if self.cifar:
            conv = functools.partial(
                Conv, use_bias=True, dtype=self.dtype, kernel_init=init.he_normal
            )
            block, widths, shortcut = BasicBlock, (16, 32, 64), _shortcut
            x = residual.cifar_stem(self, images, conv, norm, 16)
        else:
            conv = functools.partial(Conv, dtype=self.dtype)
            block, widths, shortcut = Bottleneck, (64, 128, 256, 512), residual.option_b
            x = residual.stem(self, images, conv, norm, 64)
        block = functools.partial(block, conv=conv, norm=norm, shortcut=shortcut, refine=drop)
        x = residual.stages(self, x, block, self.stage_sizes, widths)
        return residual.head(self, x)


def _shortcut(block: nn.Module, x: jax.Array) -> jax.Array:
    return pooled(x, block.width, block.strides)


# Blocks in each of three stages; top-1 on CIFAR-10 or SVHN (Table 1).
SMALL = {
    'resnet110_sd_cifar': (18, 1_732_010, 252_887_680, 94.77),
    'resnet1202_sd_cifar': (200, 19_466_090, 2_829_238_912, 95.09),
    'resnet152_sd_svhn': (25, 2_414_090, 351_978_112, 98.25),
}


def _small(blocks: int) -> dict[str, Any]:
    return {'stage_sizes': (blocks,) * 3, 'cifar': True, 'num_classes': 10}


register_table(
    SMALL,
    'blocks params macs top1',
    system=SYSTEM,
    module=StochasticDepth,
    fields=_small,
    input_size=32,
)
register(
    Variant(
        'resnet152_sd',
        SYSTEM,
        StochasticDepth,
        {'stage_sizes': (3, 8, 36, 3)},
        224,
        params=60_192_808,
        macs=11_513_626_624,
        top1=78.02,
    )
)
