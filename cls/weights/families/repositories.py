"""The names in public PyTorch repositories that are not the authors'.

  WRN           xternalz/WideResNet-pytorch, bearpaw/pytorch-classification, RobustBench
  ResNeXt       prlz77/ResNeXt.pytorch and bearpaw/pytorch-classification, for CIFAR
  DenseNet-BC   bearpaw/pytorch-classification, for CIFAR
  ResNet        akamaster/pytorch_resnet_cifar10, whose names are those of the variants
  MobileNetV2   d-li14/mobilenetv2.pytorch; tonylins/pytorch-mobilenet-v2 at width 1
  MobileNetV3   d-li14/mobilenetv3.pytorch, whose gates precede the activation
  SE-ResNet     moskomule/senet.pytorch, without biases in the gates

Networks of kuangliu/pytorch-cifar, weiaicunzai/pytorch-cifar100 and chenyaofo/pytorch-cifar-models
are those of ImageNet with other strides, channels or shortcuts, for CIFAR, and are not here.
"""

import re

import numpy as np

from cls.models import mobilenetv2
from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.own_names import ours, unit_names

_WRN = (
    unit_names(r'^block(\d)\.layer\.(\d+)\.'),
    (r'\.bn([12])\.', r'.conv\1.bn.'),
    (r'\.conv([12])\.(?=weight)', r'.conv\1.conv.'),
    (r'\.convShortcut\.', '.identity_conv.'),
    (r'^bn1\.', 'post_activ.'),
    (r'^fc\.', 'output.'),
)
_RESNEXT = (
    (r'^conv_1_3x3\.', 'conv1.'),
    (r'^bn_1\.', 'bn1.'),
    (r'^stage_(\d)\.stage_\d_bottleneck_(\d+)\.', r'layer\1.\2.'),
    (r'\.bn\.', '.bn2.'),
    (r'\.(conv|bn)_reduce\.', r'.\g<1>1.'),
    (r'\.conv_conv\.', '.conv2.'),
    (r'\.(conv|bn)_expand\.', r'.\g<1>3.'),
    (r'\.shortcut\.shortcut_conv\.', '.downsample.0.'),
    (r'\.shortcut\.shortcut_bn\.', '.downsample.1.'),
    (r'^classifier\.', 'fc.'),
)
_DENSENET = (
    (r'^conv1\.', 'conv0.'),
    (r'^bn\.', 'norm5.'),
    (r'^fc\.', 'classifier.'),
    (r'^dense(\d)\.(\d+)\.', lambda m: f'denseblock{m[1]}.denselayer{int(m[2]) + 1}.'),
    (r'^trans(\d)\.bn1\.', r'transition\1.bn.'),
    (r'^trans(\d)\.conv1\.', r'transition\1.conv.'),
    (r'(?<=\d)\.bn([12])\.', r'.conv\1.bn.'),
    (r'(?<=\d)\.conv([12])\.(?=weight)', r'.conv\1.conv.'),
)
_SERESNET = (
    (r'^(conv|bn)1\.', r'layer0.\g<1>1.'),
    (r'\.se\.fc\.0\.', '.se_module.fc1.'),
    (r'\.se\.fc\.2\.', '.se_module.fc2.'),
    (r'^fc\.', 'last_linear.'),
)
# The layers of a block after its number, of blocks that expand and of those that do not.
_EXPANDED = {'0': 'conv_pw', '1': 'bn1', '3': 'conv_dw', '4': 'bn2'}
_PLAIN = {'0': 'conv_dw', '1': 'bn2'}
_V2 = {**_EXPANDED, '6': 'conv_pwl', '7': 'bn3'}, {**_PLAIN, '3': 'conv_pwl', '4': 'bn3'}
_V3 = (
    {
        **_EXPANDED,
        '5.fc.0': 'se.conv_reduce',
        '5.fc.2': 'se.conv_expand',
        '7': 'conv_pwl',
        '8': 'bn3',
    },
    {**_PLAIN, '3.fc.0': 'se.conv_reduce', '3.fc.2': 'se.conv_expand', '4': 'conv_pwl', '5': 'bn3'},
)


