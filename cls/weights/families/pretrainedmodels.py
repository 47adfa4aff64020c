"""The names of pretrainedmodels 0.7.4 (github.com/Cadene/pretrained-models.pytorch).

The package's own networks (SENet, NASNet, PolyNet, Inception-v4) gave several variants their names.
Its networks of torchvision have another classifier, `last_linear`. ResNeXt was converted from Lua,
with numbers for names. FB-ResNet has biases before its norms. A pool of fixed size averages the
whole map for images of the size in training, and so does the mean here for any size; of larger
images, DPN averages more than the mean of the pools.
"""

import re
from typing import Any

import numpy as np

from cls.models.registry import Variant
from cls.weights.families import Family, Names, Tensors
from cls.weights.families.own_names import ours

_LINEAR = r'^last_linear\.'
# A block is Sequential(Sum(Sequential(Sequential(conv1 ... bn2), conv3, bn3), shortcut), ReLU).
_BLOCK = {'0': 'conv1', '1': 'bn1', '3': 'conv2', '4': 'bn2'}
RESNEXT = (
    (r'^features\.0\.', 'conv1.'),
    (r'^features\.1\.', 'bn1.'),
    (r'^features\.(\d)\.(\d+)\.', lambda match: f'layer{int(match[1]) - 3}.{match[2]}.'),
    (r'^(layer\d\.\d+)\.0\.0\.0\.(\d)\.', lambda match: f'{match[1]}.{_BLOCK[match[2]]}.'),
    (r'^(layer\d\.\d+)\.0\.0\.1\.', r'\1.conv3.'),
    (r'^(layer\d\.\d+)\.0\.0\.2\.', r'\1.bn3.'),
    (r'^(layer\d\.\d+)\.0\.1\.', r'\1.downsample.'),
    (_LINEAR, 'fc.'),
)


def without_biases(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with the biases of convolutions subtracted from the means of their norms.

    The norm of `conv1` is `bn1`, that of `downsample.0` is `downsample.1`.
    """
    del variant
    result = dict(tensors)
    for name in tensors:
        norm = re.sub(r'\bconv(\d)\.bias$', r'bn\1.running_mean', name)
        norm = re.sub(r'\bdownsample\.0\.bias$', 'downsample.1.running_mean', norm)
        if norm != name and norm in tensors:
            mean, bias = (tensors[key].astype(np.float32) for key in (norm, name))
            result[norm] = mean - bias
            del result[name]
    return result


def _classifier(variants: str, name: str, **more: Any) -> Names:
    """Returns the table of variants whose classifier alone has another name."""
    return Names(variants, ((_LINEAR, f'{name}.'),), **more)


FAMILY = Family(
    'pretrainedmodels',
    (
        # FB-ResNet-152 is the only ResNet with biases before its norms.
        _classifier(r'resnet(18|34|50|101|152)', 'fc', tensors=without_biases),
        # Caffe's ResNet-101, with the names of ResNet-101.
        Names(r'resnet101_v1', ours((_LINEAR, 'fc.')), fields={'ceil_pool': True}),
        _classifier(r'xception|inception_v3', 'fc'),
        _classifier(r'densenet(121|161|169|201)|dpn\d+b?', 'classifier'),
        _classifier(r'inception_resnet_v2', 'classif'),
        Names(r'resnext101_(32|64)x4d', RESNEXT),
        Names(r'squeezenet1_[01]', ((r'^last_conv\.', 'classifier.1.'),)),
        Names(
            r'vgg\d+(_bn)?',
            (
                (r'^_features\.', 'features.'),
                (r'^linear0\.', 'classifier.0.'),
                (r'^linear1\.', 'classifier.3.'),
                (_LINEAR, 'classifier.6.'),
            ),
        ),
        Names(
            r'inception_v4|nasnet_a_(mobile|large)|polynet|senet154|seresnet\d+|'
            r'seresnext\d+_32x4d|pnasnet5_large'
        ),
    ),
    networks={
        **{f'resnet{depth}': f'resnet{depth}' for depth in (18, 34, 50, 101, 152)},
        'cafferesnet101': 'resnet101_v1',
        'fbresnet152': 'resnet152',
        'inceptionv3': 'inception_v3',
        'inceptionv4': 'inception_v4',
        'inceptionresnetv2': 'inception_resnet_v2',
        'nasnetamobile': 'nasnet_a_mobile',
        'nasnetalarge': 'nasnet_a_large',
        'pnasnet5large': 'pnasnet5_large',
        **{f'se_resnet{depth}': f'seresnet{depth}' for depth in (50, 101, 152)},
        **{f'se_resnext{depth}_32x4d': f'seresnext{depth}_32x4d' for depth in (50, 101)},
    },
    missing={
        r'alexnet': 'AlexNet',
        r'bninception': 'BN-Inception without squeeze and excitation',
    },
)
