"""torchvision's names, for the variants with another reference.

MnasNet and EfficientNet have a sequence without names. Its EfficientNets pad symmetrically, as
those of timm without `tf_`; B5 to B7 keep TensorFlow's epsilon.
"""

import re

from cls.weights.families import Family, Names, Renames
from cls.weights.families.own_names import ours


def _efficientnet_block(match: re.Match[str]) -> str:
    """Returns timm's name of a block; torchvision counts the stem as the first stage."""
    return f'blocks.{int(match[1]) - 1}.{match[2]}.'


def _mnasnet_block(match: re.Match[str]) -> str:
    """Returns timm's name of a block; seven layers precede the second stage."""
    return f'blocks.{int(match[1]) - 7}.{match[2]}.'


def _layers(*names: str) -> Renames:
    """Returns renames of the numbered layers of a block, 'NUMBER NAME' each."""
    pairs = (name.split() for name in names)
    return tuple(
        (rf'^(blocks\.\d+\.\d+)\.{re.escape(number)}\.', rf'\1.{name}.') for number, name in pairs
    )


_FIRST = r'^features\.1\.(\d+)\.block\.'  # blocks without expansion
EFFICIENTNET: Renames = (
    (r'^features\.0\.0\.', 'conv_stem.'),
    (r'^features\.0\.1\.', 'bn1.'),
    (r'^features\.8\.0\.', 'conv_head.'),
    (r'^features\.8\.1\.', 'bn2.'),
    (r'^classifier\.1\.', 'classifier.'),
    (rf'{_FIRST}0\.0\.', r'blocks.0.\1.conv_dw.'),
    (rf'{_FIRST}0\.1\.', r'blocks.0.\1.bn1.'),
    (rf'{_FIRST}1\.', r'blocks.0.\1.block.2.'),
    (rf'{_FIRST}2\.0\.', r'blocks.0.\1.conv_pw.'),
    (rf'{_FIRST}2\.1\.', r'blocks.0.\1.bn2.'),
    (r'^features\.(\d)\.(\d+)\.(?=block\.)', _efficientnet_block),
    *_layers('block.0.0 conv_pw', 'block.0.1 bn1', 'block.1.0 conv_dw', 'block.1.1 bn2'),
    *_layers('block.2.fc1 se.conv_reduce', 'block.2.fc2 se.conv_expand'),
    *_layers('block.3.0 conv_pwl', 'block.3.1 bn3'),
)
MNASNET: Renames = (
    (r'^layers\.0\.', 'conv_stem.'),
    (r'^layers\.1\.', 'bn1.'),
    (r'^layers\.3\.', 'blocks.0.0.conv_dw.'),
    (r'^layers\.4\.', 'blocks.0.0.bn1.'),
    (r'^layers\.6\.', 'blocks.0.0.conv_pw.'),
    (r'^layers\.7\.', 'blocks.0.0.bn2.'),
    (r'^layers\.14\.', 'conv_head.'),
    (r'^layers\.15\.', 'bn2.'),
    (r'^classifier\.1\.', 'classifier.'),
    (r'^layers\.(\d+)\.(\d+)\.(?=layers\.)', _mnasnet_block),
    *_layers('layers.0 conv_pw', 'layers.1 bn1', 'layers.3 conv_dw', 'layers.4 bn2'),
    *_layers('layers.6 conv_pwl', 'layers.7 bn3'),
)
# Detectors and segmenters have `features` alone, as `backbone` or `backbone.body`.
_BODY = (r'^(\d+)\.', r'features.\1.')
# ssd300_vgg16 has the last three convolutions in another module.
_SSD = (r'^extra\.0\.([135])\.', lambda match: f'features.{23 + int(match[1])}.')
FAMILY = Family(
    'torchvision',
    tables=(
        Names('efficientnet_b[0-4]', EFFICIENTNET),
        Names('efficientnet_b[5-7]', EFFICIENTNET, fields={'bn_epsilon': 1e-3}),
        Names('mnasnet_b1_(050|075)', MNASNET),
        Names('mobilenetv2_100|squeezenet1_[01]|mobilenetv3_(large|small)_100', (_BODY,)),
        Names(r'vgg\d+(_bn)?', (_BODY,)),
        Names('vgg16', (_SSD,)),
        Names('densenet(121|161|169|201)', ours()),  # the renames add `features` alone
        Names('efficientnet_b[0-4]', (_BODY, *EFFICIENTNET)),
        Names('efficientnet_b[5-7]', (_BODY, *EFFICIENTNET), fields={'bn_epsilon': 1e-3}),
    ),
    networks={
        **{f'efficientnet_b{i}': f'efficientnet_b{i}' for i in range(8)},
        'mnasnet0_5': 'mnasnet_b1_050',
        'mnasnet0_75': 'mnasnet_b1_075',
        'mnasnet1_0': 'mnasnet_b1',
        'mnasnet1_3': 'mnasnet_b1_130',
        'wide_resnet50_2': 'wrn50_2',
        'wide_resnet101_2': 'wrn101_2',
    },
    missing={
        'efficientnet_v2_[sml]': 'EfficientNetV2: fused blocks of another paper',
    },
)
