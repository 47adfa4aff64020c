"""DenseNet: Densely Connected Convolutional Networks (Huang, Liu, van der Maaten, Weinberger).

CVPR 2017; https://arxiv.org/abs/1608.06993

What is new: within a block every layer sees the concatenated outputs of all layers before it, and
adds k channels of its own (the growth rate). DenseNet-BC reduces the input of a layer to 4k
channels by a 1x1 convolution (B) and halves the channels between blocks (C).

Agrees with: torchvision's densenet121, 161, 169, 201, and its DenseNet class for 264; pytorchcv's
CIFAR networks of the BC form. The paper's plain CIFAR networks have no compression (figure and
section 3, theta = 1; parameters of Table 2), and are tested against an independent
reimplementation; pytorchcv's halve the channels, as the `_c` variants do. DenseNet-161 is from the
authors' repository.

Dropout follows every convolution but the first, as in the paper and the authors' code
(models/densenet.lua); torchvision and pytorchcv have it only at the end of a layer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import residual
from cls.nn.concat import concat
from cls.nn.conv import Conv
from cls.nn.norm import batch_norm
from cls.nn.pool import avg_pool, max_pool
from cls.nn.units import NormConv

SYSTEM = System(
    name='DenseNet',
    title='Densely Connected Convolutional Networks',
    venue='CVPR 2017',
    arxiv='1608.06993',
    top1=79.20,  # DenseNet-264, ten crops (Table 3)
    top5=94.71,
    headline='densenet264',
)


class DenseLayer(nn.Module):
    """A layer that concatenates `growth` channels to its input; a bottleneck has 4 * growth."""

    growth: int
    bottleneck: bool
    unit: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C + growth)."""
        y = x
        if self.bottleneck:
            y, _ = self.unit(4 * self.growth, 1, name='conv1')(y)
            y = self.dropout()(y)
        y, _ = self.unit(self.growth, 3, name='conv2')(y)
        return concat(x, self.dropout()(y))


class DenseBlock(nn.Module):
    """Dense layers at one resolution."""

    size: int
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C')."""
        for i in range(self.size):
            x = self.layer(name=f'denselayer{i + 1}')(x)
        return x


class DenseNet(nn.Module):
    """Dense blocks with transitions in between, and the ImageNet or the CIFAR stem."""

    block_sizes: Sequence[int]
    growth: int
    stem_features: int
    bc: bool = True  # bottlenecks, and half the channels after each block
    c: bool = False  # half the channels after each block, without bottlenecks
    cifar: bool = False
    dropout_rate: float = 0.0
    num_classes: int = 1000
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = batch_norm(self, train)
        unit = functools.partial(NormConv, conv=conv, norm=norm)
        dropout = functools.partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        layer = functools.partial(
            DenseLayer, self.growth, bottleneck=self.bc, unit=unit, dropout=dropout
        )

        if self.cifar:
            x = conv(self.stem_features, 3, name='conv0')(images)
        else:
            x = conv(self.stem_features, 7, 2, name='conv0')(images)
            pool = functools.partial(max_pool, window=3, strides=2, padding=1)
            x = nn.relu(norm(name='norm0')(x, pool))
        self.sow('intermediates', 'stem', x)
        for i, size in enumerate(self.block_sizes, 1):
            if i > 1:
                features = x.shape[-1] // 2 if self.bc or self.c else x.shape[-1]
                x, _ = unit(features, 1, name=f'transition{i - 1}')(x)
                x = avg_pool(dropout()(x), 2, 2)
            x = DenseBlock(size, layer, name=f'denseblock{i}')(x)
            self.sow('intermediates', f'stage{i}', x)
        x = nn.relu(norm(name='norm5')(x))
        return residual.head(self, x, name='classifier')


