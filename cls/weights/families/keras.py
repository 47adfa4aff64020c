"""The names of Keras Applications, for files that the code in cls.weights has given torch's axes.

Layers without a name of their own are numbered through a whole session, `conv2d_7`. Here their rank
among the numbered layers of a kind counts.

Convolutions of ResNet have a bias before the norm; the mean of the norm takes it over. ResNet-50 of
Keras before 2.2.3 has Caffe's names. Norms of the
Inceptions have no scale; it is 1. The layer that normalizes the images in EfficientNet has to
have ImageNet's statistics, or none for images in 0..1.

Weights of VGG and ResNet expect images as blue, green, red; the tables of published weights in
cls.weights say so.

Source: keras/src/applications of Keras 3.15.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from cls.errors import UserError
from cls.models import efficientnet, inception_resnet_v2, inception_v3, mobilenet
from cls.models.registry import Variant
from cls.nn import inception, inverted
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.caffe import resnet_blocks
from cls.weights.families.cell_names import keras_nasnet

_KINDS = ('conv2d', 'depthwise_conv2d', 'separable_conv2d', 'batch_normalization', 'dense')
_AUTOMATIC = re.compile(rf'^({"|".join(_KINDS)})(?:_(\d+))?\.(.+)$')
_TF = {'padding': 'SAME', 'epsilon': 1e-3}
_OLD_EPSILON = 1e-3
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def home(renames: Renames, variant: Variant) -> Renames:
    """Returns renames to the names of a variant's reference, from those to the names here."""
    return (*renames, *variant.renames)


# --- Forms that names alone cannot convert ----------------------------------------------------


def ranked(tensors: Tensors) -> Tensors:
    """Returns the tensors with automatic numbers counted from 0: conv2d_5 -> conv2d.0."""
    found = [match for match in map(_AUTOMATIC.match, tensors) if match]
    numbers = {kind: sorted({int(m[2] or 0) for m in found if m[1] == kind}) for kind in _KINDS}
    result: Tensors = {}
    for name, value in tensors.items():
        match = _AUTOMATIC.match(name)
        if match:
            name = f'{match[1]}.{numbers[match[1]].index(int(match[2] or 0))}.{match[3]}'
        result[name] = value
    return result


