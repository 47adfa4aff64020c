"""The names of Hugging Face transformers 5.24: ResNet, EfficientNet, MobileNetV1 and V2.

Its EfficientNet was converted from Keras and pads an image of the network's own size as TensorFlow
does; so do the MobileNets, whose files have 1,001 classes: class 0 is the background, and stays.
ResNet has the stride in the 3x3 convolution; `downsample_in_bottleneck` of a config.json moves it
to the first, as in `resnet50_v1`. Checkpoints of TimmWrapper have timm's names after
`timm_model.`.
"""

from cls.models import efficientnet, mobilenet, mobilenetv2
from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Renames
from cls.weights.families.own_names import block_names, numbered, ours

_RESNET = (
    (r'^(?:resnet\.)?embedder\.embedder\.convolution\.', 'conv1.'),
    (r'^(?:resnet\.)?embedder\.embedder\.normalization\.', 'bn1.'),
    (
        r'^(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\.',
        lambda match: f'layer{int(match[1]) + 1}.{match[2]}.',
    ),
    (r'\.shortcut\.convolution\.', '.downsample.0.'),
    (r'\.shortcut\.normalization\.', '.downsample.1.'),
    (r'\.layer\.(\d)\.convolution\.', lambda match: f'.conv{int(match[1]) + 1}.'),
    (r'\.layer\.(\d)\.normalization\.', lambda match: f'.bn{int(match[1]) + 1}.'),
    (r'^classifier\.1\.', 'fc.'),
)
_EFFICIENTNET = (
    (r'^(?:efficientnet\.)?embeddings\.convolution\.', 'conv_stem.'),
    (r'^(?:efficientnet\.)?embeddings\.batchnorm\.', 'bn1.'),
    (r'^(?:efficientnet\.)?encoder\.top_conv\.', 'conv_head.'),
    (r'^(?:efficientnet\.)?encoder\.top_bn\.', 'bn2.'),
    (r'\.expansion\.expand_conv\.', '.conv_pw.'),
    (r'\.expansion\.expand_bn\.', '.bn1.'),
    (r'\.depthwise_conv\.depthwise_conv\.', '.conv_dw.'),
    (r'\.depthwise_conv\.depthwise_norm\.', '.bn2.'),
    (r'\.squeeze_excite\.(reduce|expand)\.', r'.se.conv_\1.'),
    (r'\.projection\.project_conv\.', '.conv_pwl.'),
    (r'\.projection\.project_bn\.', '.bn3.'),
)
_MOBILENET_V1 = (
    (r'^(?:mobilenet_v1\.)?conv_stem\.convolution\.', 'conv_stem.'),
    (r'^(?:mobilenet_v1\.)?conv_stem\.normalization\.', 'bn1.'),
    numbered(
        [
            f'blocks.{stage}.{block}.{part}'
            for stage, block in mobilenet.BLOCKS
            for part in ('depthwise', 'pointwise')
        ],
        r'^(?:mobilenet_v1\.)?layer\.(\d+)\.',
    ),
    (r'\.depthwise\.convolution\.', '.conv_dw.'),
    (r'\.depthwise\.normalization\.', '.bn1.'),
    (r'\.pointwise\.convolution\.', '.conv_pw.'),
    (r'\.pointwise\.normalization\.', '.bn2.'),
)
_MOBILENET_V2 = (
    (r'^(?:mobilenet_v2\.)?conv_stem\.first_conv\.convolution\.', 'conv_stem.'),
    (r'^(?:mobilenet_v2\.)?conv_stem\.first_conv\.normalization\.', 'bn1.'),
    (r'^(?:mobilenet_v2\.)?conv_1x1\.convolution\.', 'conv_head.'),
    (r'^(?:mobilenet_v2\.)?conv_1x1\.normalization\.', 'bn2.'),
    (r'^(?:mobilenet_v2\.)?conv_stem\.(?=conv_3x3|reduce_1x1)', 'blocks.0.0.'),
    numbered(
        block_names(inverted.scaled(mobilenetv2.TABLE_2))[1:],
        r'^(?:mobilenet_v2\.)?layer\.(\d+)\.',
    ),
    *(
        (rf'\.{theirs}\.{kind}\.', f'.{name}.')
        for theirs, names in (
            ('expand_1x1', ('conv_pw', 'bn1')),
            ('conv_3x3', ('conv_dw', 'bn2')),
            ('reduce_1x1', ('conv_pwl', 'bn3')),
        )
        for kind, name in zip(('convolution', 'normalization'), names, strict=True)
    ),
)
TENSORFLOW = {'padding': 'SAME', 'epsilon': 1e-3}


def _efficientnet(variant: Variant) -> Renames:
    fields = variant.fields
    runs = efficientnet.scaled(fields['genotype'], fields['width'], fields['depth'], lite=False)
    numbers = numbered(block_names(runs), r'^(?:efficientnet\.)?encoder\.blocks\.(\d+)\.')
    return (numbers, *_EFFICIENTNET, *variant.renames)


FAMILY = Family(
    'transformers',
    (
        Names(r'resnet(18|34)|resnet(50|101|152)(_v1)?', ours(*_RESNET)),
        Names(r'tf_efficientnet_b[0-7]', _efficientnet),
        Names(r'mobilenet_\d+_tf', ours(*_MOBILENET_V1)),
        Names(r'mobilenetv2_100_tf', ours(*_MOBILENET_V2)),
        Names(r'mobilenetv2_(140|075|050|035)', ours(*_MOBILENET_V2), fields=TENSORFLOW),
    ),
    networks={
        **{f'resnet-{depth}': f'resnet{depth}' for depth in (18, 34, 50, 101, 152)},
        **{f'efficientnet-b{i}': f'tf_efficientnet_b{i}' for i in range(8)},
        'mobilenet_v1_1.0': 'mobilenet_100_tf',
        'mobilenet_v1_0.75': 'mobilenet_075_tf',
        'mobilenet_v1_0.5': 'mobilenet_050_tf',
        'mobilenet_v1_0.25': 'mobilenet_025_tf',
        'mobilenet_v2_1.0': 'mobilenetv2_100_tf',
        'mobilenet_v2_1.4': 'mobilenetv2_140',
        'mobilenet_v2_0.75': 'mobilenetv2_075',
        'mobilenet_v2_0.5': 'mobilenetv2_050',
        'mobilenet_v2_0.35': 'mobilenetv2_035',
    },
    missing={r'resnet-26': 'a bottleneck ResNet of 26 layers', r'mobilenet_v2_1\.3': 'width 1.3'},
)
