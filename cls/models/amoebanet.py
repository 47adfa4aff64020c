"""AmoebaNet: Regularized Evolution for Image Classifier Architecture Search (AAAI 2019).

Real, Aggarwal, Huang, Le; https://arxiv.org/abs/1802.01548

What is new: cells found by an evolutionary search that discards the oldest individual instead of
the worst. A network is a stem, three stacks of N normal cells with a reduction cell before the
second and the third, and a linear classifier; F is the number of channels in the first stack.

Agrees with: the AmoebaNet code of the TensorFlow TPU models (model_specs.py has the four cells,
network_utils.py the operations). That code no longer runs, so logits are tested against an
independent reimplementation of it (tests/golden/restated/amoebanet.py). Parameters and
multiply-adds are tested against counts derived from that code; they equal the paper's for cell A
at (6, 190), (6, 448) and (4, 50), for B at (3, 62) and for C at (6, 228). The ImageNet networks
have 1,001 classes, as in that code: class 0 is the background.

Departs from that code: a factorized reduction splits an odd number of channels unevenly instead of
refusing it; the CIFAR stem pads, as NASNet's does (in that code 32 pixels become 30); the auxiliary
head has NASNet's 128 and 768 channels, where that code multiplies both by 0.4, the paper's weight
of the auxiliary loss. Departs from the paper, with that code: an operation of cell B's reduction
that is named a dilated separable convolution is an ordinary separable one.
"""

from typing import Any

from cls.models.registry import System, register_table
from cls.nn.cellnet import CellNet
from cls.nn.cells import CellSpec, Genotype

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

# The four cells (model_specs.py).
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


class AmoebaNet(CellNet):
    """A network of AmoebaNet cells."""

    num_classes: int = 1001


# `cells` is the paper's N, `filters` its F; top-1 and top-5 are the paper's.
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
register_table(
    IMAGENET,
    'genotype cells filters input_size params macs top1 top5',
    system=SYSTEM,
    module=AmoebaNet,
)


def _cifar(filters: int, **fields: Any) -> dict[str, Any]:
    """Returns the fields of a CIFAR network; its stem has 3 F channels."""
    fields |= {'cifar': True, 'num_classes': 10}
    return {'filters': filters, 'stem_filters': 3 * filters, **fields}


# Top-1 on CIFAR-10.
CIFAR = {
    'amoebanet_a_n6_f32_cifar': (A, 6, 32, 2_567_754, 407_671_808, 96.60),
    'amoebanet_a_n6_f36_cifar': (A, 6, 36, 3_218_266, 509_668_992, 96.66),
    'amoebanet_b_n6_f36_cifar': (B, 6, 36, 2_839_186, 454_925_952, 97.45),
    'amoebanet_b_n6_f128_cifar': (B, 6, 128, 34_874_506, 5_580_279_808, 97.87),
}
register_table(
    CIFAR,
    'genotype cells filters params macs top1',
    system=SYSTEM,
    module=AmoebaNet,
    fields=_cifar,
    input_size=32,
)
