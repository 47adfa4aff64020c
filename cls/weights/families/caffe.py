"""The names of Caffe's published networks, as `cls.weights.caffe` reads them.

A norm is two layers in Caffe, one with the statistics and one with the scale. Files hold the order
blue, green, red of the first convolution; the import reverses it.

Sources: the networks (.prototxt) of BVLC/caffe, KaimingHe/deep-residual-networks,
forresti/SqueezeNet, hujie-frank/SENet and implus/SKNet, and those of Simonyan and Zisserman for
VGG.
"""

import re

from cls.models.registry import Variant
from cls.weights.families import Family, Names, Renames, Tensors


def _vgg(variant: Variant) -> Renames:
    pairs, index = [], 0
    for stage, depth in enumerate(variant.fields['depths'], 1):
        for i in range(1, depth + 1):
            pairs.append((rf'^conv{stage}_{i}\.', f'features.{index}.'))
            index += 2
        index += 1
    heads = (('fc6', 'classifier.0'), ('fc7', 'classifier.3'), ('fc8', 'classifier.6'))
    return (*pairs, *((rf'^{theirs}\.', f'{ours}.') for theirs, ours in heads))


def _without_bias(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors without ResNet-50's bias of the first convolution; its norm has it."""
    result, mean = dict(tensors), 'bn_conv1.running_mean'
    if 'conv1.bias' in result and mean in result:
        result[mean] = result[mean] - result.pop('conv1.bias')
    return result


def _block(letters: str) -> int:
    """Returns the number of a block from 0: a, b, c, ..., or a, b1, b2, ... of long stages."""
    return int(letters[1:]) if letters[1:] else ord(letters) - ord('a')


def resnet_blocks(variant: Variant) -> Renames:
    """Returns renames of ResNet's layers, `res2a_branch2a`, `bn2a_branch2a`, `scale2a_branch2a`."""
    return (
        (r'^conv1\.', 'conv1.'),
        (r'^(?:bn|scale)_conv1\.', 'bn1.'),
        (r'^fc\d+\.', 'fc.'),
        (
            r'^(res|bn|scale)(\d)([a-z]\d*)_branch(1|2[abc])\.',
            lambda m: f'layer{int(m[2]) - 1}.{_block(m[3])}.{_layer(m[1] == "res", m[4])}.',
        ),
        *variant.renames,
    )


def _layer(convolution: bool, branch: str) -> str:
    if branch == '1':
        return 'downsample.0' if convolution else 'downsample.1'
    return f'{"conv" if convolution else "bn"}{"abc".index(branch[1]) + 1}'


def _squeezenet(variant: Variant) -> Renames:
    first = 3  # the index of fire2 in torchvision's list of layers; a pool follows some modules
    pools = {'squeezenet1_0': (4, 8), 'squeezenet1_1': (3, 5)}[variant.name]

    def fire(match: re.Match) -> str:
        number = int(match[1])
        return f'features.{first + number - 2 + sum(number > pool for pool in pools)}.'

    return (
        (r'^conv1\.', 'features.0.'),
        (r'^fire(\d)/', fire),
        (r'\.squeeze1x1\.', '.squeeze.'),
        (r'^conv10\.', 'classifier.1.'),
    )


def _googlenet(variant: Variant) -> Renames:
    branches = (
        (r'/1x1\.', '.branch1.'),
        (r'/3x3_reduce\.', '.branch2.0.'),
        (r'/3x3\.', '.branch2.1.'),
        (r'/5x5_reduce\.', '.branch3.0.'),
        (r'/5x5\.', '.branch3.1.'),
        (r'/pool_proj\.', '.branch4.1.'),
    )
    return (
        (r'^conv1/7x7_s2\.', 'conv1.conv.'),
        (r'^conv2/3x3_reduce\.', 'conv2.conv.'),
        (r'^conv2/3x3\.', 'conv3.conv.'),
        (r'^inception_(\d\w)(?=/)', r'inception\1'),
        *((pattern, f'{ours}conv.') for pattern, ours in branches),
        (r'^loss([12])/conv\.', r'aux\1.conv.conv.'),
        (r'^loss([12])/fc\.', r'aux\1.fc1.'),
        (r'^loss([12])/classifier\.', r'aux\1.fc2.'),
        (r'^loss3/classifier\.', 'fc.'),
    )


_SE = {
    '1x1_reduce': ('conv1', 'bn1'),
    '3x3': ('conv2', 'bn2'),
    '1x1_increase': ('conv3', 'bn3'),
    '1x1_proj': ('downsample.0', 'downsample.1'),
    '3x3_proj': ('downsample.0', 'downsample.1'),
    '1x1_down': ('se_module.fc1',),
    '1x1_up': ('se_module.fc2',),
}


def _senet(variant: Variant) -> Renames:
    """Returns renames of SENets; a norm has the suffix /bn, and its scale /bn/scale."""

    def layer(match: re.Match) -> str:
        names = _SE[match[3]]
        name = names[-1] if match[4] else names[0]
        return f'layer{int(match[1]) - 1}.{int(match[2]) - 1}.{name}.'

    kinds = '|'.join(_SE)
    return (
        (r'^conv1/7x7_s2\.', 'layer0.conv1.'),
        (r'^conv1/7x7_s2/bn(?:/scale)?\.', 'layer0.bn1.'),
        (r'^conv1_(\d)/3x3(?:_s2)?\.', r'layer0.conv\1.'),
        (r'^conv1_(\d)/3x3(?:_s2)?/bn(?:/scale)?\.', r'layer0.bn\1.'),
        (rf'^conv(\d)_(\d+)_({kinds})(/bn(?:/scale)?)?\.', layer),
        (r'^classifier\.', 'last_linear.'),
        *variant.renames,
    )


_SK = {
    '1x1_reduce': ('conv1.conv', 'conv1.bn'),
    '3x3g32': ('conv2.paths.0.conv', 'conv2.paths.0.bn'),
    '3x3g32d2': ('conv2.paths.1.conv', 'conv2.paths.1.bn'),
    'B_fc1': ('conv2.attn.fc_reduce', 'conv2.attn.bn'),
    'B_fc2': ('conv2.attn.fc_select',),
    '1x1_increase': ('conv3.conv', 'conv3.bn'),
    '1x1_proj': ('downsample.0', 'downsample.1'),
}


def _sknet(variant: Variant) -> Renames:
    def layer(match: re.Match) -> str:
        name = _SK[match[3]][-1 if match[4] else 0]
        return f'layer{int(match[1]) - 1}.{int(match[2]) - 1}.{name}.'

    return (
        (r'^conv1/7x7_s2\.', 'conv1.'),
        (r'^conv1/7x7_s2/bn\.', 'bn1.'),
        (rf'^conv(\d)_(\d+)/({"|".join(_SK)})(/bn)?\.', layer),
        (r'^classifier\.', 'fc.'),
        *variant.renames,
    )


FAMILY = Family(
    'caffe',
    tables=(
        Names('vgg(16|19)', _vgg),
        Names('resnet(50|101|152)_v1', resnet_blocks, _without_bias, {'ceil_pool': True}),
        Names('squeezenet1_0', _squeezenet, fields={'logit_padding': 1}),
        Names('squeezenet1_1', _squeezenet),
        Names('googlenet', _googlenet),
        Names('sknet50', _sknet, fields={'ceil_pool': True}),
        Names('se(resnet(50|101|152)|resnext(50|101)_32x4d|net154)', _senet),
    ),
    networks={'VGG_ILSVRC_16_layers': 'vgg16', 'VGG_ILSVRC_19_layers': 'vgg19'},
    missing={
        r'(?i)(caffenet|alexnet|bvlc_alexnet)': 'another system',
        # models/sknet101.prototxt of its authors; sknet50.prototxt and the paper have 32.
        r'sknet101': '16 channels, not 32, in the attention of the second stage',
    },
)
