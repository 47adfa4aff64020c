"""Writes the rows of three packages for Keras 2 here: <package>.npz, as in make_rows.py.

    python tests/weights/families/make_keras_2_rows.py                       # all packages
    python tests/weights/families/make_keras_2_rows.py keras_applications    # one

Needs tensorflow, tf_keras, keras-applications 1.0.8, image-classifiers 1.0.0 and
keras-efficientnets 0.1.7, the last three by `pip install --no-deps`. Tensors have names and axes as
in make_keras_rows.py.
"""

import importlib.metadata
import os
import sys
import types
from pathlib import Path

import numpy as np

os.environ |= {'TF_CPP_MIN_LOG_LEVEL': '3', 'TF_USE_LEGACY_KERAS': '1'}
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / 'golden')]
import keyed  # noqa: E402
import rows  # noqa: E402
import tf_keras as keras  # noqa: E402
from make_keras_rows import CLASSES, GAINS, named  # noqa: E402
from tf_keras.src.utils.layer_utils import get_source_inputs  # noqa: E402

# The packages import Keras 2, and two names that its last releases have elsewhere.
keras.utils.get_source_inputs = get_source_inputs
MODULES = {name: getattr(keras, name) for name in ('backend', 'layers', 'models', 'utils')}
sys.modules |= {f'keras.{name}': module for name, module in MODULES.items()} | {
    'keras': keras,
    'keras.initializers': keras.initializers,
    'keras.utils.generic_utils': types.SimpleNamespace(
        get_custom_objects=keras.utils.get_custom_objects
    ),
}
SIZE = 75


def senet(name):
    """Returns a network of image-classifiers."""
    from classification_models.models import senet as module

    fields = {'input_shape': (SIZE, SIZE, 3), 'classes': CLASSES, 'weights': None}
    return before_last(module.SENet(module.MODELS_PARAMS[name], **fields, **MODULES))


def resnext(name):
    """Returns a network of keras-applications."""
    from keras_applications import resnext

    fields = {'input_shape': (SIZE, SIZE, 3), 'classes': CLASSES, 'weights': None}
    network = getattr(resnext, name)(**fields, **MODULES)
    network.layers[-1].activation = keras.activations.linear
    return network


def before_last(network):
    """Returns a network without its last layer, a softmax."""
    return keras.Model(network.inputs, network.layers[-2].output)


def efficientnet(name):
    """Returns a network of keras-efficientnets."""
    import keras_efficientnets

    build = getattr(keras_efficientnets, name)
    return before_last(build(input_shape=(SIZE, SIZE, 3), classes=CLASSES, weights=None))


# Package -> variant -> (builder, the package's name).
NETWORKS = {
    'image_classifiers': {
        'seresnet50': (senet, 'seresnet50'),
        'seresnext50_32x4d': (senet, 'seresnext50'),
    },
    'keras_applications': {'resnext50_32x4d': (resnext, 'ResNeXt50')},
    'keras_efficientnets': {
        'tf_efficientnet_b0': (efficientnet, 'EfficientNetB0'),
        'tf_efficientnet_b1': (efficientnet, 'EfficientNetB1'),
    },
}


def make_row(package, build, name):
    """Returns a row of a network."""
    keras.backend.clear_session()
    network = build(name)
    weights = [(layer, weight) for layer in network.layers for weight in layer.weights]
    paths = [f'{layer.name}/{w.name.split("/")[-1].removesuffix(":0")}' for layer, w in weights]
    forms = [
        named(types.SimpleNamespace(path=path, shape=weight.shape))
        for path, (_, weight) in zip(paths, weights, strict=True)
    ]
    tensors = {tensor: shape for tensor, shape, _ in forms}
    assert len(tensors) == len(forms)
    images = keyed.images(2, SIZE)
    for gain in GAINS:
        for (_, weight), (tensor, shape, back) in zip(weights, forms, strict=True):
            weight.assign(np.ascontiguousarray(back(keyed.make(tensor, shape, gain))))
        logits = np.asarray(network(images, training=False))
        spread = logits.std(axis=1).mean()
        contrast = np.abs(logits[0] - logits[1]).max() / spread
        if contrast > 0.4 and np.isfinite(logits).all():
            print(f'{package}:{name}: gain {gain}, spread {spread:.3g}, contrast {contrast:.2f}')
            count = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
            version = importlib.metadata.version(package.replace('_', '-'))
            made_with = f'{package} {version}, tf_keras {keras.__version__}'
            values = logits.astype(np.float32)
            return rows.Row(tensors, count, gain, 2, SIZE, 3, made_with, values, {})
    raise RuntimeError(f'{package}:{name}: the logits do not differ under any gain')


def main(packages):
    """Writes the files of some packages, or of all."""
    for package in packages or NETWORKS:
        networks = NETWORKS[package]
        made = {name: make_row(package, *network) for name, network in networks.items()}
        rows.write(f'../weights/families/{package}', made)


if __name__ == '__main__':
    main(sys.argv[1:])
