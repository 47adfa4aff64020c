"""pytorchcv (imgclsmob): its names of networks, and of the tensors of variants named otherwise.

Its files name tensors uniformly: features.init_block, features.stageN.unitM, output. The tables
turn these into the names of the modules here, and the variant's own `renames` turn those into the
names of its reference. Variants whose reference is pytorchcv need no table.

Source: github.com/osmr/imgclsmob, the package pytorchcv 0.0.74.
"""

import re
from collections.abc import Callable

import numpy as np

from cls.models import registry
from cls.models.registry import Variant
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families import pytorchcv_inception as inception
from cls.weights.families import pytorchcv_mobile as mobile


def _of(pairs: Renames | Callable[[Variant], Renames]) -> Callable[[Variant], Renames]:
    """Returns a function of a variant: pairs to our names, and then to those of its reference."""

    def renames(variant: Variant) -> Renames:
        return (*(pairs(variant) if callable(pairs) else pairs), *variant.renames)

    return renames


def _block(match: re.Match[str]) -> str:
    return f'layer{match[1]}.{int(match[2]) - 1}.'


# Residual networks.
BLOCKS = (
    (r'^features\.stage(\d)\.unit(\d+)\.', _block),
    (r'\.body\.conv(\d)\.(conv|bn)\.', r'.\2\1.'),
    (r'\.identity_conv\.conv\.', '.downsample.0.'),
    (r'\.identity_conv\.bn\.', '.downsample.1.'),
)
RESIDUAL = (
    (r'^features\.init_block\.conv\.(conv|bn)\.', r'\g<1>1.'),
    *BLOCKS,
    (r'^output\.', 'fc.'),
)
# Three convolutions in the stem, and pooled shortcuts.
RESNET_D = (
    (r'^features\.init_block\.conv3\.bn\.', 'bn1.'),
    (
        r'^features\.init_block\.conv(\d)\.(conv|bn)\.',
        lambda m: f'conv1.{3 * int(m[1]) - 3 + (m[2] == "bn")}.',
    ),
    (r'^features\.stage(\d)\.unit(\d+)\.', _block),
    (r'\.body\.conv(\d)\.(conv|bn)\.', r'.\2\1.'),
    (r'\.identity_block\.conv\.conv\.', '.downsample.1.'),
    (r'\.identity_block\.conv\.bn\.', '.downsample.2.'),
    (r'^output\.', 'fc.'),
)
SENET = (
    (r'^features\.init_block\.conv\.(conv|bn)\.', r'layer0.\g<1>1.'),
    (r'^features\.init_block\.conv(\d)\.(conv|bn)\.', r'layer0.\2\1.'),
    *BLOCKS,
    (r'\.se\.conv(\d)\.', r'.se_module.fc\1.'),
    (r'^output\.(fc\.)?', 'last_linear.'),
)


