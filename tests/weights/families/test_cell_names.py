"""Networks of cells in the files of TF-Slim, the TPU models and Keras.

The names and shapes of TensorFlow's variables are made here as the code of slim (nets/nasnet) and
of the TPU models (amoeba_net) makes them, from its lists of operations.
"""

import dataclasses

import numpy as np
import pytest

from cls import models, weights
from cls.weights.families import cell_names
from cls.weights.keras import to_torch
from cls.weights.naming import renamed


@dataclasses.dataclass(frozen=True)
class Spec:
    """A cell, as in the code: two operations for each node, and the states that nodes use."""

    operations: str
    indices: tuple[int, ...]
    used: tuple[int, ...]


NORMAL = Spec(
    'sep5 sep3 sep5 sep3 avg none avg avg sep3 none',
    (0, 1, 1, 1, 0, 1, 1, 1, 0, 0),
    (1, 0, 0, 0, 0, 0, 0),
)
REDUCTION = Spec(
    'sep5 sep7 max sep7 avg sep5 none avg sep3 max',
    (0, 1, 0, 1, 0, 1, 3, 2, 2, 0),
    (1, 1, 1, 0, 0, 0, 0),
)
PNASNET = Spec(
    'sep5 max sep7 max sep5 sep3 sep3 max sep3 none',
    (1, 1, 0, 0, 0, 0, 4, 0, 1, 0),
    (1, 1, 0, 0, 0, 0, 0),
)
# AmoebaNet-D, whose cells have convolutions in bottlenecks.
NORMAL_D = Spec(
    '1x1 max none 1x7_7x1 1x1 1x7_7x1 max none avg 1x1',
    (1, 1, 1, 0, 0, 0, 2, 2, 1, 5),
    (0, 1, 1, 0, 0, 1, 0),
)
REDUCTION_D = Spec(
    'max max none 3x3 1x7_7x1 max none max avg 1x1',
    (0, 0, 2, 1, 2, 2, 3, 1, 2, 3),
    (1, 1, 1, 1, 0, 0, 0),
)


class Variables(dict):
    """Name -> array of the variables that layers make, in the axes of TensorFlow."""

    def conv(self, name, inputs, outputs, window=(1, 1)):
        self[f'{name}/weights'] = (*window, inputs, outputs)

    def norm(self, name, channels):
        for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
            self[f'{name}/{leaf}'] = (channels,)

    def factorized(self, name, inputs, outputs, stride):
        if stride == 1:
            self.conv(f'{name}/path_conv', inputs, outputs)
            return self.norm(f'{name}/path_bn', outputs)
        half = outputs // 2
        self.conv(f'{name}/path1_conv', inputs, half)
        self.conv(f'{name}/path2_conv', inputs, outputs - half)
        return self.norm(f'{name}/final_path_bn', outputs)

    def operation(self, name, op, inputs, filters, stride):
        """Adds the variables of an operation."""
        if op.startswith('sep'):
            window = int(op[3])
            for i, channels in ((1, inputs), (2, filters)):
                layer = f'{name}/separable_{window}x{window}_{i}'
                self[f'{layer}/depthwise_weights'] = (window, window, channels, 1)
                self[f'{layer}/pointwise_weights'] = (1, 1, channels, filters)
                self.norm(f'{name}/bn_sep_{window}x{window}_{i}', filters)
        elif op in ('3x3', '1x7_7x1'):
            inner = filters // 4
            self.conv(f'{name}/pre_1x1', inputs, inner)
            self.norm(f'{name}/pre_bn', inner)
            if op == '3x3':
                self.conv(f'{name}/3x3', inner, inner, (3, 3))
            else:
                self.conv(f'{name}/1x7', inner, inner, (1, 7))
                self.norm(f'{name}/bn_1x7_7x1', inner)
                self.conv(f'{name}/7x1', inner, inner, (7, 1))
            self.norm(f'{name}/bn', inner)
            self.conv(f'{name}/post_1x1', inner, filters)
            self.norm(f'{name}/post_bn', filters)
        else:
            pool = op in ('avg', 'max')
            if op == '1x1' or inputs != filters or (op == 'none' and stride > 1):
                self.conv(f'{name}/1x1', inputs, filters)
                self.norm(f'{name}/bn_1', filters)
            assert pool or op in ('1x1', 'none')

    def cell(self, name, spec, now, before, filters, stride):
        """Adds the variables of a cell; returns (channels, level) of its output.

        `now` and `before` are (channels, level) of its inputs; a level has half the height and
        width of the level before.
        """
        states = [(filters, now[1]), before or now]
        if before and before[1] != now[1]:
            self.factorized(name, before[0], filters, 2)
            states[1] = filters, now[1]
        elif before and before[0] != filters:
            self.conv(f'{name}/prev_1x1', before[0], filters)
            self.norm(f'{name}/prev_bn', filters)
            states[1] = filters, now[1]
        self.conv(f'{name}/1x1', now[0], filters)
        self.norm(f'{name}/beginning_bn', filters)
        operations = spec.operations.split()
        for node in range(5):
            for side, k in (('left', 2 * node), ('right', 2 * node + 1)):
                source = spec.indices[k]
                strides = stride if source < 2 else 1
                place = f'{name}/comb_iter_{node}/{side}'
                self.operation(place, operations[k], states[source][0], filters, strides)
            states.append((filters, now[1] + (stride > 1)))
        last, total = states[-1], 0
        for i, (channels, level) in enumerate(states):
            if spec.used[i]:
                continue
            if (channels, level) != last:
                reduction = f'{name}/cell_output/reduction_{i}'
                self.factorized(reduction, channels, filters, 2 if level != last[1] else 1)
            total += filters
        return total, last[1]


