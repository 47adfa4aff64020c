"""DARTS: Differentiable Architecture Search (ICLR 2019).

Liu, Simonyan, Yang; https://arxiv.org/abs/1806.09055

What is new: a continuous relaxation of the choice between operations, a softmax over all of them on
every edge of a cell. Gradient descent learns it together with the weights; the two strongest edges
into each node are kept. This file has the resulting networks, not the search.

Agrees with: pytorchcv's darts (ImageNet), the authors' code (quark0/darts) without an auxiliary
head; the CIFAR-10 networks agree with an independent reimplementation of that code. Of L cells each
stage has a third; the second and the third stage begin with a reduction cell. The paper counts 574
million multiply-adds for the ImageNet network; convolutions and the classifier have 530 million of
them. An image whose side is odd at a factorized reduction is padded, where that code refuses it.

The authors' auxiliary head for ImageNet lacks its second norm, by an oversight that they kept; so
does this one. A cell numbers its inputs as cls.nn.cells does, in genotype files too; `published`
reads the numbering of the paper and its code, where 0 is the cell before the previous one.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, Variant, register, register_table
from cls.nn import init
from cls.nn.cells import AuxiliaryHead, Cell, CellSpec, Edge, Genotype
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import batch_norm

SYSTEM = System(
    name='DARTS',
    title='DARTS: Differentiable Architecture Search',
    venue='ICLR 2019',
    arxiv='1806.09055',
    top1=73.3,
    top5=91.3,
    headline='darts_v2',
    params=4.7,
    macs=574,
)


def published(*edges: Edge) -> CellSpec:
    """Returns the cell of a list of edges, two for each node, with the numbering of the paper.

    In it state 0 is the cell before the previous one, and state 1 the previous one. All
    nodes are concatenated.
    """
    swapped = [(op, 1 - source if source < 2 else source) for op, source in edges]
    nodes = tuple(zip(swapped[::2], swapped[1::2], strict=True))
    return CellSpec(nodes, tuple(range(2, 2 + len(nodes))))


# Results of the first-order and the second-order search (genotypes.py; figures 4 and 5).
V1 = Genotype(
    normal=published(
        ('sep_conv_3x3', 1),
        ('sep_conv_3x3', 0),
        ('skip_connect', 0),
        ('sep_conv_3x3', 1),
        ('skip_connect', 0),
        ('sep_conv_3x3', 1),
        ('sep_conv_3x3', 0),
        ('skip_connect', 2),
    ),
    reduce=published(
        ('max_pool_3x3', 0),
        ('max_pool_3x3', 1),
        ('skip_connect', 2),
        ('max_pool_3x3', 0),
        ('max_pool_3x3', 0),
        ('skip_connect', 2),
        ('skip_connect', 2),
        ('avg_pool_3x3', 0),
    ),
)
V2 = Genotype(
    normal=published(
        ('sep_conv_3x3', 0),
        ('sep_conv_3x3', 1),
        ('sep_conv_3x3', 0),
        ('sep_conv_3x3', 1),
        ('sep_conv_3x3', 1),
        ('skip_connect', 0),
        ('skip_connect', 0),
        ('dil_conv_3x3', 2),
    ),
    reduce=published(
        ('max_pool_3x3', 0),
        ('max_pool_3x3', 1),
        ('skip_connect', 2),
        ('max_pool_3x3', 1),
        ('max_pool_3x3', 0),
        ('skip_connect', 2),
        ('skip_connect', 2),
        ('max_pool_3x3', 1),
    ),
)


class DARTS(nn.Module):
    """A network of DARTS cells."""

    genotype: Genotype
    stage_sizes: tuple[int, ...]
    filters: int  # C, channels of a state in the first stage
    # A stem of one convolution at full resolution; otherwise three with stride 2.
    cifar: bool = False
    aux_head: bool = True
    drop_path_rate: float = 0.0  # reached at the end of training
    num_classes: int = 1000
    bn_group: int = 0
    bn_momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, progress: jax.Array | float = 1.0
    ) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits.

        Args:
          images: normalized.
          train: whether to use batch statistics, drop path and the auxiliary head.
          progress: from 0 at the start of training to 1 at its end.
        """
        kernel_init = init.VarianceScaling(1 / 3, 'fan_in', 'uniform')  # PyTorch's default
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=kernel_init)
        norm = batch_norm(self, train, momentum=self.bn_momentum)
        drop_rate = self.drop_path_rate * progress if train and self.drop_path_rate else 0.0

        if self.cifar:
            x = norm(name='stem.bn')(conv(3 * self.filters, 3, name='stem.conv')(images))
            outputs = [x, x]
        else:
            x = conv(self.filters // 2, 3, 2, name='stem0.conv1')(images)
            x = nn.relu(norm(name='stem0.bn1')(x))
            x = conv(self.filters, 3, 2, name='stem0.conv2')(x)
            x = norm(name='stem0.bn2')(x)
            y = conv(self.filters, 3, 2, name='stem1.conv')(nn.relu(x))
            outputs = [x, norm(name='stem1.bn')(y)]
        self.sow('intermediates', 'stem', outputs[-1])

        for stage, size in enumerate(self.stage_sizes):
            for i in range(size):
                reduces = stage > 0 and i == 0
                cell = Cell(
                    self.genotype.reduce if reduces else self.genotype.normal,
                    self.filters * 2**stage,
                    2 if reduces else 1,
                    conv,
                    norm,
                    always_project=True,
                    name=f'cells.{sum(self.stage_sizes[:stage]) + i}',
                )
                outputs = [outputs[-1], cell(outputs[-1], outputs[-2], drop_rate)]
                last_reduction = reduces and stage == len(self.stage_sizes) - 1
                if last_reduction and self.aux_head and (train or self.is_initializing()):
                    logits = self._auxiliary(conv, norm)(outputs[-1]).astype(jnp.float32)
                    if train:
                        self.sow('aux_logits', 'aux', logits)
            self.sow('intermediates', f'stage{stage + 1}', outputs[-1])

        x = jnp.mean(outputs[-1], (1, 2))
        self.sow('intermediates', 'pre_logits', x)
        x = Dense(self.num_classes, dtype=self.dtype, name='classifier')(x)
        return x.astype(jnp.float32)

    def _auxiliary(self, conv, norm):
        """Returns the auxiliary head, whose pooling maps CIFAR's 8x8 and ImageNet's 7x7 to 2x2."""
        return AuxiliaryHead(
            self.num_classes,
            conv,
            norm,
            self.dtype,
            pool_strides=3 if self.cifar else 2,
            last_norm=self.cifar,
            name='auxiliary_head',
        )


def _unit(match) -> str:
    """Returns pytorchcv's name of cell 0 to 13, by stages of 4, 5 and 5."""
    cell = int(match[1])
    stage, first = max((s, f) for s, f in enumerate((0, 4, 9), 1) if cell >= f)
    return f'features.stage{stage}.unit{cell - first + 1}.'


def _operation(match) -> str:
    return f'body.ops.{2 * int(match[1]) + (match[2] == "right")}.'


RENAMES = (
    (r'^stem0\.(conv|bn)(\d)', r'features.stem1_unit.conv\2.\1'),
    (r'^stem1\.', 'features.stem2_unit.'),
    (r'^classifier', 'output'),
    (r'^cells\.(\d+)\.', _unit),
    (r'comb_iter_(\d)\.(left|right)\.', _operation),
    (r'\.separable_3x3_(\d)\.', r'.conv\1.conv.'),
    (r'\.bn_sep_3x3_(\d)\.', r'.conv\1.bn.'),
    (r'\.dilated_3x3\.', '.conv.'),
    (r'\.bn_dil_3x3\.', '.bn.'),
    (r'\.depthwise\.', '.dw_conv.'),
    (r'\.pointwise\.', '.pw_conv.'),
    (r'(ops\.\d)\.reduction', r'\1'),
    (r'prev_reduction', 'preprocess_prev'),
    (r'path(\d)_conv', r'conv\1'),
    (r'final_path_bn', 'bn'),
    (r'prev_1x1', 'preprocess_prev.conv'),
    (r'prev_bn', 'preprocess_prev.bn'),
    (r'\.1x1', '.preprocess.conv'),
    (r'beginning_bn', 'preprocess.bn'),
)

register(
    Variant(
        'darts_v2',  # C = 48, L = 14
        SYSTEM,
        DARTS,
        {'genotype': V2, 'stage_sizes': (4, 5, 5), 'filters': 48},
        input_size=224,
        params=4_718_752,
        macs=529_911_552,
        top1=73.3,
        top5=91.3,
        reference='pytorchcv:darts',
        renames=RENAMES,
    )
)

# C = 36, L = 20; top-1 is the paper's, with cutout.
CIFAR = {
    'darts_v2_cifar': (V2, 3_349_342, 528_359_040, 97.24),
    'darts_v1_cifar': (V1, 3_169_414, 500_987_520, 97.00),
}
register_table(
    CIFAR,
    'genotype params macs top1',
    system=SYSTEM,
    module=DARTS,
    fields={
        'stage_sizes': (6, 7, 7),
        'filters': 36,
        'cifar': True,
        'drop_path_rate': 0.2,
        'num_classes': 10,
    },
    input_size=32,
)
