"""NASNet: Learning Transferable Architectures for Scalable Image Recognition (CVPR 2018).

Zoph, Vasudevan, Shlens, Le; https://arxiv.org/abs/1707.07012

What is new: the search, on CIFAR-10, is for two cells instead of a network, and networks for any
task are stacks of these cells; ScheduledDropPath. N @ D is a network of N normal cells in each of
three stacks, with D channels in the last cell: 24 times F, the channels of a state in the first
stack.

Agrees with: the authors' TensorFlow code (nasnet in TF-Slim), in the form of pretrainedmodels, for
images whose sides are odd and even at the same strides as those of 331 or 224 pixels. timm has the
same layers with the same names, but its strided average pools include the zeros around an image
(nasnet_a_large_zeros). Keras's maxima do so too (zero_pools). In the large network the cell after
a reduction cell has the input of the reduction cell as its second input, in the other networks the
output of the cell before the reduction. pretrainedmodels pads strided layers by an extra row and
column and crops their outputs, and so has larger multiply-adds (mobile: 568 M; the paper has 564
M) for the same network.

The CIFAR networks are from that code too, tested against an independent reimplementation: 6 @ 768
meets the paper's 3.3 M parameters, 7 @ 2304 has 32.6 M for its 27.6 M. Not included: NASNet-B and
-C, as only drawings of their cells exist; the ImageNet networks 5 @ 1538 and 7 @ 1920, as that code
has no settings for them and the graph of the large network does not meet their counts.
"""

import dataclasses
from typing import Any

from cls.models.registry import System, Variant, register, register_table
from cls.nn.cellnet import PRETRAINEDMODELS, CellNet, Step
from cls.nn.cells import CellSpec, Edge, Genotype

SYSTEM = System(
    name='NASNet-A',
    title='Learning Transferable Architectures for Scalable Image Recognition',
    venue='CVPR 2018',
    arxiv='1707.07012',
    top1=82.7,
    top5=96.2,
    headline='nasnet_a_large',
    params=88.9,
    macs=23_800,
)

# Figure 4.
A = Genotype(
    normal=CellSpec(
        nodes=(
            (('sep_5x5', 0), ('sep_3x3', 1)),
            (('sep_5x5', 1), ('sep_3x3', 1)),
            (('avg_3x3', 0), ('identity', 1)),
            (('avg_3x3', 1), ('avg_3x3', 1)),
            (('sep_3x3', 0), ('identity', 0)),
        ),
        concat=(1, 2, 3, 4, 5, 6),
    ),
    reduce=CellSpec(
        nodes=(
            (('sep_5x5', 0), ('sep_7x7', 1)),
            (('max_3x3', 0), ('sep_7x7', 1)),
            (('avg_3x3', 0), ('sep_5x5', 1)),
            (('identity', 3), ('avg_3x3', 2)),
            (('sep_3x3', 2), ('max_3x3', 0)),
        ),
        concat=(3, 4, 5, 6),
    ),
)


class NASNet(CellNet):
    """A network of NASNet cells."""

    skip_reduction: bool = False  # second inputs bypass the reduction cells
    zero_pools: bool = False  # strided pools include the zeros around an image, as in Keras

    def stem_cells(self) -> list[Step]:
        """Returns the cells between the first convolution and the first stack."""
        return [self._with_zeros(step) for step in super().stem_cells()]

    def stack(self, i: int) -> list[Step]:
        """Returns the steps of stack `i`, from 0."""
        steps = [self._with_zeros(step) for step in super().stack(i)]
        if i > 0 and self.skip_reduction:
            steps[1] = dataclasses.replace(steps[1], back=3)
        return steps

    def _with_zeros(self, step: Step) -> Step:
        """Returns a step, with pools of zeros where it has a stride if they are asked for."""
        if not self.zero_pools or step.strides == 1:
            return step
        nodes = tuple((_with_zeros(a), _with_zeros(b)) for a, b in step.spec.nodes)
        return dataclasses.replace(step, spec=CellSpec(nodes, step.spec.concat))


def _with_zeros(edge: Edge) -> Edge:
    op, source = edge
    pool = source < 2 and op in ('avg_3x3', 'max_3x3')  # only these have the stride
    return (f'{op}_zeros', source) if pool else edge


# pretrainedmodels numbers the mobile network's cells like the large one's, six in a stack.
MOBILE = (
    *PRETRAINEDMODELS,
    (r'^cell_(\d+)', lambda match: f'cell_{int(match[1]) + int(match[1]) // 4 * 2}'),
)

register(
    Variant(
        'nasnet_a_mobile',  # 4 @ 1056
        SYSTEM,
        NASNet,
        {'genotype': A, 'cells': 4, 'filters': 44, 'drop_path_rate': 0.0},
        input_size=224,
        params=5_289_978,
        macs=563_638_816,
        top1=74.0,
        top5=91.6,
        reference='pretrainedmodels:nasnetamobile',
        renames=MOBILE,
    )
)
LARGE = {'genotype': A, 'cells': 6, 'filters': 168, 'stem_filters': 96, 'skip_reduction': True}
# timm's form: the strided average pools of its reduction cells count the zeros around an image.
(_first, _second, _third, *_last) = A.reduce.nodes
_zeros = (('avg_3x3_zeros', 0), _third[1])
A_ZEROS = dataclasses.replace(
    A, reduce=CellSpec((_first, _second, _zeros, *_last), A.reduce.concat)
)
register(
    Variant(
        'nasnet_a_large_zeros',
        SYSTEM,
        NASNet,
        {**LARGE, 'genotype': A_ZEROS},
        input_size=331,
        params=88_753_150,
        macs=23_783_414_658,
        reference='timm:nasnetalarge',
        renames=PRETRAINEDMODELS,
    )
)
register(
    Variant(
        'nasnet_a_large',  # 6 @ 4032
        SYSTEM,
        NASNet,
        LARGE,
        input_size=331,
        params=88_753_150,
        macs=23_783_414_658,
        top1=82.7,
        top5=96.2,
        reference='pretrainedmodels:nasnetalarge',
        renames=PRETRAINEDMODELS,
    )
)

# `cells` is the paper's N, `filters` its F; top-1 is the paper's, with cutout.
CIFAR = {
    'nasnet_a_6_768_cifar': (6, 32, 3_346_538, 544_333_312, 97.35),
    'nasnet_a_7_2304_cifar': (7, 96, 32_590_954, 5_151_250_944, 97.60),
}


def _cifar(cells: int, filters: int) -> dict[str, Any]:
    """Returns the fields of a CIFAR network; its stem has 3 F channels."""
    return {
        'genotype': A,
        'cells': cells,
        'filters': filters,
        'stem_filters': 3 * filters,
        'cifar': True,
        'dropout_rate': 0.0,
        'drop_path_rate': 0.4,
        'num_classes': 10,
        'bn_momentum': 0.9,
        'bn_epsilon': 1e-5,
    }


register_table(
    CIFAR,
    'cells filters params macs top1',
    system=SYSTEM,
    module=NASNet,
    fields=_cifar,
    input_size=32,
)
