"""PyramidNet: Deep Pyramidal Residual Networks (Han, Kim, Kim; CVPR 2017).

https://arxiv.org/abs/1610.02915

What is new: the number of channels grows a little in every unit, by alpha over all of them, where
other nets double it wherever they halve the resolution; a unit has no rectifier before its first
convolution and a norm after its last; shortcuts have no parameters, new channels begin as zeros.

Agrees with: pytorchcv's pyramidnet* and with the authors' code, whose rounding of the widths, a
half goes up, is taken; dropout is where their Caffe net of alpha 450 has it. The paper's
multiplicative widths are not here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import BatchNorm
from cls.nn.shortcut import pooled
from cls.nn.units import NormConv

SYSTEM = System(
    name='PyramidNet',
    title='Deep Pyramidal Residual Networks',
    venue='CVPR 2017',
    arxiv='1610.02915',
    top1=80.8,
    top5=95.3,
    headline='pyramidnet200_a450',
    params=116.4,
)


class PyramidUnit(nn.Module):
    """Normalised convolutions, a rectifier before each but the first, and a last norm (fig. 6d)."""

    layers: preact.Layers
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i, (width, window, strides) in enumerate(self.layers, 1):
            act = nn.relu if i > 1 else None
            unit = NormConv(width, window, self.conv, self.norm, strides, act=act, name=f'conv{i}')
            y, _ = unit(y)
        strides = max(strides for _, _, strides in self.layers)
        return self.norm(name='bn')(y) + pooled(x, y.shape[-1], strides)


def additive_widths(start: int, alpha: float, sizes: Sequence[int]) -> list[list[int]]:
    """Returns each unit's width, by stages: `start` and alpha / sum(sizes) more in each (eq. 2).

    Args:
      start: the stem's width.
      alpha: what the last unit has more than the stem.
      sizes: units in each stage.
    """
    step = alpha / sum(sizes)
    widths = [math.floor(start + step * k + 0.5) for k in range(1, sum(sizes) + 1)]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [widths[first : first + size] for first, size in zip(firsts, sizes, strict=True)]


class PyramidNet(nn.Module):
    """A pyramidal net of basic or bottleneck units, with the ImageNet or the CIFAR stem."""

    stage_sizes: Sequence[int]
    alpha: float
    bottleneck: bool = False
    cifar: bool = False
    dropout_rate: float = 0.0  # before the classifier
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train, group=self.bn_group, dtype=self.dtype)
        layers = preact.bottleneck if self.bottleneck else preact.basic

        def unit(width: int, strides: int, name: str) -> nn.Module:
            return PyramidUnit(layers(width, strides), conv, norm, name=name)

        start = 16 if self.cifar else 64
        if self.cifar:
            x = norm(name='bn1')(conv(start, 3, name='conv1')(images))
            self.sow('intermediates', 'stem', x)
        else:
            x = residual.stem(self, images, conv, norm, start)
        widths = additive_widths(start, self.alpha, self.stage_sizes)
        x = preact.stages(self, x, unit, widths)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        return preact.head(self, x, norm, dropout)


# Units in each of three stages, alpha, parameters, multiply-adds and CIFAR-10 top-1 (Table 4).
CIFAR_BASIC = {
    'pyramidnet110_a48_cifar': (18, 48, 1_772_706, 403_813_504, 95.38),
    'pyramidnet110_a84_cifar': (18, 84, 3_904_446, 772_168_168, 95.73),
    'pyramidnet110_a270_cifar': (18, 270, 28_485_477, 4_717_983_724, 96.27),
}
CIFAR_BOTTLENECK = {
    'pyramidnet164_a270_cifar': (18, 270, 27_216_021, 4_569_837_040, 96.52),
    'pyramidnet200_a240_cifar': (22, 240, 26_752_702, 4_519_606_016, 96.56),
    'pyramidnet236_a220_cifar': (26, 220, 26_969_046, 4_582_673_952, 96.60),
    'pyramidnet272_a200_cifar': (30, 200, 26_210_842, 4_488_778_176, 96.69),
}
# Units per stage, alpha, dropout, parameters, multiply-adds, and top-1 and top-5 of 224 pixels as
# the authors' code gives them. pyramidnet101_a360 is not the paper's.
IMAGENET = {
    'pyramidnet101_a360': ((3, 4, 23, 3), 360, 0.0, 42_455_070, 8_696_707_045, None, None),
    'pyramidnet200_a300': ((3, 24, 36, 3), 300, 0.0, 62_368_168, 16_550_501_282, 79.53, 94.71),
    'pyramidnet200_a450': ((3, 24, 36, 3), 450, 0.5, 116_775_213, 29_196_815_629, 79.89, 94.57),
}

for name, (units, alpha, params, macs, top1) in {**CIFAR_BASIC, **CIFAR_BOTTLENECK}.items():
    fields = {'stage_sizes': (units,) * 3, 'alpha': alpha, 'bottleneck': name in CIFAR_BOTTLENECK}
    fields |= {'cifar': True, 'num_classes': 10}
    reference = name.replace('_cifar', '_bn_cifar' if name in CIFAR_BOTTLENECK else '_cifar')
    known = {'reference': f'pytorchcv:{reference}10', 'renames': preact.PYTORCHCV}
    register(Variant(name, SYSTEM, PyramidNet, fields, 32, params, macs, top1, **known))
for name, (sizes, alpha, dropout, params, macs, top1, top5) in IMAGENET.items():
    fields = {'stage_sizes': sizes, 'alpha': alpha, 'bottleneck': True, 'dropout_rate': dropout}
    known = {'reference': f'pytorchcv:{name}', 'renames': preact.PYTORCHCV}
    register(Variant(name, SYSTEM, PyramidNet, fields, 224, params, macs, top1, top5, **known))
