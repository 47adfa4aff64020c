"""The names in the code that authors of the papers released with PyTorch.

  WRN           szagoruyko/wide-residual-networks, a dict of parameters without modules
  PyramidNet    dyhan0920/PyramidNet-PyTorch
  CondenseNet   ShichenLiu/CondenseNet, both forms
  DARTS         quark0/darts
  ProxylessNAS  mit-han-lab/proxylessnas
  ShuffleNetV2  megvii-model/ShuffleNet-Series; its units split channels in another order
  Res2Net       Res2Net/Res2Net-PretrainedModels, whose names timm keeps
  IGCV3         homles11/IGCV3, for MXNet

The code of SKNet, SENet (see caffe.py) and DPN is for Caffe or MXNet.
"""

import re
from typing import Any

import numpy as np

from cls.models import proxylessnas
from cls.models.registry import Variant
from cls.nn.cells import CellSpec
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.own_names import numbered, ours, unit_names

_WRN = (
    (r'^conv0$', 'conv1.weight'),
    unit_names(r'^group(\d)\.block(\d+)\.', stages_from=0),
    (r'\.bn([01])\.', lambda match: f'.conv{int(match[1]) + 1}.bn.'),
    (r'\.conv([01])$', lambda match: f'.conv{int(match[1]) + 1}.conv.weight'),
    (r'\.convdim$', '.identity_conv.weight'),
    (r'^bn\.', 'post_activ.'),
    (r'^fc\.', 'output.'),
)
_PYRAMIDNET = (
    unit_names(r'^layer(\d)\.(\d+)\.'),
    (r'(?<=\d\.)bn(\d)\.', r'conv\1.bn.'),
    (r'(?<=\d\.)conv(\d)\.(?=weight)', r'conv\1.conv.'),
    (r'^bn_final\.', 'post_activ.'),
    (r'^fc\.', 'output.'),
)
_CONDENSENET = (
    (r'^features\.init_conv\.', 'features.init_block.conv.'),
    (r'^features\.denseblock_(\d)\.denselayer_(\d+)\.', r'features.stage\1.unit\2.'),
    (r'\.conv_(\d)\.norm\.', r'.conv\1.bn.'),
    (r'\.conv_(\d)\.', r'.conv\1.'),
    (r'^features\.norm_last\.', 'features.post_activ.bn.'),
    (r'^classifier\.', 'output.'),
)
_MEGVII = (
    (r'^first_conv\.', 'conv1.'),
    numbered(
        [f'stage{stage}.{i}' for stage, size in ((2, 4), (3, 8), (4, 4)) for i in range(size)],
        r'^features\.(\d+)\.',
    ),
    (r'\.branch_main\.', '.branch2.'),
    (r'\.branch_proj\.', '.branch1.'),
    (r'^conv_last\.', 'conv5.'),
    (r'^classifier\.0\.', 'fc.'),
)


def _pyramidnet(variant: Variant) -> Renames:
    last = 4 if variant.fields['bottleneck'] else 3
    units, *others = _PYRAMIDNET
    return (units, (rf'(?<=\d\.)bn{last}\.', 'bn.'), *others, *variant.renames)


