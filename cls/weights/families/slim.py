"""The names of TF-Slim's networks, in torch's form by cls.weights.keras.

Layers of a block are ordered by branch and by the letter in their names, `Conv2d_0b_1x7`. Norms of
the Inceptions have no scale; it is 1. Their weights have 1,001 classes: the first one is the
background.

Source: research/slim/nets in tensorflow/models, as far as its names can be read; VGG and
Inception-v3 also in PyPI's tf-slim.
"""

import re
from collections.abc import Callable

import numpy as np

from cls.models import inception_resnet_v2, inception_v3, inception_v4, mobilenet
from cls.models.registry import Variant
from cls.nn import inception
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.cell_names import tensorflow
from cls.weights.families.keras import INVERTED, at_rank, block_names, by_number, home, unit_names

_TF = {'padding': 'SAME', 'epsilon': 1e-3}
_LAYER = re.compile(r'^(.+)\.Branch_(\d)\.(Conv2?d?_\w+)\.(.+)$')
_SCOPE = re.compile(r'^(InceptionV[34]|InceptionResnetV2)\.')


def _inception(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors with ranks of layers in their blocks, `Mixed_5b.#3`, and with scales."""
    own = {_SCOPE.sub('', name): value for name, value in tensors.items()}
    if variant.name != 'inception_v3':  # the others have no auxiliary head here
        own = {name: value for name, value in own.items() if not name.startswith('AuxLogits.')}
    layers: dict[str, set[tuple[str, str, str]]] = {}
    matches = {name: match for name in own if (match := _LAYER.match(name))}
    for match in matches.values():
        layers.setdefault(match[1], set()).add((match[2], _order(match[3]), match[3]))
    ranks = {
        (block, branch, layer): rank
        for block, found in layers.items()
        for rank, (branch, _, layer) in enumerate(sorted(found))
    }
    result: Tensors = {}
    for name, value in own.items():
        if match := matches.get(name):
            name = f'{match[1]}.#{ranks[match[1], match[2], match[3]]}.{match[4]}'
        result[name] = value
    for name, value in list(result.items()):
        norm, _, leaf = name.rpartition('.')
        if leaf == 'running_var':
            result.setdefault(f'{norm}.weight', np.ones_like(value))
    return result


def _order(layer: str) -> str:
    """Returns the part of a layer's name that orders it in its branch: 0a_1x1."""
    return re.sub(r'^Conv(?:2d|_1)_', '', layer)


def _unit(name: str, match: re.Match) -> str:
    """Returns a unit's convolution or norm: the last group of the match is present for a norm."""
    return f'{name}.{"bn" if match[match.re.groups] else "conv"}.'


def _renames(pattern: str, name: str) -> tuple[str, Callable[[re.Match], str]]:
    return rf'^{pattern}\.(BatchNorm\.)?', lambda match: _unit(match.expand(name), match)


def _unit_renames(blocks: dict[str, list[str]]) -> Renames:
    """Returns renames of ranked layers and of their norms, from slim's blocks to our units."""

    def unit(match: re.Match) -> str:
        return _unit(str(at_rank(tuple(blocks[match[1]]), match[2])), match)

    names = '|'.join(map(re.escape, blocks))
    return ((rf'^({names})\.#(\d+)\.(BatchNorm\.)?', unit),)


_STEM: Renames = (_renames(r'Conv2d_([1-4]\w)_\dx\d', r'conv2d_\1'),)


def _inception_v3(variant: Variant) -> Renames:
    model = inception_v3
    blocks = {f'Mixed_5{letter}': model.inception_a(64) for letter in 'bcd'}
    blocks |= {'Mixed_6a': model.REDUCTION_A}
    blocks |= {f'Mixed_6{letter}': model.inception_b(128) for letter in 'bcde'}
    blocks |= {'Mixed_7a': model.REDUCTION_B}
    blocks |= {f'Mixed_7{letter}': model.inception_c() for letter in 'bc'}
    units = {name: list(unit_names(block, name)) for name, block in blocks.items()}
    heads: Renames = (
        _renames(r'AuxLogits\.Conv2d_1b_1x1', 'AuxLogits.conv0'),
        _renames(r'AuxLogits\.Conv2d_2a_5x5', 'AuxLogits.conv1'),
        (r'^AuxLogits\.Conv2d_2b_1x1\.', 'AuxLogits.fc.'),
        (r'^Logits\.Conv2d_1c_1x1\.', 'fc.'),
    )
    return home((*heads, *_STEM, *_unit_renames(units)), variant)


def _inception_resnet_v2(variant: Variant) -> Renames:
    model = inception_resnet_v2
    blocks = {
        'Mixed_5b': ('mixed_5b', model.MIXED_5B),
        **{f'Repeat.block35_{i + 1}': (f'repeat.{i}', model.BLOCK35) for i in range(10)},
        'Mixed_6a': ('mixed_6a', model.REDUCTION_A),
        **{f'Repeat_1.block17_{i + 1}': (f'repeat_1.{i}', model.BLOCK17) for i in range(20)},
        'Mixed_7a': ('mixed_7a', model.REDUCTION_B),
        **{f'Repeat_2.block8_{i + 1}': (f'repeat_2.{i}', model.BLOCK8) for i in range(9)},
        'Block8': ('block8', model.BLOCK8),
    }
    units = {slim: list(unit_names(block, ours)) for slim, (ours, block) in blocks.items()}
    sums = tuple(
        (rf'^{re.escape(slim)}\.Conv2d_1x1\.', f'{ours}.conv2d.')
        for slim, (ours, _) in blocks.items()
        if not slim.startswith('Mixed')
    )
    head: Renames = (
        (r'^Logits\.Logits\.', 'classif.'),
        _renames('Conv2d_7b_1x1', 'conv2d_7b'),
    )
    return home((*head, *_STEM, *sums, *_unit_renames(units)), variant)


def _inception_v4(variant: Variant) -> Renames:
    model = inception_v4
    blocks = {
        **dict(zip(('Mixed_3a', 'Mixed_4a', 'Mixed_5a'), model.STEM[3:], strict=True)),
        **{f'Mixed_5{letter}': model.INCEPTION_A for letter in 'bcde'},
        'Mixed_6a': model.REDUCTION_A,
        **{f'Mixed_6{letter}': model.INCEPTION_B for letter in 'bcdefgh'},
        'Mixed_7a': model.REDUCTION_B,
        **{f'Mixed_7{letter}': model.INCEPTION_C for letter in 'bcd'},
    }
    units = {
        name: list(unit_names(block, f'features.{index}'))
        for index, (name, block) in enumerate(blocks.items(), 3)
        if not isinstance(block, inception.Unit)
    }
    layers = enumerate(('1a', '2a', '2b'))
    stem = tuple(_renames(f'Conv2d_{name}_3x3', f'features.{i}') for i, name in layers)
    head: Renames = ((r'^Logits\.Logits\.', 'last_linear.'),)
    return home((*head, *stem, *_unit_renames(units)), variant)


def _without_windows(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors with the 7x7 convolution of fc6 as a linear layer."""
    return {
        name: value.reshape(len(value), -1) if re.search(r'fc6\.weight$', name) else value
        for name, value in tensors.items()
    }


def _vgg(variant: Variant) -> Renames:
    pairs, index = [], 0
    for stage, depth in enumerate(variant.fields['depths'], 1):
        for i in range(1, depth + 1):
            pairs.append((rf'^vgg_\d+\.conv{stage}\.conv{stage}_{i}\.', f'features.{index}.'))
            index += 2
        index += 1
    heads = (('fc6', 'classifier.0'), ('fc7', 'classifier.3'), ('fc8', 'classifier.6'))
    return (*pairs, *((rf'^vgg_\d+\.{theirs}\.', f'{ours}.') for theirs, ours in heads))


def _mobilenet(variant: Variant) -> Renames:
    blocks = dict(enumerate(mobilenet.BLOCKS, 1))

    def layer(match: re.Match) -> str:
        stage, i = blocks[int(match[1])]
        convolution, norm = {'depth': ('conv_dw', 'bn1'), 'point': ('conv_pw', 'bn2')}[match[2]]
        return f'blocks.{stage}.{i}.{norm if match[3] else convolution}.'

    return home(
        (
            (r'^MobilenetV1\.', ''),
            (r'^Conv2d_0\.BatchNorm\.', 'bn1.'),
            (r'^Conv2d_0\.', 'conv_stem.'),
            (r'^Logits\.Conv2d_1c_1x1\.', 'classifier.'),
            (r'^Conv2d_(\d|1[0-3])_(depth|point)wise\.(BatchNorm\.)?', layer),
        ),
        variant,
    )


def _mobilenet_2_or_3(variant: Variant) -> Renames:
    names = block_names(variant)
    last = f'blocks.{int(names[-1].split(".")[1]) + 1}.0'
    third = variant.name.startswith('mobilenetv3')
    final = (f'{last}.conv.', f'{last}.bn1.') if third else ('conv_head.', 'bn2.')
    return home(
        (
            (r'^MobilenetV[23]\.', ''),
            (r'\.BatchNorm\.', '_bn.'),
            (r'^(expanded_conv(?:_\d+)?)\.squeeze_excite\.Conv', r'\1.squeeze_excite_conv'),
            (r'^Conv\.', 'conv_stem.'),
            (r'^Conv_bn\.', 'bn1.'),
            (r'^Conv_1\.', final[0]),
            (r'^Conv_1_bn\.', final[1]),
            (r'^Conv_2\.', 'conv_head.'),
            (r'^Logits\.Conv2d_1c_1x1\.', 'classifier.'),
            (r'^expanded_conv(?:_(\d+))?\.', lambda m: f'{by_number(names, int(m[1] or 0))}.'),
            *INVERTED,
        ),
        variant,
    )


FAMILY = Family(
    'tf-slim',
    tables=(
        Names('vgg(16|19)', _vgg, _without_windows),
        Names('inception_v3', _inception_v3, _inception, {'count_padding': False}),
        Names('inception_resnet_v2', _inception_resnet_v2, _inception),
        Names('inception_v4', _inception_v4, _inception),
        Names(r'nasnet_a_(mobile|large|\d_\d+_cifar)|pnasnet5_(large|mobile)', tensorflow),
        Names('mobilenet_(100|075|050|025)_tf', _mobilenet),
        Names('mobilenetv2_100_tf', _mobilenet_2_or_3),
        Names('mobilenetv2_(140|075|050|035)', _mobilenet_2_or_3, fields=_TF),
        Names('mobilenetv3_(large|small)_(100|075)', _mobilenet_2_or_3, fields=_TF),
        Names('mobilenetv3_(large|small)_minimal_100', _mobilenet_2_or_3),
    ),
    missing={
        r'resnet_v[12]_(50|101|152|200)': 'strides in the last block of a stage',
        r'inception_v[12]': 'another stem and reductions than GoogLeNet with batch norm here',
    },
)
