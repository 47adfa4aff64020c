"""The network of cells of NASNet, PNASNet and AmoebaNet.

A stem of one convolution, on ImageNet followed by two reduction cells; three stacks of cells, each
with twice the channels and half the resolution of the previous one; the mean over all pixels and a
linear classifier; in training, an auxiliary head on the last cell before the second reduction.
After the TensorFlow code of NASNet (slim/nets/nasnet), the base of that of the other two.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.nn import init
from cls.nn.cells import AuxiliaryHead, Cell, CellSpec, Genotype
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm

# From TensorFlow's names, used here, to those of pretrainedmodels and timm.
PRETRAINEDMODELS = (
    (r'^stem\.conv0_bn', 'conv0.bn'),
    (r'^stem\.conv0', 'conv0.conv'),
    (r'^final_layer\.FC', 'last_linear'),
    (r'\.prev_reduction\.path(\d)_conv', r'.path_\1.conv'),
    (r'\.prev_reduction', ''),
    (r'\.prev_1x1', '.conv_prev_1x1.conv'),
    (r'\.prev_bn', '.conv_prev_1x1.bn'),
    (r'(cell_\w+)\.1x1', r'\1.conv_1x1.conv'),
    (r'\.beginning_bn', '.conv_1x1.bn'),
    (r'(comb_iter_\d)\.', r'\1_'),
    (r'\.separable_\dx\d_(\d)\.(\w+)', r'.separable_\1.\2_conv2d'),
    (r'\.bn_sep_\dx\d_', '.bn_sep_'),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A cell of the network; its inputs are the last output and the `back`-th from the end."""

    name: str
    spec: CellSpec
    features: int
    strides: int
    back: int = 2


class CellNet(nn.Module):
    """A network of stacks of normal cells, with a reduction cell before each but the first."""

    genotype: Genotype
    cells: int  # N, normal cells in each stack
    filters: int  # F, channels of a state in the first stack
    stem_filters: int = 32
    stacks: int = 3  # fewer in searches on small images
    cifar: bool = False  # whether the stem is a 3x3 convolution without reduction cells
    aux_head: bool = True
    dropout_rate: float = 0.5
    drop_path_rate: float = 0.3  # reached at the end of training (ScheduledDropPath)
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.9997
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32

    def stem_cells(self) -> list[Step]:
        """Returns the cells between the first convolution and the first stack."""
        if self.cifar:
            return []
        return [
            Step(f'cell_stem_{i}', self.genotype.reduce, int(self.filters / 4 * 2**i), 2)
            for i in range(2)
        ]

    def stack(self, i: int) -> Iterator[Step]:
        """Yields the cells of stack i, from 0."""
        features = self.filters * 2**i
        if i > 0:
            yield Step(f'reduction_cell_{i - 1}', self.genotype.reduce, features, 2)
        for j in range(self.cells):
            yield Step(f'cell_{i * self.cells + j}', self.genotype.normal, features, 1)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, progress: jax.Array | float = 1.0
    ) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Args:
          images: normalized.
          train: whether batch statistics, dropout, drop path and the auxiliary head are on.
          progress: from 0 at the start of training to 1 at its end.
        """
        conv = functools.partial(_conv, padding='SAME', dtype=self.dtype)
        norm = functools.partial(
            BatchNorm,
            train,
            momentum=self.bn_momentum,
            epsilon=self.bn_epsilon,
            group=self.bn_group,
            dtype=self.dtype,
        )
        drop_rate = self.drop_path_rate * progress if train and self.drop_path_rate else 0.0

        strides, padding = (1, 'SAME') if self.cifar else (2, 'VALID')
        x = conv(self.stem_filters, 3, strides, padding=padding, name='stem.conv0')(images)
        outputs: list[Any] = [None, norm(name='stem.conv0_bn')(x)]

        def append(step: Step) -> None:
            cell = Cell(step.spec, step.features, step.strides, conv, norm, name=step.name)
            outputs.append(cell(outputs[-1], outputs[-step.back], drop_rate))

        for step in self.stem_cells():
            append(step)
        self.sow('intermediates', 'stem', outputs[-1])
        for i in range(self.stacks):
            for step in self.stack(i):
                append(step)
            self.sow('intermediates', f'stage{i + 1}', outputs[-1])
            if i == 1 and self.aux_head and (train or self.is_initializing()):
                name = f'aux_{2 * self.cells - 1}'
                head = AuxiliaryHead(self.num_classes, conv, norm, self.dtype, name=name)
                aux_logits = head(outputs[-1]).astype(jnp.float32)
                if train:
                    self.sow('aux_logits', 'aux', aux_logits)

        x = jnp.mean(nn.relu(outputs[-1]), (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = Dense(self.num_classes, dtype=self.dtype, name='final_layer.FC')(x)
        return x.astype(jnp.float32)


def _conv(features: int, *args: Any, groups: int = 1, **fields: Any) -> Conv:
    """Returns a convolution with kernels of variance 2 / fan-out, the fan of one group."""
    dense = init.VarianceScaling(2.0, 'fan_out', 'truncated_normal')
    kernel_init = dense if groups == 1 else init.he_normal
    return Conv(features, *args, groups=groups, kernel_init=kernel_init, **fields)