def _masks(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors of the form for training, with a mask of each group's inputs.

    The file has the mask of each weight, equal in a group, and counters of the pruning. These
    follow from the progress of training. Its classifier is pruned only when it is converted.
    """
    module: Any = variant.module
    groups, result = variant.fields.get('groups', module.groups), {}
    for name, value in tensors.items():
        if name.endswith('._mask'):
            mask = value[:groups, :, 0, 0].T != 0
            result[name.removesuffix('_mask') + 'conv.mask'] = mask
        elif not name.endswith(('._count', '._stage')):
            result[name] = value
    features = tensors['classifier.weight'].shape[1]
    result['classifier.mask'] = np.ones((features, 1), bool)
    return result


def _zero_bias(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with zeros for the bias that the file's classifier lacks."""
    del variant
    weight = tensors['classifier.0.weight']
    return {**tensors, 'classifier.0.bias': np.zeros(len(weight), weight.dtype)}


def _without_unused(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors without the projections of the trees of DLA that no layer reads."""
    del variant
    unused = ('level3.project.', 'level4.project.', 'level4.tree1.project.')
    return {name: value for name, value in tensors.items() if not name.startswith(unused)}


_DARTS = (
    (r'^stem\.0\.', 'stem.conv.'),
    (r'^stem\.1\.', 'stem.bn.'),
    (r'^stem0\.([0134])\.', lambda match: f'stem0.{_STEM[match[1]]}.'),
    (r'^stem1\.1\.', 'stem1.conv.'),
    (r'^stem1\.2\.', 'stem1.bn.'),
    (r'\.preprocess0\.op\.1\.', '.prev_1x1.'),
    (r'\.preprocess0\.op\.2\.', '.prev_bn.'),
    (r'\.preprocess0\.conv_([12])\.', r'.prev_reduction.path\1_conv.'),
    (r'\.preprocess0\.bn\.', '.prev_reduction.final_path_bn.'),
    (r'\.preprocess1\.op\.1\.', '.1x1.'),
    (r'\.preprocess1\.op\.2\.', '.beginning_bn.'),
    (r'^auxiliary_head\.features\.([2356])\.', lambda m: f'auxiliary_head.{_HEAD[m[1]]}.'),
    (r'^auxiliary_head\.classifier\.', 'auxiliary_head.FC.'),
)
_STEM = {'0': 'conv1', '1': 'bn1', '3': 'conv2', '4': 'bn2'}
_HEAD = {'2': 'proj', '3': 'aux_bn0', '5': 'Conv', '6': 'aux_bn1'}
# The layers of an operation, from its number in a Sequential or its name; {} is the window.
_OPERATIONS = {
    'sep_conv': {
        'op.1': 'separable_{}_1.depthwise',
        'op.2': 'separable_{}_1.pointwise',
        'op.3': 'bn_sep_{}_1',
        'op.5': 'separable_{}_2.depthwise',
        'op.6': 'separable_{}_2.pointwise',
        'op.7': 'bn_sep_{}_2',
    },
    'dil_conv': {
        'op.1': 'dilated_{}.depthwise',
        'op.2': 'dilated_{}.pointwise',
        'op.3': 'bn_dil_{}',
    },
    'skip': {
        'conv_1': 'reduction.path1_conv',
        'conv_2': 'reduction.path2_conv',
        'bn': 'reduction.final_path_bn',
    },
}


def _darts(variant: Variant) -> Renames:
    """Returns the pairs; the operations of a cell are numbered, two for each node."""
    sizes, genotype = variant.fields['stage_sizes'], variant.fields['genotype']
    reductions = {sum(sizes[:stage]) for stage in range(1, len(sizes))}

    def operation(match: re.Match) -> str:
        cell, number, layer = int(match[1]), int(match[2]), match[3]
        spec: CellSpec = genotype.reduce if cell in reductions else genotype.normal
        node, side = divmod(number, 2)
        if node >= len(spec.nodes):
            return match[0]
        kind, _, window = spec.nodes[node][side][0].rpartition('_')
        layers = _OPERATIONS.get(kind, {})
        if layer not in layers:
            return match[0]
        side_name = ('left', 'right')[side]
        return f'cells.{cell}.comb_iter_{node}.{side_name}.{layers[layer].format(window)}.'

    pattern = r'^cells\.(\d+)\._ops\.(\d+)\.(op\.\d|conv_\d|bn)\.'
    return ((pattern, operation), *_DARTS, *variant.renames)


def _proxylessnas(variant: Variant) -> Renames:
    """Returns the pairs; blocks are numbered with those that the search omitted."""
    first_of_stage = (0, 1, 5, 9, 17)
    names = {
        first + unit - 1: f'blocks.{stage}.{block}.'
        for stage, (first, units) in enumerate(
            zip(first_of_stage, proxylessnas.PRESENT[variant.name], strict=True)
        )
        for block, unit in enumerate(units)
    }
    numbers = (r'^blocks\.(\d+)\.(?=mobile)', lambda match: names.get(int(match[1]), match[0]))
    return (
        (r'^first_conv\.conv\.', 'conv_stem.'),
        (r'^first_conv\.bn\.', 'bn1.'),
        (r'^feature_mix_layer\.conv\.', 'conv_head.'),
        (r'^feature_mix_layer\.bn\.', 'bn2.'),
        (r'^classifier\.linear\.', 'classifier.'),
        numbers,
        *(
            (rf'\.mobile_inverted_conv\.{theirs}\.{kind}\.', f'.{name}.')
            for theirs, names in (
                ('inverted_bottleneck', ('conv_pw', 'bn1')),
                ('depth_conv', ('conv_dw', 'bn2')),
                ('point_linear', ('conv_pwl', 'bn3')),
            )
            for kind, name in zip(('conv', 'bn'), names, strict=True)
        ),
        *variant.renames,
    )


_IGCV3 = (
    (r'^first-3x3-conv-conv2d\.', 'conv_stem.'),
    (r'^first-3x3-conv-batchnorm\.', 'bn1.'),
    (r'^last-1x1-conv-conv2d\.', 'conv_head.'),
    (r'^last-1x1-conv-batchnorm\.', 'bn2.'),
    (r'^fc\.', 'classifier.'),
    *(
        (rf'-{theirs}-{kind}\.', f'.{ours}.')
        for theirs, names in (
            ('exp', ('conv_pw', 'bn1')),
            ('depthwise', ('conv_dw', 'bn2')),
            ('linear', ('conv_pwl', 'bn3')),
        )
        for kind, ours in zip(('conv2d', 'batchnorm'), names, strict=True)
    ),
)


def _igcv3(variant: Variant) -> Renames:
    """Returns the pairs from numbers of runs; here a run with a stride begins a stage."""
    module: Any = variant.module
    sizes, strides = module.stage_sizes, module.strides
    places, stage, block = {}, -1, 0
    for run, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        if stride > 1 or run == 0:
            stage, block = stage + 1, 0
        for i in range(size):
            places[f'seq-{run}-block{i}'] = f'blocks.{stage}.{block}'
            block += 1
    numbers = (r'^(seq-\d-block\d)', lambda match: places.get(match[1], match[1]))
    return (numbers, *_IGCV3, *variant.renames)


FAMILY = Family(
    'authors',
    (
        Names(r'wrn\d+_\d+_cifar', ours(*_WRN)),
        Names(r'pyramidnet.*', _pyramidnet),
        Names(r'condensenet\w+(?<!_learned)', _CONDENSENET),
        Names(r'condensenet\w+_learned', _CONDENSENET, tensors=_masks),
        Names(r'darts_.*', _darts),
        Names(r'proxyless_.*', _proxylessnas),
        Names(r'shufflenetv2_0\.5x', _MEGVII, tensors=_zero_bias, fields={'released': True}),
        Names(r'shufflenetv2_.*_released', _MEGVII, tensors=_zero_bias),
        Names(r'igcv3_w1', _igcv3),
        Names(r'res2net50_26w_4s|res2next50|dla60_res2net', tensors=_without_unused),
    ),
    networks={
        'ShuffleNetV2.0.5x': 'shufflenetv2_0.5x',
        **{f'ShuffleNetV2.{x}': f'shufflenetv2_{x}_released' for x in ('1.0x', '1.5x', '2.0x')},
    },
    missing={
        r'ShuffleNetV1.*': 'shortcuts before the convolved channels',
        r'ShuffleNetV2\.(Large|ExLarge)': '3x3 convolutions in groups',
        r'darts_imagenet_(v1|nasnet|amoebanet)': 'other cells',
        r'proxyless_cifar': 'a PyramidNet of trees',
    },
)