def network(normal, reduction, cells, filters, stem, *, skip=False, scope='', same=False):
    """Returns name -> shape of a network with `cells` cells in each of three stacks."""
    v = Variables()
    v.conv(f'{scope}conv0', 3, stem, (3, 3))
    v.norm(f'{scope}conv0_bn', stem)
    outputs = [None, (stem, 0)]
    for i in range(2):
        shape = (int(filters / 4 * 2**i), 2)
        outputs.append(v.cell(f'cell_stem_{i}', reduction, outputs[-1], outputs[-2], *shape))
    for number in range(3 * cells):
        width, first = filters * 2 ** (number // cells), number in (cells, 2 * cells)
        before = outputs[-2]
        if first and not same:
            name = f'reduction_cell_{number // cells - 1}'
            outputs.append(v.cell(name, reduction, outputs[-1], before, width, 2))
            before = before if skip else outputs[-2]
        shape = (width, 2 if first and same else 1)
        outputs.append(v.cell(f'cell_{number}', normal, outputs[-1], before, *shape))
    v['final_layer/FC/weights'] = (outputs[-1][0], 1001)
    v['final_layer/FC/biases'] = (1001,)
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in v.items()}


NASNET = (NORMAL, REDUCTION)
CASES = {
    'nasnet_a_mobile': ('tf-slim', network(*NASNET, 4, 44, 32)),
    'nasnet_a_large': ('tf-slim', network(*NASNET, 6, 168, 96, skip=True)),
    'pnasnet5_mobile': ('tf-slim', network(PNASNET, PNASNET, 3, 54, 32, same=True)),
    'pnasnet5_large': ('tf-slim', network(PNASNET, PNASNET, 4, 216, 96, same=True)),
    'amoebanet_d_n6_f256': ('tpu', network(NORMAL_D, REDUCTION_D, 6, 256, 32, scope='stem/')),
}


@pytest.mark.parametrize('name', CASES)
def test_a_network_of_tensorflow_is_recognized(name):
    family, variables = CASES[name]
    tensors = to_torch(variables)
    match = weights.identify(tensors)
    assert (match.variant, match.family, match.num_classes) == (name, family, 1001)
    assert not match.part and not match.left_out


