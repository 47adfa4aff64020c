"""The preparation of images that a package uses, for weights that its published ones do not cover.

Sources: the preprocessing of Keras Applications by module, of TF-Slim (preprocessing_factory.py),
of the TPU models (imagenet_input.py, inception_preprocessing.py), of ShuffleNet's authors
(ToBGRTensor) and IGCV3's (common/data.py), and of Caffe's networks (`mean_value` in their
.prototxt; ResNet subtracts an image of about these means).
"""

import re

from cls.weights.published import Published

_HALF = (0.5,) * 3, (0.5,) * 3
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ONE = (round(1 / 255, 9),) * 3  # the deviation of pixels that are not scaled
_PIXELS = (0.0,) * 3, _ONE
_VGG = tuple(round(x / 255, 8) for x in (123.68, 116.779, 103.939)), _ONE
_ROUNDED = tuple(round(x / 255, 8) for x in (123, 117, 104)), _ONE
_LITE = tuple(round(x / 255, 8) for x in (127,) * 3), tuple(round(x / 255, 8) for x in (128,) * 3)
# (package, regular expression over variants, (mean, deviation) of RGB in 0..1, order of colors)
_TABLE = (
    ('caffe', 'vgg.*|resnet.*', _VGG, 'BGR'),
    ('caffe', '.*', _ROUNDED, 'BGR'),
    ('keras', 'vgg.*|resnet.*', _VGG, 'BGR'),
    ('keras', 'densenet.*|tf_efficientnet.*', _IMAGENET, ''),
    ('keras', '.*', _HALF, ''),
    ('tf-slim', 'vgg.*', _VGG, ''),
    ('tf-slim', '.*', _HALF, ''),
    ('tpu', 'tf_efficientnet_lite.*', _LITE, ''),
    ('tpu', 'amoebanet.*', _HALF, ''),
    ('tpu', '.*', _IMAGENET, ''),
    ('authors', 'shufflenetv2.*', _PIXELS, 'BGR'),
    ('authors', 'igcv3.*', _VGG, ''),
)


def row(package: str, variant: str) -> Published | None:
    """Returns the usual preparation as a row without weights, None for other packages."""
    for name, pattern, (mean, std), space in _TABLE:
        if name == package and re.fullmatch(pattern, variant):
            texts = dict.fromkeys(('name', 'tag', 'source', 'file', 'hash', 'interpolation'), '')
            numbers = dict.fromkeys(('classes', 'size', 'resize', 'test_size', 'test_resize'), 0)
            named = {'variant': variant, 'package': package, 'space': space, 'license': ''}
            pixels = {'mean': mean, 'std': std, 'top1': None, 'default': False}
            return Published(**named, **texts, **numbers, **pixels)
    return None