def folded(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with a norm after each convolution, for convolutions that have a bias.

    pytorchcv's wide network has its norms folded into the convolutions. A norm of variance
    1 - epsilon, scale 1 and that bias computes the same.
    """
    del variant
    result = {}
    for name, value in tensors.items():
        if not name.endswith('.bias') or name == 'output.bias':
            result[name] = value
            continue
        norm = f'{name.removesuffix(".conv.bias")}.bn'
        result[f'{norm}.bias'] = value
        result[f'{norm}.weight'] = np.ones_like(value)
        result[f'{norm}.running_mean'] = np.zeros_like(value)
        result[f'{norm}.running_var'] = np.full_like(value, 1 - 1e-5)
    return result


DENSENET = (
    (r'^features\.init_block\.(conv|bn)\.', lambda m: {'conv': 'conv0.', 'bn': 'norm0.'}[m[1]]),
    (r'^features\.stage(\d)\.unit(\d+)\.', r'denseblock\1.denselayer\2.'),
    (r'^features\.stage\d\.trans(\d)\.conv\.', lambda m: f'transition{int(m[1]) - 1}.'),
    (r'^features\.post_activ\.bn\.', 'norm5.'),
    (r'^output\.', 'classifier.'),
)


def _vgg(variant: Variant) -> Renames:
    """Returns the pairs of a network, whose layers are numbered consecutively."""
    layers = 2 if variant.fields.get('batch_norm') else 1  # a convolution, and a norm
    pairs, index = [], 0
    for stage, depth in enumerate(variant.fields['depths'], 1):
        for unit in range(1, depth + 1):
            for i, layer in enumerate(('conv', 'bn')[:layers]):
                name = rf'^features\.stage{stage}\.unit{unit}\.{layer}\.'
                pairs.append((name, f'features.{index + i}.'))
            index += layers + 1  # a rectifier
        index += 1  # a pool
    linear = ((1, 0), (2, 3), (3, 6))
    return (*pairs, *((rf'^output\.fc{i}\.(?:fc\.)?', f'classifier.{n}.') for i, n in linear))


def with_biases(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with a bias of 0 for each convolution without one.

    pytorchcv has the network with biases of its convolutions (named b) and without.
    """
    del variant
    result = dict(tensors)
    for name, value in tensors.items():
        if name.endswith('.conv.weight'):
            bias = name.removesuffix('weight') + 'bias'
            result.setdefault(bias, np.zeros(value.shape[0], value.dtype))
    return result


def _squeezenet(variant: Variant) -> Renames:
    """Returns the pairs of a network, whose modules are numbered consecutively."""
    pairs, index = [(r'^features\.init_block\.conv\.', 'features.0.')], 1
    for stage, modules in enumerate(variant.fields['stages'], 1):
        index += 1  # a max pool
        for unit in range(1, len(modules) + 1):
            index += 1
            name = rf'^features\.stage{stage}\.unit{unit}\.(\w+)\.conv\.'
            pairs.append((name, rf'features.{index}.\1.'))
    return (*pairs, (r'^output\.final_conv\.', 'classifier.1.'))


# pytorchcv's names of networks whose reference is another package, for ImageNet.
FOREIGN = {
    **{f'resnet{d}': f'resnet{d}' for d in (18, 34)},
    **{f'resnet{d}b': f'resnet{d}' for d in (50, 101, 152)},
    'resnetbc26b': 'resnet26',
    'resneta18': 'resnet18d',
    **{f'resneta{d}b': f'resnet{d}d' for d in (50, 101, 152)},
    **{f'resnext{n}': f'resnext{n}' for n in ('50_32x4d', '101_32x4d', '101_64x4d')},
    **{f'seresnet{d}': f'seresnet{d}' for d in (50, 101, 152)},
    **{f'seresnext{d}_32x4d': f'seresnext{d}_32x4d' for d in (50, 101)},
    'senet154': 'senet154',
    'wrn50_2': 'wrn50_2',
    **{f'densenet{d}': f'densenet{d}' for d in (121, 161, 169, 201)},
    **{f'vgg{d}': f'vgg{d}' for d in (11, 13, 16, 19)},
    **{f'bn_vgg{d}{form}': f'vgg{d}_bn' for d in (11, 13, 16, 19) for form in ('', 'b')},
    'squeezenet_v1_0': 'squeezenet1_0',
    'squeezenet_v1_1': 'squeezenet1_1',
    'mobilenet_w1': 'mobilenet_100',
    'shufflenetv2_wd2': 'shufflenetv2_0.5x',
    'shufflenetv2_w1': 'shufflenetv2_1.0x',
    'shufflenetv2b_wd2': 'shufflenetv2_0.5x',
    'mobilenetv2b_w1': 'mobilenetv2_100',
    'mobilenetv3_large_w1': 'mobilenetv3_large_100',
    **{f'mnasnet_{n}': f'mnasnet_{n}' for n in ('a1', 'b1', 'small')},
    **{f'efficientnet_b{n}': f'efficientnet_b{n}' for n in range(8)},
    **{f'efficientnet_b{n}{form}': f'tf_efficientnet_b{n}' for n in range(8) for form in 'bc'},
    'efficientnet_b8c': 'tf_efficientnet_b8',
    'inceptionv3': 'inception_v3',
    'inceptionv4': 'inception_v4',
    'inceptionresnetv2': 'inception_resnet_v2',
    'xception': 'xception',
    **{f'dpn{d}': f'dpn{d}' for d in ('68', '68b', '98', '107', '131')},
    'polynet': 'polynet',
    'nasnet_4a1056': 'nasnet_a_mobile',
    'nasnet_6a4032': 'nasnet_a_large',
    'pnasnet5large': 'pnasnet5_large',
}


def _networks() -> dict[str, str]:
    """Returns name in pytorchcv -> variant, also for further data sets."""
    networks = dict(FOREIGN)
    for name in registry.names():
        package, _, constructor = (registry.variant(name).reference or '').partition(':')
        if package == 'pytorchcv' and constructor.isidentifier():
            networks[constructor] = name
    networks['preresnet1001_cifar10'] = 'preactresnet1001_cifar'
    for constructor, name in [*networks.items()]:
        stem, _, data = constructor.rpartition('_')
        if data == 'cifar10':
            for other in ('cifar100', 'svhn'):
                networks.setdefault(f'{stem}_{other}', name)
        elif data not in ('cifar100', 'svhn'):
            networks[f'{constructor}_cub'] = name
    return networks


_SEGMENTATION = 'a network for segmentation'
_POSE = 'a network for poses or key points'
_OTHER = 'a network of another paper'
MISSING = {
    r'resnetd\d+b': 'ResNet with dilated convolutions',
    r'(ibnb?|bam|cbam)_\w+': 'a residual network with other norms or attention',
    r'(dia|dia(pre)?|share)resnet\w*': 'a residual network with shared modules',
    r'(airne[x]?t|diracnet|resnesta|scneta?|regnet[xy]|tresnet_|octresnet)\w*': _OTHER,
    r'(ror3|shakeshakeresnet|shakedropresnet|resdropresnet)\w*': _OTHER,
    r'wrn20_10_(1|32)bit_\w+': 'WRN with binary weights',
    r'x?densenet40_2_\w+': 'DenseNet with sparse connections',
    r'(sparsenet|peleenet|drn[cd]|darknet|irevnet|bagnet|dla|fishnet|dicenet|hrnet)\w*': _OTHER,
    r'(espnetv2|vovnet|selecsls|hardnet|sqnxt|menet|fbnet|spnasnet|mixnet|ghostnet)\w*': _OTHER,
    r'(alexnet|zfnet|nin_|msdnet|ntsnet|channelnet|isqrtcov|revnet)\w*': _OTHER,
    r'mobilenetb_\w+': 'MobileNet without a norm between its two convolutions',
    r'fdmobilenet_\w+': 'MobileNet with faster downsampling',
    r'efficientnet_edge_\w+': 'EfficientNet-EdgeTPU with strides in its 1x1 convolutions',
    r'bninception': 'BN-Inception without squeeze and excitation',
    r'inceptionresnetv1': 'Inception-ResNet-v1',
    r'(pspnet|deeplabv3|fcn8sd|icnet|fastscnn|sinet|bisenet|danet)_\w+': _SEGMENTATION,
    r'(erfnet|esnet|linknet|sqnet|cgnet|edanet|enet|lednet|espcnet|fpenet)_\w+': _SEGMENTATION,
    r'(alphapose|simplepose|lwopenpose[23]d|ibppose)_\w+': _POSE,
}

FAMILY = Family(
    name='pytorchcv',
    tables=(
        Names(r'resnet(18|26|34|50|101|152)|resnext(50_32x4d|101_32x4d|101_64x4d)', _of(RESIDUAL)),
        Names(r'resnet(18|50|101|152)d', _of(RESNET_D)),
        Names(
            r'seresnet(50|101|152)|seresnext(50|101)_32x4d|senet154',
            _of(SENET),
            fields={'padded': True},
        ),
        Names(r'wrn50_2', _of(RESIDUAL), folded),
        Names(r'densenet(121|161|169|201)', _of(DENSENET)),
        Names(r'vgg(11|13|16|19)', _of(_vgg)),
        Names(r'vgg(11|13|16|19)_bn', _of(_vgg), with_biases),
        Names(r'squeezenet1_[01]', _of(_squeezenet)),
        Names(r'mobilenet_100', _of(mobile.MOBILENET), fields={'clipped': False}),
        Names(
            r'shufflenetv2_(0\.5|1\.0)x', _of(mobile.shufflenetv2_pairs(0)), fields={'ceil': True}
        ),
        Names(r'shufflenetv2_0\.5x', _of(mobile.shufflenetv2_pairs(1))),
        Names(r'(tf_)?efficientnet_b\d', _of(mobile.inverted_pairs)),
        Names(r'mobilenetv2_100', _of(mobile.inverted_pairs), mobile.biased('output')),
        Names(r'mnasnet_(a1|b1|small)', _of(mobile.mnasnet)),
        Names(
            r'mobilenetv3_large_100',
            _of(mobile.mobilenetv3),
            mobile.biased('output.conv1'),
            {'epsilon': 1e-5},
        ),
        Names(r'inception_v3', _of(inception.INCEPTION_V3)),
        Names(r'inception_v4', _of(inception.INCEPTION_V4)),
        Names(r'inception_resnet_v2', _of(inception.INCEPTION_RESNET_V2)),
        Names(r'xception', _of(inception.XCEPTION)),
        Names(r'dpn(68b?|98|107|131)', _of(inception.DPN)),
        Names(r'polynet', _of(inception.POLYNET)),
        Names(r'nasnet_a_(mobile|large)', inception.NASNET),
        Names(r'pnasnet5_large', inception.PNASNET),
    ),
    networks=_networks(),
    missing=MISSING,
)
