"""PyramidNet: Deep Pyramidal Residual Networks (Han, Kim, Kim; CVPR 2017).

https://arxiv.org/abs/1610.02915

What is new: the number of channels grows a little in every unit, by alpha over all of them, where
other networks double it at each reduction of the resolution; a unit has no rectifier before its
first convolution and a norm after its last; shortcuts have no parameters, and new channels are
zero-padded.

Agrees with: pytorchcv's pyramidnet* and the authors' code, including its rounding of the widths (a
half rounds up); dropout is at its place in their Caffe network of alpha 450. The paper's
multiplicative widths are not included.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import preact, residual
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
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
    """Pre-normalized convolutions, all but the first rectified too, and a last norm (fig. 6d)."""

    layers: preact.Layers
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', C')."""
        y = x
        for i, (width, window, strides) in enumerate(self.layers, 1):
            act = nn.relu if i > 1 else None
            unit = NormConv(width, window, self.conv, self.norm, strides, act=act, name=f'conv{i}')
            y, _ = unit(y)
        strides = max(strides for _, _, strides in self.layers)
        return self.norm(name='bn')(y) + pooled(x, y.shape[-1], strides)


def additive_widths(start: int, alpha: float, sizes: Sequence[int]) -> list[list[int]]:
    """Returns the widths of the units of each stage: alpha / sum(sizes) more in each unit (eq. 2).

    Args:
      start: width of the stem.
      alpha: difference between the widths of the last unit and the stem.
      sizes: units in each stage.
    """
    step = alpha / sum(sizes)
    widths = [math.floor(start + step * k + 0.5) for k in range(1, sum(sizes) + 1)]
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [widths[first : first + size] for first, size in zip(firsts, sizes, strict=True)]


class PyramidNet(nn.Module):
    """A pyramidal network of basic or bottleneck units, with the ImageNet or the CIFAR stem."""

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
        norm = batch_norm(self, train)
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


# Units in each of three stages; top-1 on CIFAR-10 (Table 4).
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
# Top-1 and top-5 are from the authors' code, at 224 pixels. pyramidnet101_a360 is not in the paper.
IMAGENET = {
    'pyramidnet101_a360': ((3, 4, 23, 3), 360, 0.0, 42_455_070, 8_696_707_045, None, None),
    'pyramidnet200_a300': ((3, 24, 36, 3), 300, 0.0, 62_368_168, 16_550_501_282, 79.53, 94.71),
    'pyramidnet200_a450': ((3, 24, 36, 3), 450, 0.5, 116_775_213, 29_196_815_629, 79.89, 94.57),
}


def _cifar(units: int, alpha: float, bottleneck: bool) -> dict[str, Any]:
    return {
        'stage_sizes': (units,) * 3,
        'alpha': alpha,
        'bottleneck': bottleneck,
        'cifar': True,
        'num_classes': 10,
    }


register_table(
    CIFAR_BASIC,
    'units alpha params macs top1',
    system=SYSTEM,
    module=PyramidNet,
    fields=functools.partial(_cifar, bottleneck=False),
    input_size=32,
    reference=lambda name: f'pytorchcv:{name}10',
    renames=preact.PYTORCHCV,
)
register_table(
    CIFAR_BOTTLENECK,
    'units alpha params macs top1',
    system=SYSTEM,
    module=PyramidNet,
    fields=functools.partial(_cifar, bottleneck=True),
    input_size=32,
    reference=lambda name: f'pytorchcv:{name.replace("_cifar", "_bn_cifar10")}',
    renames=preact.PYTORCHCV,
)
register_table(
    IMAGENET,
    'stage_sizes alpha dropout_rate params macs top1 top5',
    system=SYSTEM,
    module=PyramidNet,
    fields={'bottleneck': True},
    input_size=224,
    reference=lambda name: f'pytorchcv:{name}',
    renames=preact.PYTORCHCV,
)