def _layers(runs: list, layers: tuple[dict[str, str], dict[str, str]]) -> tuple:
    """Returns the pair for layers of blocks in Sequentials, 'features.N.conv.L'."""
    blocks = inverted.blocks(runs)

    def name(match: re.Match) -> str:
        number = int(match[1])
        if not 1 <= number <= len(blocks):
            return match[0]
        block, run = blocks[number - 1]
        layer = layers[run.expansion == 1].get(match[2])
        return f'{block}.{layer}.' if layer else match[0]

    return r'^features\.(\d+)\.conv\.(\d(?:\.fc\.\d)?)\.', name


_MOBILENET_V2 = (
    _layers(inverted.scaled(mobilenetv2.TABLE_2), _V2),
    (r'^features\.0\.0\.', 'conv_stem.'),
    (r'^features\.0\.1\.', 'bn1.'),
    (r'^(?:features\.18|conv)\.0\.', 'conv_head.'),
    (r'^(?:features\.18|conv)\.1\.', 'bn2.'),
)


def _mobilenet_v3(variant: Variant) -> Renames:
    runs = inverted.scaled(variant.fields['genotype'])
    last = f'blocks.{len(runs)}.0'
    return (
        _layers(runs, _V3),
        (r'^features\.0\.0\.', 'conv_stem.'),
        (r'^features\.0\.1\.', 'bn1.'),
        (r'^conv\.0\.', f'{last}.conv.'),
        (r'^conv\.1\.', f'{last}.bn1.'),
        (r'^classifier\.0\.', 'conv_head.'),
        (r'^classifier\.3\.', 'classifier.'),
        *variant.renames,
    )


def _gates(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with 1x1 convolutions for the linear layers of the gates.

    Biases that gates lack are zeros.
    """
    del variant
    result = dict(tensors)
    for name, value in tensors.items():
        if re.search(r'\.fc\.[02]\.weight$', name) and value.ndim == 2:
            result[name] = value[:, :, None, None]
            bias = f'{name.removesuffix("weight")}bias'
            result.setdefault(bias, np.zeros(len(value), value.dtype))
    return result


_OTHER_STRIDES = 'strides and channels for CIFAR'
FAMILY = Family(
    'repositories',
    (
        Names(r'wrn\d+_\d+_cifar', ours(*_WRN)),
        Names(r'resnext29_(8|16)x64d_cifar', ours(*_RESNEXT)),
        Names(r'densenet\d+_k\d+_bc_cifar', ours(*_DENSENET)),
        Names(r'resnet(20|32|44|56|110|1202)_cifar'),
        Names(r'mobilenetv2_(100|140|075|050|035)', ours(*_MOBILENET_V2)),
        Names(
            r'mobilenetv3_(large|small)_(100|075)',
            _mobilenet_v3,
            tensors=_gates,
            fields={'gate_first': True, 'epsilon': 1e-5},
        ),
        Names(r'seresnet(18|34|50b|101b|152b)', ours(*_SERESNET), tensors=_gates),
    ),
    missing={
        r'kuangliu/.*|weiaicunzai/.*': _OTHER_STRIDES,
        r'chenyaofo/\w+_(mobilenetv2|shufflenetv2|vgg)\w*': _OTHER_STRIDES,
        r'(chenyaofo|bearpaw)/(\w+_)?resnet\d+': 'projections in the shortcuts (option B)',
        r'bearpaw/preresnet\d+': 'projections of inputs that are not normalized',
        r'bearpaw/vgg\w+': 'one linear layer',
        r'tonylins/.*(0\.5|0\.75|1\.4)': 'channels rounded up, and a stem of 32',
        r'moskomule/se_resnet(20|32|56)': 'projections in the shortcuts (option B) for CIFAR',
    },
)
