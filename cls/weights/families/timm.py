"""timm's names, for the variants with another reference, and its networks that are not here.

The SE-ResNets of its resnet.py have a padded pooling and the names of its ResNets; the `legacy_`
ones have the authors' names and pooling.
"""

import numpy as np

from cls.models import mobilenetv3
from cls.models.registry import Variant
from cls.weights.families import Family, Names, Renames, Tensors


def _vgg(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors of a VGG with linear layers in place of timm's convolutions."""
    flat = {}
    for name, value in tensors.items():
        if name.endswith(('pre_logits.fc1.weight', 'pre_logits.fc2.weight')):
            value = np.reshape(value, (len(value), -1))
        flat[name] = value
    return flat


VGG: Renames = (
    (r'^pre_logits\.fc1\.', 'classifier.0.'),
    (r'^pre_logits\.fc2\.', 'classifier.3.'),
    (r'^head\.fc\.', 'classifier.6.'),
)
# From the names of timm's SE-ResNets to those of the authors.
SENET: Renames = (
    (r'^(layer0|last_linear)\.', r'authors.\1.'),  # not timm's
    (r'^conv1\.weight$', 'layer0.conv1.weight'),
    *((rf'^conv1\.{3 * i}\.', f'layer0.conv{i + 1}.') for i in range(3)),
    *((rf'^conv1\.{3 * i + 1}\.', f'layer0.bn{i + 1}.') for i in range(2)),
    (r'\.se\.', '.se_module.'),
    (r'^fc\.', 'last_linear.'),
)


def _senet(variant: Variant) -> Renames:
    """Returns renames to the names of a variant's reference; a deep stem has three norms."""
    last = 3 if variant.fields.get('deep') else 1
    return (*SENET, (r'^bn1\.', f'layer0.bn{last}.'), *variant.renames)


def _mobilenetv3(variant: Variant) -> Renames:
    return mobilenetv3.from_timm(variant.fields['genotype'])


# Networks in the files of these systems that other papers added.
MISSING = {
    r'(?!efficientnet_e[sl]_).*_pruned': 'a pruned network of uneven widths',
    r'test_.*': 'a network for tests',
    r'eca(res|_)net.*': 'channel attention by a convolution (ECA)',
    r'resnet(aa|blur)\w+|densenetblur\w+|seresnextaa\w+|efficientnet_blur_\w+': (
        'blurred or averaged strides'
    ),
    r'resnetrs\d+': 'ResNet-RS: a stem without pooling and gated blocks',
    r'resnet\d+_(gn|clip\w*)|\w+_gn': 'group normalization or attention pooling',
    r'skresnet(18|34|50d?)': 'selective kernels on halves of the channels',
    r'(tf_|gc_)?efficientnetv2_\w+|efficientnet_[hx]_\w+': 'fused blocks of later papers',
    r'(tf_)?efficientnet_cc_\w+': 'conditional convolutions',
    r'(tf_)?mixnet_\w+': 'MixNet: depthwise convolutions of several sizes',
    r'tinynet_\w+': 'TinyNet: other coefficients',
    r'(fbnet|spnasnet|lcnet|hardcorenas|mobilenet_edgetpu|mobilenetv4)_?\w+': (
        'a network of another paper'
    ),
    r'(ig_)?resnext101_32x48d(_wsl)?': 'a ResNeXt of 829 million parameters',
    r'mobilenetv3_rw': 'an early MobileNetV3 with other gates',
}
FAMILY = Family(
    'timm',
    tables=(
        Names(r'vgg(11|13|16|19)(_bn)?', VGG, _vgg),
        Names(r'senet154|seresnext(50|101)_32x4d', _senet, fields={'padded': True}),
        Names(r'seresnet(18|34|50b|101b|152b)|seresnext101_64x4d', _senet),
        Names(r'mobilenetv3_(large|small)_100', _mobilenetv3, fields={'epsilon': 1e-5}),
    ),
    networks={
        **{
            f'vgg{depth}{bn}': f'vgg{depth}{bn}' for depth in (11, 13, 16, 19) for bn in ('', '_bn')
        },
        **{name: name for name in ('senet154', 'seresnext50_32x4d', 'seresnext101_32x4d')},
        **{f'mobilenetv3_{size}_100': f'mobilenetv3_{size}_100' for size in ('large', 'small')},
        **{f'seresnet{depth}': f'seresnet{depth}b' for depth in (50, 101, 152)},
        # Pruned weights of these are zeros.
        **{f'efficientnet_{size}_pruned': f'efficientnet_{size}' for size in ('es', 'el')},
        'wide_resnet50_2': 'wrn50_2',
        'wide_resnet101_2': 'wrn101_2',
        'nasnetalarge': 'nasnet_a_large_zeros',
    },
    missing=MISSING,
)