def test_auxiliary_heads():
    """Those of NASNet are here; AmoebaNet's have 51 and 307 channels, and are left out."""
    head = Variables()
    head.conv('aux_7/aux_logits/proj', 528, 128)
    head.norm('aux_7/aux_logits/aux_bn0', 128)
    head.conv('aux_7/aux_logits/Conv', 128, 768, (4, 4))
    head.norm('aux_7/aux_logits/aux_bn1', 768)
    head['aux_7/aux_logits/FC/weights'], head['aux_7/aux_logits/FC/biases'] = (768, 1001), (1001,)
    more = {name: np.broadcast_to(np.float32(1), shape) for name, shape in head.items()}
    match = weights.identify(to_torch(CASES['nasnet_a_mobile'][1] | more))
    assert match.variant == 'nasnet_a_mobile' and 'aux_head' not in match.fields
    other = {'aux_11/aux_logits/proj/weights': np.zeros((1, 1, 8, 51), np.float32)}
    match = weights.identify(to_torch(CASES['amoebanet_d_n6_f256'][1] | other))
    assert match.fields == {'aux_head': False}


def test_parts_of_cells_have_their_places():
    variant = models.variant('nasnet_a_mobile')
    pairs = cell_names.tensorflow(variant)[: -len(variant.renames)]
    places = {
        'cell_stem_1.path2_conv': 'cell_stem_1.prev_reduction.path2_conv',
        'cell_stem_1.final_path_bn': 'cell_stem_1.prev_reduction.final_path_bn',
        'cell_5.cell_output.reduction_1.path_conv': 'cell_5.reduction_1.path_conv',
        'cell_5.cell_output.reduction_0.path1_conv': 'cell_5.reduction_0.path1_conv',
        'reduction_cell_1.prev_1x1': 'reduction_cell_1.prev_1x1',
        'conv0_bn': 'stem.conv0_bn',
        'l1_stem_3x3': 'stem.conv0',
        'aux_7.aux_logits.aux_bn1': 'aux_7.aux_bn1',
    }
    for theirs, ours in places.items():
        assert renamed(f'{theirs}.bias', pairs) == f'{ours}.bias'
    separable = 'cell_5.comb_iter_4.left.separable_3x3_2'
    assert renamed(f'{separable}.weight', pairs) == f'{separable}.depthwise.weight'
    assert renamed(f'{separable}.pointwise.weight', pairs) == f'{separable}.pointwise.weight'


@pytest.mark.parametrize(('name', 'count'), [('nasnet_a_mobile', 4), ('nasnet_a_large', 6)])
def test_numbers_of_cells_in_keras(name, count):
    """Reduction cells have the numbers 4 and 8 (6 and 12), and the next normal cell one more."""
    pairs = cell_names.keras_nasnet(models.variant(name))[: -len(models.variant(name).renames)]

    def place(layer):
        return renamed(f'{layer}.weight', pairs)

    assert place('normal_conv_1_0') == 'cell_0.1x1.weight'
    assert place(f'normal_conv_1_{count - 1}') == f'cell_{count - 1}.1x1.weight'
    assert place(f'normal_conv_1_{count + 1}') == f'cell_{count}.1x1.weight'
    assert place(f'normal_conv_1_{2 * count + 1}') == f'cell_{2 * count}.1x1.weight'
    assert place(f'normal_conv_1_{3 * count}') == f'cell_{3 * count - 1}.1x1.weight'
    assert place(f'reduction_conv_1_reduce_{count}') == 'reduction_cell_0.1x1.weight'
    assert place(f'reduction_conv_1_reduce_{2 * count}') == 'reduction_cell_1.1x1.weight'
    assert place('reduction_conv_1_stem_2') == 'cell_stem_1.1x1.weight'
