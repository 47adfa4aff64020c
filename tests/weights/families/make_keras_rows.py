"""Writes keras.npz here: logits of Keras Applications, see make_rows.py.

    python tests/weights/families/make_keras_rows.py              # all rows
    python tests/weights/families/make_keras_rows.py 'mobile*'    # some rows

Needs keras and tensorflow. Tensors have the names that cls.weights.keras gives them, LAYER.weight
for LAYER/kernel, and its axes; values are drawn from these names.
"""

import fnmatch
import os
import sys
from pathlib import Path

import numpy as np

os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / 'golden'))
import keras  # noqa: E402
import keyed  # noqa: E402
import rows  # noqa: E402

CLASSES = 10
GAINS = (1.0, 1.2, 1.5, 1.8, 2.0, 2.3, 2.6, 0.7, 0.5)
# Variant -> (network of Keras Applications, its arguments, side of the images).
NETWORKS = {
    'vgg16': ('VGG16', {}, 224),
    'resnet50_v1': ('ResNet50', {}, 47),
    'resnet50_v1 of keras_applications': ('', {}, 64),
    'resnet101_v1': ('ResNet101', {}, 47),
    'densenet121': ('DenseNet121', {}, 47),
    'densenet169': ('DenseNet169', {}, 47),
    'xception': ('Xception', {}, 74),
    'inception_v3': ('InceptionV3', {}, 75),
    'inception_resnet_v2': ('InceptionResNetV2', {}, 75),
    'mobilenet_100_tf': ('MobileNet', {}, 64),
    'mobilenet_025_tf': ('MobileNet', {'alpha': 0.25}, 64),
    'mobilenetv2_100_tf': ('MobileNetV2', {}, 47),
    'mobilenetv2_140': ('MobileNetV2', {'alpha': 1.4}, 48),
    'mobilenetv2_035': ('MobileNetV2', {'alpha': 0.35}, 48),
    'mobilenetv3_large_100': ('MobileNetV3Large', {}, 48),
    'mobilenetv3_small_100': ('MobileNetV3Small', {}, 48),
    'mobilenetv3_small_minimal_100': ('MobileNetV3Small', {'minimalistic': True}, 48),
    'nasnet_a_mobile': ('NASNetMobile', {}, 47),
    'tf_efficientnet_b0': ('EfficientNetB0', {}, 48),
    'tf_efficientnet_b1': ('EfficientNetB1', {}, 47),
}
_LEAVES = {
    'kernel': 'weight',
    'depthwise_kernel': 'weight',
    'pointwise_kernel': 'pointwise.weight',
    'gamma': 'weight',
    'beta': 'bias',
    'bias': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
}


def named(variable):
    """Returns the name and shape of a variable in torch's form, and the way back to its axes."""
    *_, layer, leaf = variable.path.split('/')  # without the scopes of NASNet
    shape = tuple(variable.shape)
    name = f'{layer}.{_LEAVES[leaf]}'
    if len(shape) == 1:
        return name, shape, lambda value: value
    if len(shape) == 2:
        return name, shape[::-1], lambda value: value.T
    height, width, inputs, outputs = shape
    depthwise = leaf == 'depthwise_kernel' or (outputs == 1 < inputs and height > 1)
    if depthwise:
        own = (inputs * outputs, 1, height, width)
        return name, own, lambda value: value.transpose(2, 3, 1, 0).reshape(shape)
    return name, (outputs, inputs, height, width), lambda value: value.transpose(2, 3, 1, 0)


def old_resnet(**options):
    """Returns the ResNet-50 of keras-applications 1.0.8, on the layers of Keras 3."""
    from keras_applications import resnet50

    modules = {name: getattr(keras, name) for name in ('backend', 'layers', 'models', 'utils')}
    network = resnet50.ResNet50(**options, **modules)
    network.layers[-1].activation = lambda logits: logits
    return network


def make_row(variant):
    function, options, size = NETWORKS[variant]
    keras.utils.clear_session()
    options = {'weights': None, 'classes': CLASSES, 'input_shape': (size, size, 3), **options}
    if function:
        build = getattr(keras.applications, function)
        network = build(classifier_activation=None, **options)
    else:
        network = old_resnet(**options)
    variables = [v for v in network.weights if not v.path.startswith('normalization')]
    forms = [named(variable) for variable in variables]
    tensors = {name: shape for name, shape, _ in forms}
    assert len(tensors) == len(forms)
    images = keyed.images(2, size)
    if function.startswith('EfficientNet'):
        given = images * 255  # its first layer divides
    elif function.startswith('MobileNetV3'):
        given = (images + 1) * 127.5
    else:
        given = images
    for gain in GAINS:
        for variable, (name, shape, back) in zip(variables, forms, strict=True):
            variable.assign(np.ascontiguousarray(back(keyed.make(name, shape, gain))))
        logits = np.asarray(network(given, training=False))
        spread = logits.std(axis=1).mean()
        contrast = np.abs(logits[0] - logits[1]).max() / spread
        if contrast > 0.4 and np.isfinite(logits).all():
            print(f'{variant}: gain {gain}, spread {spread:.3g}, contrast {contrast:.2f}')
            count = sum(int(np.prod(v.shape)) for v in network.trainable_weights)
            made_with = f'keras {keras.__version__}'
            return rows.Row(
                tensors=tensors,
                params=count,
                gain=gain,
                count=2,
                size=size,
                channels=3,
                made_with=made_with,
                logits=logits.astype(np.float32),
                fields={},
            )
    raise RuntimeError(f'{variant}: the logits do not differ under any gain')


def main(pattern='*'):
    file = '../weights/families/keras'
    result = {name: row for name, row in rows.read(file).items() if name in NETWORKS}
    for variant in NETWORKS:
        if fnmatch.fnmatchcase(variant, pattern):
            result[variant] = make_row(variant)
            rows.write(file, result)


if __name__ == '__main__':
    main(*sys.argv[1:])
