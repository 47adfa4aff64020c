"""IGCV3: Interleaved Low-Rank Group Convolutions for Efficient DNNs (Sun et al.; BMVC 2018).

https://arxiv.org/abs/1806.00178

What is new: the grouped 1x1 convolutions of an interleaved product also change the width, as in a
bottleneck. A block is MobileNetV2's, its two 1x1 convolutions in two groups with a permutation in
between and no rectifier after the first; for the same cost the network has twice the blocks ('-D').

Agrees with: pytorchcv's igcv3_w1, w3d4, wd2, wd4, and its get_igcv3(0.7) and (1.4), with timm's
parameter names for MobileNetV2 (cls/nn/inverted.py). The graph of width 1.0 that the authors
published with its weights (github.com/homles11/IGCV3, models/) is igcv3_w1. Their published code
also permutes the output of each block; that graph does not, nor do these networks.

Two rules make narrower and wider networks. pytorchcv truncates widths to even numbers. The authors'
code rounds them, and its variants are igcv3_0_7 and igcv3_1_4: the first block of each run expands
its input times the multiplier once more, or where this is odd the input plus 1. Of the paper's
costs (0.7: 2.8 M parameters, 210 M multiply-adds; 1.4: 7.2 M, 610 M) both rules meet only the
multiply-adds of 1.4, to 2 % by the authors' and to 5 % by pytorchcv's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls.models.registry import System, register_table
from cls.nn import init, inverted
from cls.nn.conv import Conv
from cls.nn.inverted import InvertedResidual, Run
from cls.nn.norm import batch_norm

SYSTEM = System(
    name='IGCV3',
    title='IGCV3: Interleaved Low-Rank Group Convolutions for Efficient Deep Neural Networks',
    venue='BMVC 2018',
    arxiv='1806.00178',
    top1=72.2,
    top5=90.5,
    headline='igcv3_w1',
    params=3.5,
    macs=318,
)


class IGCV3(nn.Module):
    """Seven runs of blocks; a run with stride 2 halves the resolution and begins a stage."""

    stem_features: int
    widths: Sequence[int]  # of each run
    head_features: int = 1280
    expanded: Sequence[int] = ()  # channels to expand, for each run but the first; (): its input
    stage_sizes: Sequence[int] = (1, 4, 6, 8, 6, 6, 1)  # blocks in each run
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    stem_strides: int = 2
    num_classes: int = 1000
    dropout_rate: float = 0.0
    bn_group: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps (N, H, W, C) images to (N, num_classes) float32 logits."""
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=init.he_normal)
        norm = batch_norm(self, train)
        block = functools.partial(InvertedResidual, conv=conv, norm=norm, groups=2)
        x = inverted.stem(self, images, self.stem_features, conv, norm, 'relu6')
        x = inverted.stages(self, x, self.runs(), block, 'relu6')
        return inverted.head(self, x, self.head_features, conv, norm, 'relu6', train)

    def runs(self) -> list[list[Run]]:
        """Returns the runs of each stage; a first block with its own expansion is a run of one."""
        inputs = (self.stem_features, *self.widths[:-1])
        expanded = inputs[:1] + tuple(self.expanded or inputs[1:])
        stages: list[list[Run]] = []
        for i, (size, width, strides) in enumerate(
            zip(self.stage_sizes, self.widths, self.strides, strict=True)
        ):
            ratio = 6 * expanded[i] / inputs[i] if i > 0 else 1
            runs = [Run(1, 3, strides, ratio, width), Run(size - 1, 3, 1, 6, width)]
            if strides > 1 or not stages:
                stages.append([])
            stages[-1] += runs
        return stages


PYTORCHCV = (
    *((rf'^blocks\.{s}\.', f'features.stage{s + 1}.') for s in range(5)),
    *((rf'^(features\.stage\d)\.{i}\.', rf'\1.unit{i + 1}.') for i in range(14)),
    *inverted.PYTORCHCV,
)
# Top-1 and top-5 of width 1.0 are from the authors' README, after a second training from its own
# weights (70.6 and 89.7 before).
PACKAGE = {
    'igcv3_w1': (32, (16, 24, 32, 64, 96, 160, 320), 1280, 3_491_688, 312_970_176, 72.2, 90.5),
    'igcv3_w3d4': (24, (12, 18, 24, 48, 72, 120, 240), 1280, 2_638_084, 189_889_232, None, None),
    'igcv3_wd2': (16, (8, 12, 16, 32, 48, 80, 160), 1280, 1_985_528, 96_913_888, None, None),
    'igcv3_wd4': (8, (4, 6, 8, 16, 24, 40, 80), 1280, 1_534_020, 34_044_144, None, None),
    'igcv3_w0_7': (22, (12, 16, 22, 44, 68, 112, 224), 1280, 2_490_294, 166_803_176, None, None),
    'igcv3_w1_4': (44, (22, 34, 44, 90, 134, 224, 448), 1792, 6_015_164, 582_341_060, None, None),
}
CONSTRUCTORS = {'igcv3_w0_7': 'get_igcv3(0.7)', 'igcv3_w1_4': 'get_igcv3(1.4)'}
# The authors' rule; top-1 is the paper's for the multiplier.
AUTHORS = {
    'igcv3_0_7': (
        22,
        (12, 18, 22, 46, 68, 112, 224),
        1280,
        (8, 19, 23, 32, 48, 78),
        2_447_130,
        167_728_100,
        68.5,
    ),
    'igcv3_1_4': (
        46,
        (22, 34, 46, 90, 134, 224, 448),
        1793,
        (23, 48, 64, 126, 188, 314),
        6_315_568,
        621_459_740,
        74.5,
    ),
}
register_table(
    PACKAGE,
    'stem_features widths head_features params macs top1 top5',
    system=SYSTEM,
    module=IGCV3,
    input_size=224,
    reference=lambda name: f'pytorchcv:{CONSTRUCTORS.get(name, name)}',
    renames=PYTORCHCV,
)
register_table(
    AUTHORS,
    'stem_features widths head_features expanded params macs top1',
    system=SYSTEM,
    module=IGCV3,
    input_size=224,
)
