"""PNASNet-5: Progressive Neural Architecture Search (ECCV 2018).

Liu, Zoph, Neumann, Shlens, Hua, Li, Fei-Fei, Yuille, Huang, Murphy;
https://arxiv.org/abs/1712.00559

What is new: the search proceeds from simple to complex cells, guided by a model that predicts the
accuracy of a cell. There is only one kind of cell; with stride 2 it is a reduction cell.

Agrees with: timm's pnasnet5large (the authors' TensorFlow code, pnasnet.py in TF-Slim). The other
networks are tested against an independent reimplementation; their counts are the paper's. The first
of the N cells in the second and third stack has stride 2; there are no additional reduction cells.
A factorized reduction splits an odd number of channels, as in the mobile network's stem, unevenly.
"""

from collections.abc import Iterator

from cls.models.registry import System, Variant, register
from cls.nn.cellnet import PRETRAINEDMODELS, CellNet, Step
from cls.nn.cells import CellSpec

SYSTEM = System(
    name='PNASNet-5',
    title='Progressive Neural Architecture Search',
    venue='ECCV 2018',
    arxiv='1712.00559',
    top1=82.9,
    top5=96.2,
    headline='pnasnet5_large',
    params=86.1,
    macs=25_000,
)

# Figure 1 (left).
CELL = CellSpec(
    nodes=(
        (('sep_5x5', 1), ('max_3x3', 1)),
        (('sep_7x7', 0), ('max_3x3', 0)),
        (('sep_5x5', 0), ('sep_3x3', 0)),
        (('sep_3x3', 4), ('max_3x3', 0)),
        (('sep_3x3', 1), ('identity', 0)),
    ),
    concat=(2, 3, 4, 5, 6),
)


class PNASNet(CellNet):
    """A network of one kind of cell, N in each of three stacks."""

    genotype: CellSpec

    def stem_cells(self) -> list[Step]:
        """Returns the two cells with stride 2 of the ImageNet stem; none for CIFAR."""
        widths = () if self.cifar else (self.filters // 4, self.filters // 2)
        return [Step(f'cell_stem_{i}', self.genotype, f, 2) for i, f in enumerate(widths)]

    def stack(self, i: int) -> Iterator[Step]:
        """Yields the steps of stack `i`, from 0."""
        for j in range(self.cells):
            strides = 2 if i > 0 and j == 0 else 1
            yield Step(f'cell_{i * self.cells + j}', self.genotype, self.filters * 2**i, strides)


RENAMES = (
    (r'^stem\.conv0_bn', 'conv_0.bn'),
    (r'^stem\.conv0', 'conv_0.conv'),
    (r'\.prev_reduction\.path(\d)_conv', r'.conv_prev_1x1.path_\1.conv'),
    (r'\.prev_reduction', '.conv_prev_1x1'),
    (r'(left|right)\.1x1', r'\1.conv'),
    (r'(left|right)\.bn_1', r'\1.bn'),
    *PRETRAINEDMODELS,
)

register(
    Variant(
        'pnasnet5_large',
        SYSTEM,
        PNASNet,
        {
            'genotype': CELL,
            'cells': 4,
            'filters': 216,
            'stem_filters': 96,
            'drop_path_rate': 0.4,
        },
        input_size=331,
        params=86_057_668,
        macs=24_937_395_792,
        top1=82.9,
        top5=96.2,
        reference='timm:pnasnet5large',
        renames=RENAMES,
    )
)
register(
    Variant(
        'pnasnet5_mobile',
        SYSTEM,
        PNASNet,
        {'genotype': CELL, 'cells': 3, 'filters': 54, 'drop_path_rate': 0.0},
        input_size=224,
        params=5_064_487,
        macs=587_293_200,
        top1=74.2,
        top5=91.9,
    )
)
register(
    Variant(
        'pnasnet5_cifar',
        SYSTEM,
        PNASNet,
        {
            'genotype': CELL,
            'cells': 3,
            'filters': 48,
            'stem_filters': 144,
            'cifar': True,
            'num_classes': 10,
            'dropout_rate': 0.0,
            'drop_path_rate': 0.4,
            'bn_momentum': 0.9,
            'bn_epsilon': 1e-5,
        },
        input_size=32,
        params=3_189_082,
        macs=574_891_392,
        top1=96.59,
    )
)
