"""The names of cnn-finetune 0.6, with networks of torchvision and pretrainedmodels in two parts.

`_features` has the layers in a Sequential, with numbers for names, and `_classifier` the last one.
Before the classifier of DPN is the mean of the whole map, for images of any size. Xception lacks
the rectifiers that pretrainedmodels calls outside its layers, so that it computes something else.
"""

from cls.weights.families import Family, Names, Renames
from cls.weights.families.own_names import numbered
from cls.weights.families.pretrainedmodels import RESNEXT

_PLAIN = (r'^_features\.', 'features.')


def _layers(names: str, classifier: str) -> Renames:
    """Returns renames of numbered layers, '-' for those without tensors, and of the classifier."""
    return (
        numbered(names.split(), r'^_features\.(\d+)\.'),
        (r'^_classifier\.', f'{classifier}.'),
    )


_STAGES = 'layer1 layer2 layer3 layer4'
_DENSENET = ' '.join(
    (
        *('features.conv0 features.norm0 - -', 'features.denseblock1 features.transition1'),
        *('features.denseblock2 features.transition2', 'features.denseblock3 features.transition3'),
        *('features.denseblock4', 'features.norm5'),
    )
)
_INCEPTION_V3 = (
    'Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 - Conv2d_3b_1x1 Conv2d_4a_3x3 - Mixed_5b Mixed_5c '
    'Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c'
)
_INCEPTION_RESNET = (
    'conv2d_1a conv2d_2a conv2d_2b - conv2d_3b conv2d_4a - mixed_5b repeat mixed_6a repeat_1 '
    'mixed_7a repeat_2 block8 conv2d_7b'
)
_GOOGLENET = (
    'conv1 - conv2 conv3 - inception3a inception3b - inception4a inception4b inception4c '
    'inception4d inception4e - inception5a inception5b'
)
_XCEPTION = ' '.join(
    (
        'conv1 bn1 - conv2 bn2',
        *(f'block{number}' for number in range(1, 13)),
        'conv3 bn3 conv4 bn4',
    )
)

FAMILY = Family(
    'cnn-finetune',
    (
        Names(
            r'resnet(18|34|50|101|152)|resnext(50_32x4d|101_32x8d)',
            _layers(f'conv1 bn1 - - {_STAGES}', 'fc'),
        ),
        Names(r'densenet(121|161|169|201)', _layers(_DENSENET, 'classifier')),
        Names(r'vgg(11|13|16|19)(_bn)?', (_PLAIN, (r'^_classifier\.', 'classifier.'))),
        Names(r'squeezenet1_[01]', (_PLAIN, (r'^_classifier\.0\.', 'classifier.1.'))),
        Names(r'mobilenetv2_100', (_PLAIN, (r'^_classifier\.', 'classifier.1.'))),
        Names(r'inception_v3', _layers(_INCEPTION_V3, 'fc')),
        Names(r'googlenet_bn', _layers(_GOOGLENET, 'fc')),
        Names(r'shufflenetv2_(0\.5|1\.0)x', _layers('conv1 - stage2 stage3 stage4 conv5', 'fc')),
        Names(
            r'resnext101_(32|64)x4d',
            (_PLAIN, (r'^_classifier\.', 'last_linear.'), *RESNEXT),
        ),
        Names(r'inception_resnet_v2', _layers(_INCEPTION_RESNET, 'classif')),
        Names(r'inception_v4', (_PLAIN, (r'^_classifier\.', 'last_linear.'))),
        Names(
            r'senet154|seresnet(50|101|152)|seresnext(50|101)_32x4d',
            _layers(f'layer0 {_STAGES}', 'last_linear'),
        ),
        Names(
            r'nasnet_a_(mobile|large)|pnasnet5_large',
            ((r'^_features\.', ''), (r'^_classifier\.', 'last_linear.')),
        ),
        Names(r'polynet', _layers('stem stage_a stage_b stage_c', 'last_linear')),
        Names(r'dpn\d+b?', (_PLAIN, (r'^_classifier\.', 'classifier.'))),
        Names(
            r'xception',
            _layers(_XCEPTION, 'fc'),
            missing='no rectifiers after the norms of the stem and of the last two convolutions',
        ),
    ),
)