def _with_scales(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns ranked tensors with a scale of 1 for norms without one."""
    result = ranked(tensors)
    for name, value in list(result.items()):
        norm, _, leaf = name.rpartition('.')
        if leaf == 'running_var':
            result.setdefault(f'{norm}.weight', np.ones_like(value))
    return result


def _ranks(tensors: Tensors, variant: Variant) -> Tensors:
    return ranked(tensors)


def _without_biases(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors without biases of convolutions; the means of their norms are smaller."""
    if 'res2a_branch2a.weight' in tensors:
        return _of_old_resnet(tensors, variant)
    result = dict(tensors)
    for name in tensors:
        mean = re.sub(r'_conv\.bias$', '_bn.running_mean', name)
        if mean != name and mean in tensors:
            result[mean] = result[mean] - result.pop(name)
    return result


def _of_old_resnet(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors of a ResNet of Keras before 2.2.3, without biases of convolutions.

    Its norms have an epsilon of 1e-3, and those here 1e-5: variances take over the difference, so
    that evaluations compute the same.
    """
    result = dict(tensors)
    for name, value in tensors.items():
        if match := re.fullmatch(r'(?:(conv1)|res(\w+))\.bias', name):
            mean = f'bn{"_" + match[1] if match[1] else match[2]}.running_mean'
            if mean in result:
                result[mean] = result[mean] - result.pop(name)
        elif name.endswith('.running_var'):
            result[name] = value + np.asarray(_OLD_EPSILON - 1e-5, value.dtype)
    return result


def _by_channels(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors with the inputs of fc1 ordered by channels, rows and columns."""
    weight = tensors.get('fc1.weight')
    if weight is None or weight.ndim != 2:
        return tensors
    bins: int = getattr(variant.module, 'bins', 7)
    if weight.shape[1] % bins**2:
        return tensors
    turned = weight.reshape(len(weight), bins, bins, -1).transpose(0, 3, 1, 2)
    return {**tensors, 'fc1.weight': turned.reshape(weight.shape)}


def _without_statistics(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors without the statistics of images, after comparing them."""
    stated = {n: v for n, v in tensors.items() if re.match(r'normalization(_\d+)?\.', n)}
    for name, value in stated.items():
        # The published weights have the deviation here, and another layer divides by its root.
        usual = {'mean': ((0, 0, 0), _IMAGENET[0]), 'variance': ((1, 1, 1), _IMAGENET[1])}
        expected = usual.get(name.rpartition('.')[2])
        numbers = np.asarray(value, np.float64).reshape(-1)
        # Recognition asks with zeros in place of the values.
        if (
            expected
            and numbers.any()
            and not any(numbers.size == 3 and np.allclose(numbers, x, atol=1e-4) for x in expected)
        ):
            raise UserError(
                f'{name} is {numbers[:3].round(4).tolist()}: expected the statistics of ImageNet '
                f'{list(expected[1])}, for which the preparation of images is known'
            )
    return {name: value for name, value in tensors.items() if name not in stated}


# --- Names ------------------------------------------------------------------------------------


def _vgg(variant: Variant) -> Renames:
    pairs, index = [], 0
    for stage, depth in enumerate(variant.fields['depths'], 1):
        for i in range(1, depth + 1):
            pairs.append((rf'^block{stage}_conv{i}\.', f'features.{index}.'))
            index += 2
        index += 1
    heads = (('fc1', 'classifier.0'), ('fc2', 'classifier.3'), ('predictions', 'classifier.6'))
    return (*pairs, *((rf'^{theirs}\.', f'{ours}.') for theirs, ours in heads))


def resnet_names(variant: Variant) -> Renames:
    """Returns the pairs of ResNet and, in older releases, ResNeXt."""
    return (
        (r'^conv1_conv\.', 'conv1.'),
        (r'^conv1_bn\.', 'bn1.'),
        (r'^(?:predictions|probs|fc1000)\.', 'fc.'),
        (r'^conv(\d)_block(\d+)_', lambda m: f'layer{int(m[1]) - 1}.{int(m[2]) - 1}.'),
        (r'(\.\d+)\.0_conv\.', r'\1.downsample.0.'),
        (r'(\.\d+)\.0_bn\.', r'\1.downsample.1.'),
        (r'(\.\d+)\.(\d)_(conv|bn)\.', r'\1.\3\2.'),
        *resnet_blocks(variant),  # before Keras 2.2.3
    )


def _densenet(variant: Variant) -> Renames:
    return home(
        (
            (r'^conv1[._]conv\.', 'conv0.'),
            (r'^conv1[._]bn\.', 'norm0.'),
            (r'^bn\.', 'norm5.'),
            (r'^(?:predictions|fc1000)\.', 'classifier.'),
            (r'^pool(\d)_', lambda m: f'transition{int(m[1]) - 1}.'),
            (r'^conv(\d)_block(\d+)_', lambda m: f'denseblock{int(m[1]) - 1}.denselayer{m[2]}.'),
            (r'(r\d+)\.0_bn\.', r'\1.conv1.bn.'),
            (r'(r\d+)\.1_conv\.', r'\1.conv1.conv.'),
            (r'(r\d+)\.1_bn\.', r'\1.conv2.bn.'),
            (r'(r\d+)\.2_conv\.', r'\1.conv2.conv.'),
        ),
        variant,
    )


def _xception(variant: Variant) -> Renames:
    skips = (1, 2, 3, 12)

    def layer(match: re.Match) -> str:
        block, k, norm = int(match[1]) - 1, int(match[2]) - 1, bool(match[3])
        if block == 13:
            return f'{"bn" if norm else "conv"}{k + 3}.'
        return f'block{block}.rep.{3 * k + (block > 1) + norm}.'

    return home(
        (
            (r'^block1_conv(\d)\.', r'conv\1.'),
            (r'^block1_conv(\d)_bn\.', r'bn\1.'),
            (r'^conv2d\.(\d)\.', lambda m: f'block{at_rank(skips, m[1])}.skip.'),
            (r'^batch_normalization\.(\d)\.', lambda m: f'block{at_rank(skips, m[1])}.skipbn.'),
            (r'^block(\d+)_sepconv(\d)(_bn)?\.', layer),
            (r'^((?:block\d+\.rep\.\d+|conv[34]))\.weight$', r'\1.conv1.weight'),
            # Norms of the blocks, whose names end as those of the convolutions do.
            (r'^(block(?:[2-9]|1[0-2])\.rep\.[258])\.conv1\.', r'\1.'),
            (r'^(block1\.rep\.[14])\.conv1\.', r'\1.'),
            (r'^predictions\.', 'fc.'),
        ),
        variant,
    )


def at_rank(names: tuple, rank: str) -> object:
    """Returns the name of a rank, or one that fits nothing."""
    return names[int(rank)] if int(rank) < len(names) else f'of_rank_{rank}'


def unit_names(branches: inception.Branches, name: str) -> Iterable[str]:
    """Yields the names of a block's units, in order."""
    for branch, steps in branches.items():
        for k, step in enumerate(steps):
            prefix = f'{name}.{branch}' + (f'.{k}' if len(steps) > 1 else '')
            if isinstance(step, inception.Unit):
                yield prefix
            elif isinstance(step, tuple):
                yield from (f'{prefix}{letter}' for letter, _ in zip('abcd', step, strict=False))


def _numbered(units: list[str], variant: Variant, own: Renames) -> Renames:
    """Returns renames of numbered convolutions and norms to those of units."""
    names = tuple(units)
    return home(
        (
            (r'^conv2d\.(\d+)\.', lambda m: f'{at_rank(names, m[1])}.conv.'),
            (r'^batch_normalization\.(\d+)\.', lambda m: f'{at_rank(names, m[1])}.bn.'),
            *own,
        ),
        variant,
    )


def _stem() -> list[str]:
    return [name for name, step in inception.STEM.items() if isinstance(step, inception.Unit)]


def _inception_v3(variant: Variant) -> Renames:
    model = inception_v3
    blocks = {f'Mixed_5{letter}': model.inception_a(64) for letter in 'bcd'}
    blocks |= {'Mixed_6a': model.REDUCTION_A}
    blocks |= {f'Mixed_6{letter}': model.inception_b(128) for letter in 'bcde'}
    blocks |= {'Mixed_7a': model.REDUCTION_B}
    blocks |= {f'Mixed_7{letter}': model.inception_c() for letter in 'bc'}
    units = [unit for name, block in blocks.items() for unit in unit_names(block, name)]
    return _numbered([*_stem(), *units], variant, ((r'^predictions\.', 'fc.'),))


def _inception_resnet_v2(variant: Variant) -> Renames:
    model = inception_resnet_v2
    blocks = {'mixed_5b': model.MIXED_5B}
    blocks |= {f'repeat.{i}': model.BLOCK35 for i in range(10)}
    blocks |= {'mixed_6a': model.REDUCTION_A}
    blocks |= {f'repeat_1.{i}': model.BLOCK17 for i in range(20)}
    blocks |= {'mixed_7a': model.REDUCTION_B}
    blocks |= {f'repeat_2.{i}': model.BLOCK8 for i in range(9)}
    blocks |= {'block8': model.BLOCK8}
    units = [unit for name, block in blocks.items() for unit in unit_names(block, name)]
    stages = {'block35': 'repeat', 'block17': 'repeat_1', 'block8': 'repeat_2'}
    own: Renames = (
        (r'^conv_7b\.', 'conv2d_7b.conv.'),
        (r'^conv_7b_bn\.', 'conv2d_7b.bn.'),
        (r'^predictions\.', 'classif.'),
        (r'^block8_10_conv\.', 'block8.conv2d.'),
        (
            r'^(block35|block17|block8)_(\d+)_conv\.',
            lambda m: f'{stages[m[1]]}.{int(m[2]) - 1}.conv2d.',
        ),
    )
    return _numbered([*_stem(), *units], variant, own)


def _mobilenet(variant: Variant) -> Renames:
    blocks = dict(enumerate(mobilenet.BLOCKS, 1))

    def layer(match: re.Match) -> str:
        stage, i = blocks[int(match[2])]
        kind = {'dw': ('conv_dw', 'bn1'), 'pw': ('conv_pw', 'bn2')}[match[1]][bool(match[3])]
        return f'blocks.{stage}.{i}.{kind}.'

    return home(
        (
            (r'^conv1\.', 'conv_stem.'),
            (r'^conv1_bn\.', 'bn1.'),
            (r'^conv_preds\.', 'classifier.'),
            (r'^conv_(dw|pw)_(\d|1[0-3])(_bn)?\.', layer),
        ),
        variant,
    )


# Layers of an inverted residual, as MobileNetV2, MobileNetV3 and EfficientNet name them.
INVERTED: Renames = (
    (r'\.(?:expand|expand_conv)\.', '.conv_pw.'),
    (r'\.expand_(?:BN|bn)\.', '.bn1.'),
    (r'\.(?:depthwise|dwconv)\.', '.conv_dw.'),
    (r'\.(?:depthwise_(?:BN|bn)|bn)\.', '.bn2.'),
    (r'\.(?:se_reduce|squeeze_excite_conv)\.', '.se.conv_reduce.'),
    (r'\.(?:se_expand|squeeze_excite_conv_1)\.', '.se.conv_expand.'),
    (r'\.(?:project|project_conv)\.', '.conv_pwl.'),
    (r'\.project_(?:BN|bn)\.', '.bn3.'),
)


def network_runs(variant: Variant) -> list[list[inverted.Run]]:
    """Returns the runs of a network of inverted residuals."""

    def field(name: str) -> Any:
        return variant.fields.get(name, getattr(variant.module, name, 1.0))

    scales = field('genotype'), field('width'), field('depth')
    if hasattr(variant.module, 'lite'):
        return efficientnet.scaled(*scales, bool(variant.fields.get('lite')))
    return inverted.scaled(*scales)


def block_names(variant: Variant) -> list[str]:
    """Returns the names of a network's blocks, in order."""
    return [name for name, _ in inverted.blocks(network_runs(variant))]


def by_number(names: list[str], number: int) -> str:
    """Returns the name of a block, or one that fits nothing."""
    return names[number] if number < len(names) else f'blocks.of_number_{number}'


def _mobilenetv2(variant: Variant) -> Renames:
    names = block_names(variant)
    return home(
        (
            (r'^Conv1\.', 'conv_stem.'),
            (r'^bn_Conv1\.', 'bn1.'),
            (r'^Conv_1\.', 'conv_head.'),
            (r'^Conv_1_bn\.', 'bn2.'),
            (r'^(?:predictions|Logits)\.', 'classifier.'),
            (r'^expanded_conv_', f'{names[0]}.'),
            (r'^block_(\d+)_', lambda m: f'{by_number(names, int(m[1]))}.'),
            *INVERTED,
        ),
        variant,
    )


def _mobilenetv3(variant: Variant) -> Renames:
    names = block_names(variant)
    last = f'blocks.{int(names[-1].split(".")[1]) + 1}.0'
    return home(
        (
            # Before Keras 3, names of layers had slashes.
            (r'[./]BatchNorm\.', '_bn.'),
            (r'^Conv', 'conv'),
            (r'^Logits', 'logits'),
            (r'^(expanded_conv(?:_\d+)?)\.squeeze_excite\.Conv', r'\1_squeeze_excite_conv'),
            (r'^(expanded_conv(?:_\d+)?)\.', r'\1_'),
            (r'^conv\.', 'conv_stem.'),
            (r'^conv_bn\.', 'bn1.'),
            (r'^conv_1\.', f'{last}.conv.'),
            (r'^conv_1_bn\.', f'{last}.bn1.'),
            (r'^conv_2\.', 'conv_head.'),
            (r'^logits\.', 'classifier.'),
            (
                r'^expanded_conv_(?:(\d+)_)?(?=\D)',
                lambda m: f'{by_number(names, int(m[1] or 0))}.',
            ),
            *INVERTED,
        ),
        variant,
    )


def _efficientnet(variant: Variant) -> Renames:
    return home(
        (
            (r'^stem_conv\.', 'conv_stem.'),
            (r'^stem_bn\.', 'bn1.'),
            (r'^top_conv\.', 'conv_head.'),
            (r'^top_bn\.', 'bn2.'),
            (r'^(?:predictions|probs)\.', 'classifier.'),
            (r'^block(\d)([a-z])_', lambda m: f'blocks.{int(m[1]) - 1}.{ord(m[2]) - ord("a")}.'),
            *INVERTED,
        ),
        variant,
    )


FAMILY = Family(
    'keras',
    tables=(
        Names('vgg(16|19)', _vgg, _by_channels),
        Names('resnet(50|101|152)_v1', resnet_names, _without_biases),
        Names('nasnet_a_(mobile|large)', keras_nasnet, fields={'zero_pools': True}),
        Names('densenet(121|169|201)', _densenet),
        Names('xception', _xception, _ranks, {'epsilon': 1e-3, 'pool_padding': 'SAME'}),
        Names('inception_v3', _inception_v3, _with_scales, {'count_padding': False}),
        Names('inception_resnet_v2', _inception_resnet_v2, _with_scales),
        Names('mobilenet_(100|075|050|025)_tf', _mobilenet),
        Names('mobilenetv2_100_tf', _mobilenetv2),
        Names('mobilenetv2_(140|075|050|035)', _mobilenetv2, fields=_TF),
        Names('mobilenetv3_(large|small)_(100|075)', _mobilenetv3, fields=_TF),
        Names('mobilenetv3_(large|small)_minimal_100', _mobilenetv3),
        Names('tf_efficientnet_b[0-7]', _efficientnet, _without_statistics),
    ),
    networks={
        'MobileNetV2': 'mobilenetv2_100_tf',
        'MobileNet': 'mobilenet_100_tf',
        'NASNetLarge': 'nasnet_a_large',
        'NASNetMobile': 'nasnet_a_mobile',
        'nasnet_large': 'nasnet_a_large',
        'nasnet_mobile': 'nasnet_a_mobile',
        'ResNet50': 'resnet50_v1',
        'ResNet101': 'resnet101_v1',
        'ResNet152': 'resnet152_v1',
        **{f'EfficientNetB{i}': f'tf_efficientnet_b{i}' for i in range(8)},
    },
    missing={
        r'(?i)resnet(50|101|152)v2': 'strides in the last block of a stage, no norm in the stem',
        r'(?i)efficientnetv2.*': 'fused blocks',
        r'(?i)convnext.*': 'another system',
    },
)
