"""The names of networks of cells in TensorFlow's and Keras's files, in torch's form.

The code of NASNet, PNASNet (TF-Slim) and AmoebaNet (TPU models) has the names of the modules here,
in other scopes; Keras numbers the parts of a cell.
"""

import re
from typing import Any

from cls.models.registry import Variant
from cls.nn.cells import CellSpec
from cls.weights.families import Renames, Tensors

_CELL = r'^((?:reduction_)?cell_(?:stem_)?\d+)'
TENSORFLOW: Renames = (
    (r'^(?:conv0|l1_stem_3x3)\.', 'stem.conv0.'),
    (r'^(?:conv0|l1_stem)_bn\.', 'stem.conv0_bn.'),
    (rf'{_CELL}\.(path\d_conv|final_path_bn)\.', r'\1.prev_reduction.\2.'),
    (rf'{_CELL}\.cell_output\.', r'\1.'),
    (r'^(aux_\d+)\.aux_logits\.', r'\1.'),
    (r'\.(separable_\dx\d_\d)\.weight$', r'.\1.depthwise.weight'),
)


def tensorflow(variant: Variant) -> Renames:
    """Returns renames of the code of TF-Slim and the TPU models."""
    return (*TENSORFLOW, *variant.renames)


def without_aux(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors without AmoebaNet's auxiliary head, which has other channels here."""
    del variant
    return {name: value for name, value in tensors.items() if not name.startswith('aux_')}


def keras_nasnet(variant: Variant) -> Renames:
    """Returns renames of Keras's NASNet: parts of cells with the cell at the end of the name."""
    count, genotype = variant.fields['cells'], variant.fields['genotype']
    # The cells whose second input has twice the height and width.
    reducing = {'cell_stem_1', *(f'cell_{i * count}' for i in range(3))}

    def cell(name: str) -> str:
        kind, _, number = name.rpartition('_')
        if kind == 'stem':
            return f'cell_stem_{int(number) - 1}'
        if kind == 'reduce':
            return f'reduction_cell_{int(number) // count - 1}'
        return f'cell_{int(number) - int(int(number) > count)}'  # no cell has the number `count`

    def own(match: re.Match) -> str:
        place = cell(match['cell'])
        part = match['part'] or match['bn']
        return f'{place}.{"1x1" if part == "conv" else "beginning_bn"}.'

    def adjusted(match: re.Match) -> str:
        place = cell(match['cell'])
        if match['part'] == 'conv_projection':
            return f'{place}.prev_1x1.'
        if match['part'] == 'bn':
            return f'{place}.{"prev_reduction.final_path_bn" if place in reducing else "prev_bn"}.'
        return f'{place}.prev_reduction.path{match["part"][-1]}_conv.'

    def separable(match: re.Match) -> str:
        node, side, i = int(match['node']) - 1, match['side'], match['i']
        reduction = match['kind'] == 'reduction'
        spec: CellSpec = genotype.reduce if reduction else genotype.normal
        if reduction and (node, side) == (3, 'left'):
            node = 4  # the name of the fourth node, for the convolution of the fifth
        window = spec.nodes[node][side == 'right'][0].rpartition('_')[2]
        name = f'bn_sep_{window}_{i}' if match['bn'] else f'separable_{window}_{i}'
        return f'{cell(match["cell"])}.comb_iter_{node}.{side}.{name}.'

    at: Any = r'_(?P<cell>(?:stem_|reduce_)?\d+)\.'
    return (
        (r'^(?:\w+\.)+(?=(?:normal|reduction|adjust|separable|stem)_)', ''),  # scopes
        (r'^stem_conv1\.', 'stem.conv0.'),
        (r'^stem_bn1\.', 'stem.conv0_bn.'),
        (r'^predictions\.', 'final_layer.FC.'),
        (rf'^(?:normal|reduction)_(?:(?P<part>conv)|(?P<bn>bn))_1{at}', own),
        (rf'^adjust_(?P<part>conv_projection|conv_[12]|bn){at}', adjusted),
        (
            rf'^separable_conv_(?P<i>[12])_(?P<bn>bn_)?(?P<kind>normal|reduction)_'
            rf'(?P<side>left|right)(?P<node>\d){at}',
            separable,
        ),
        (r'\.(separable_\dx\d_\d)\.weight$', r'.\1.depthwise.weight'),
        *variant.renames,
    )