# Layers of the blocks are Table 1's. Top-1 and top-5 are the paper's, by a single crop (Table 3;
# 161: only in an earlier version of the paper).
IMAGENET = {
    'densenet121': (32, (6, 12, 24, 16), 7_978_856, 2_834_161_664, 74.98, 92.29),
    'densenet169': (32, (6, 12, 32, 32), 14_149_480, 3_359_843_328, 76.20, 93.15),
    'densenet201': (32, (6, 12, 48, 32), 20_013_928, 4_291_365_888, 77.42, 93.66),
    'densenet264': (32, (6, 12, 64, 48), 33_337_704, 5_751_653_376, 77.85, 93.88),
    'densenet161': (48, (6, 12, 36, 24), 28_681_000, 7_727_907_072, 77.67, 93.85),
}
# Growth rate, layers in each of three blocks; top-1 on CIFAR-10 with augmentation (Table 2).
CIFAR_BC = {
    'densenet100_k12_bc_cifar': (12, 16, 769_162, 287_929_692, 95.49),
    'densenet250_k24_bc_cifar': (24, 41, 15_324_406, 5_418_785_724, 96.38),
    'densenet190_k40_bc_cifar': (40, 31, 25_624_430, 9_301_945_740, 96.54),
    'densenet40_k12_bc_cifar': (12, 6, 176_122, 72_365_352, None),
    'densenet40_k24_bc_cifar': (24, 6, 690_346, 288_131_664, None),
    'densenet40_k36_bc_cifar': (36, 6, 1_542_682, 647_298_936, None),
}
# The same without bottlenecks and compression.
CIFAR = {
    'densenet40_k12_cifar': (12, 12, 1_019_722, 264_812_928, 94.76),
    'densenet100_k12_cifar': (12, 32, 6_979_642, 1_769_516_448, 95.90),
    'densenet100_k24_cifar': (24, 32, 27_249_082, 6_889_347_744, 96.26),
}
# pytorchcv's form of these: compression without bottlenecks, and a stem of 2k channels.
CIFAR_C = {
    'densenet40_k12_c_cifar': (12, 12, 599_050, 205_906_452),
    'densenet100_k12_c_cifar': (12, 32, 4_068_490, 1_324_548_732),
    'densenet100_k24_c_cifar': (24, 32, 16_114_138, 5_296_854_264),
}
TORCHVISION = (
    (r'\.bn\.', '.norm.'),
    (r'\.conv(\d)\.(norm|conv)\.', r'.\2\1.'),
    (r'^(?!classifier)', 'features.'),
)
# torchvision's published files have norm.1 and conv.1 for the norm1 and conv1 of its code.
OLD_NAMES = ((r'\b(norm|conv)\.([12])\.', r'\1\2.'),)
PYTORCHCV = (
    (r'^conv0\.', 'features.init_block.'),
    (r'^norm5\.', 'features.post_activ.bn.'),
    (r'^classifier\.', 'output.'),
    (r'^denseblock(\d)\.denselayer(\d+)\.', r'features.stage\1.unit\2.'),
    *((rf'^transition{i}\.', f'features.stage{i + 1}.trans{i + 1}.conv.') for i in (1, 2)),
)


def _imagenet(growth: int, **fields: Any) -> dict[str, Any]:
    return {'growth': growth, 'stem_features': 2 * growth, **fields}


def _cifar(growth: int, layers: int, bc: bool, c: bool = False) -> dict[str, Any]:
    """Returns the fields of a CIFAR network; its stem has 2k channels, 16 in the plain form."""
    return {
        'block_sizes': (layers,) * 3,
        'growth': growth,
        'stem_features': 2 * growth if bc or c else 16,
        'bc': bc,
        'c': c,
        'cifar': True,
        'num_classes': 10,
    }


register_table(
    IMAGENET,
    'growth block_sizes params macs top1 top5',
    system=SYSTEM,
    module=DenseNet,
    fields=_imagenet,
    input_size=224,
    reference=lambda name: f'torchvision:{name}',
    renames=TORCHVISION,
    old_names=OLD_NAMES,
)
register_table(
    CIFAR_BC,
    'growth layers params macs top1',
    system=SYSTEM,
    module=DenseNet,
    fields=functools.partial(_cifar, bc=True),
    input_size=32,
    reference=lambda name: f'pytorchcv:{name}10',
    renames=PYTORCHCV,
)
register_table(
    CIFAR,
    'growth layers params macs top1',
    system=SYSTEM,
    module=DenseNet,
    fields=functools.partial(_cifar, bc=False),
    input_size=32,
    renames=PYTORCHCV,
)
register_table(
    CIFAR_C,
    'growth layers params macs',
    system=SYSTEM,
    module=DenseNet,
    fields=functools.partial(_cifar, bc=False, c=True),
    input_size=32,
    reference=lambda name: f'pytorchcv:{name.replace("_c_cifar", "_cifar10")}',
    renames=(*PYTORCHCV, (r'(\.unit\d+)\.conv2\.', r'\1.conv.')),
)
