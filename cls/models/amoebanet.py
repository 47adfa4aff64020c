"""AmoebaNet: Regularized Evolution for Image Classifier Architecture Search (AAAI 2019).

Real, Aggarwal, Huang, Le; https://arxiv.org/abs/1802.01548

What is new: cells found by an evolution that lets the oldest die, not the worst. A net is a stem,
three stacks of N normal cells with a reduction cell before the second and the third, and a linear
classifier; F is the number of channels in the first stack.

Agrees with: the AmoebaNet code of the TensorFlow TPU models (model_specs.py holds the four cells,
network_utils.py the operations). It no longer runs, so logits are held against a restatement of it
(tests/golden/restated_amoebanet.py), and parameters and multiply-adds against counts derived from
it, which meet the paper's for cell A at (6, 190), (6, 448), (4, 50), B at (3, 62), C at (6, 228).
The ImageNet nets have 1,001 classes as there, where class 0 is the background.

Departs from that code: an odd number of channels is split unevenly by a factorised reduction, where
that code refuses it; the CIFAR stem pads (as NASNet's; there 32 pixels become 30); the auxiliary
head has NASNet's 128 and 768 channels, where that code multiplies both by what its paper means for
the loss, 0.4. Departs from the paper, with that code: an operation of cell B's reduction that is
named as a dilated separable convolution is a plain one.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register
from cls.nn import init
from cls.nn.cells import Cell, CellSpec, Genotype
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.nn.pool import avg_pool

SYSTEM = System(
    name='AmoebaNet',
    title='Regularized Evolution for Image Classifier Architecture Search',
    venue='AAAI 2019',
    arxiv='1802.01548',
    top1=83.9,
    top5=96.6,
    headline='amoebanet_a_n6_f448',
    params=469,
    macs=104_000,
)

# The cells (model_specs.py): state 0 is the cell before, state 1 the one before that.
A = Genotype(
    normal=CellSpec(
        nodes=(
            (('avg_3x3', 0), ('max_3x3', 0)),
            (('sep_3x3', 1), ('identity', 1)),
            (('identity', 0), ('avg_3x3', 1)),
            (('sep_3x3', 0), ('sep_5x5', 2)),
            (('avg_3x3', 5), ('sep_3x3', 0)),
        ),
        concat=(1, 3, 4, 6),
    ),
    reduce=CellSpec(
        nodes=(
            (('sep_3x3', 1), ('avg_3x3', 0)),
            (('max_3x3', 0), ('sep_7x7', 2)),
            (('max_3x3', 1), ('max_3x3', 0)),
            (('sep_3x3', 4), ('1x7_7x1', 0)),
            (('avg_3x3', 1), ('sep_7x7', 0)),
        ),
        concat=(2, 3, 4, 5, 6),
    ),
)
B = Genotype(
    normal=CellSpec(
        nodes=(
            (('1x1', 1), ('max_3x3', 1)),
            (('identity', 1), ('sep_3x3', 0)),
            (('1x1', 1), ('sep_3x3', 0)),
            (('1x1', 2), ('identity', 2)),
            (('avg_3x3', 1), ('1x1', 5)),
        ),
        concat=(0, 3, 4, 6),
    ),
    reduce=CellSpec(
        nodes=(
            (('max_2x2', 0), ('max_3x3', 0)),
            (('identity', 2), ('3x3', 1)),
            (('sep_5x5', 2), ('max_3x3', 2)),
            (('identity', 3), ('sep_3x3', 1)),
            (('avg_3x3', 4), ('1x1', 3)),
        ),
        concat=(5, 6),
    ),
)
C = Genotype(
    normal=CellSpec(
        nodes=(
            (('avg_3x3', 0), ('sep_3x3', 0)),
            (('identity', 0), ('sep_3x3', 0)),
            (('avg_3x3', 2), ('sep_3x3', 1)),
            (('identity', 0), ('sep_3x3', 1)),
            (('avg_3x3', 3), ('sep_3x3', 0)),
        ),
        concat=(1, 2, 4, 5, 6),
    ),
    reduce=CellSpec(
        nodes=(
            (('max_3x3', 0), ('max_3x3', 0)),
            (('sep_7x7', 2), ('sep_3x3', 0)),
            (('sep_7x7', 0), ('max_3x3', 1)),
            (('sep_5x5', 4), ('sep_5x5', 4)),
            (('max_3x3', 1), ('sep_3x3', 1)),
        ),
        concat=(0, 2, 3, 4, 5, 6),
    ),
)
D = Genotype(
    normal=CellSpec(
        nodes=(
            (('1x1', 1), ('max_3x3', 1)),
            (('identity', 1), ('1x7_7x1', 0)),
            (('1x1', 0), ('1x7_7x1', 0)),
            (('max_3x3', 2), ('identity', 2)),
            (('avg_3x3', 1), ('1x1', 5)),
        ),
        concat=(0, 3, 4, 6),
    ),
    reduce=CellSpec(
        nodes=(
            (('max_2x2', 0), ('max_3x3', 0)),
            (('identity', 2), ('3x3', 1)),
            (('1x7_7x1', 2), ('max_3x3', 2)),
            (('identity', 3), ('max_2x2', 1)),
            (('avg_3x3', 2), ('1x1', 3)),
        ),
        concat=(4, 5, 6),
    ),
)


class AuxiliaryHead(nn.Module):
    """A classifier on the last cell before the second reduction, for training only."""

    num_classes: int
    conv: Any
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(x)
        x = avg_pool(x, min(5, *x.shape[1:3]), 3)
        x = nn.relu(self.norm(name='aux_bn0')(self.conv(128, 1, name='proj')(x)))
        x = self.conv(768, x.shape[1:3], padding='VALID', name='Conv')(x)
        x = nn.relu(self.norm(name='aux_bn1')(x))
        return Dense(self.num_classes, dtype=self.dtype, name='FC')(x[:, 0, 0])


class AmoebaNet(nn.Module):
    """A net of AmoebaNet cells."""

    genotype: Genotype
    cells: int  # N, normal cells in each of three stacks
    filters: int  # F, channels in the first stack
    stem_filters: int = 32
    cifar: bool = False  # a plain 3x3 stem, without reduction cells in it
    aux_head: bool = True
    dropout_rate: float = 0.5
    drop_path_rate: float = 0.3  # reached at the end of training (ScheduledDropPath)
    num_classes: int = 1001
    bn_group: int = 0
    bn_momentum: float = 0.9997
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, progress: jax.Array | float = 1.0
    ) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Args:
          images: normalised.
          train: whether batch statistics, dropout, drop path and the auxiliary head are on.
          progress: from 0 at the start of training to 1 at its end.
        """
        kernel_init = init.VarianceScaling(2.0, 'fan_out', 'truncated_normal')
        conv = functools.partial(Conv, padding='SAME', dtype=self.dtype, kernel_init=kernel_init)
        norm = functools.partial(
            BatchNorm,
            train,
            momentum=self.bn_momentum,
            epsilon=1e-3,
            group=self.bn_group,
            dtype=self.dtype,
        )
        cell = functools.partial(Cell, conv=conv, norm=norm)
        normal = functools.partial(cell, self.genotype.normal, strides=1)
        reduction = functools.partial(cell, self.genotype.reduce, strides=2)
        drop_rate = self.drop_path_rate * progress if train and self.drop_path_rate else 0.0

        strides, padding = (1, 'SAME') if self.cifar else (2, 'VALID')
        x = conv(self.stem_filters, 3, strides, padding=padding, name='stem.conv0')(images)
        x = norm(name='stem.conv0_bn')(x)
        outputs = [None, x]

        def append(make, features, name):
            made = make(features=int(features), name=name)
            outputs.append(made(outputs[-1], outputs[-2], drop_rate))

        if not self.cifar:
            append(reduction, self.filters / 4, 'cell_stem_0')
            append(reduction, self.filters / 2, 'cell_stem_1')
        self.sow('intermediates', 'stem', outputs[-1])
        for i in range(3 * self.cells):
            stack = i // self.cells
            features = self.filters * 2**stack
            if stack and i % self.cells == 0:
                append(reduction, features, f'reduction_cell_{stack - 1}')
            append(normal, features, f'cell_{i}')
            if i % self.cells == self.cells - 1:
                self.sow('intermediates', f'stage{stack + 1}', outputs[-1])
            if i == 2 * self.cells - 1 and self.aux_head and (train or self.is_initializing()):
                head = AuxiliaryHead(self.num_classes, conv, norm, self.dtype, name=f'aux_{i}')
                aux_logits = head(outputs[-1]).astype(jnp.float32)
                if train:
                    self.sow('aux_logits', 'aux', aux_logits)

        x = jnp.mean(nn.relu(outputs[-1]), (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = Dense(self.num_classes, dtype=self.dtype, name='final_layer.FC')(x)
        return x.astype(jnp.float32)


# Cell, N, F, input size, parameters, multiply-adds, the paper's top-1 and top-5 in percent.
IMAGENET = {
    'amoebanet_a_n6_f190': (A, 6, 190, 331, 86_721_838, 23_133_666_547, 82.8, 96.1),
    'amoebanet_a_n6_f448': (A, 6, 448, 299, 468_158_353, 103_887_701_136, 83.9, 96.6),
    'amoebanet_a_n4_f50': (A, 4, 50, 224, 5_087_731, 554_688_004, 74.5, 92.0),
    'amoebanet_b_n6_f190': (B, 6, 190, 331, 79_011_717, 20_934_492_927, 82.3, 96.1),
    'amoebanet_b_n3_f62': (B, 3, 62, 224, 5_259_693, 555_061_400, 74.0, 91.5),
    'amoebanet_c_n6_f228': (C, 6, 228, 331, 155_277_228, 41_129_493_435, 83.1, 96.3),
    'amoebanet_c_n4_f50': (C, 4, 50, 224, 6_354_816, 676_937_592, 75.7, 92.4),
    'amoebanet_d_n6_f256': (D, 6, 256, 299, 121_915_113, 26_964_905_312, None, None),
}
for name, (genotype, n, f, size, params, macs, top1, top5) in IMAGENET.items():
    fields = {'genotype': genotype, 'cells': n, 'filters': f}
    register(Variant(name, SYSTEM, AmoebaNet, fields, size, params, macs, top1, top5))

# The same for CIFAR-10; the stem has 3 F channels.
CIFAR = {
    'amoebanet_a_n6_f32_cifar': (A, 6, 32, 2_567_754, 407_671_808, 96.60),
    'amoebanet_a_n6_f36_cifar': (A, 6, 36, 3_218_266, 509_668_992, 96.66),
    'amoebanet_b_n6_f36_cifar': (B, 6, 36, 2_839_186, 454_925_952, 97.45),
    'amoebanet_b_n6_f128_cifar': (B, 6, 128, 34_874_506, 5_580_279_808, 97.87),
}
for name, (genotype, n, f, params, macs, top1) in CIFAR.items():
    fields = {
        'genotype': genotype,
        'cells': n,
        'filters': f,
        'stem_filters': 3 * f,
        'cifar': True,
        'num_classes': 10,
    }
    register(Variant(name, SYSTEM, AmoebaNet, fields, 32, params, macs, top1))
