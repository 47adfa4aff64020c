"""Writes tests/weights/formats: small files of Keras, TensorFlow and Caffe, made by themselves.

    python tests/weights/make_formats.py keras         # needs keras and tensorflow
    python tests/weights/make_formats.py tensorflow    # needs tensorflow
    python tests/weights/make_formats.py caffe         # needs a package with caffe_pb2 (caffe-onnx)

The tensors are those of `array`, which test_formats.py has too.
"""

import os
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / 'formats'


def array(start, *shape):
    """Returns start, start + 1, ... in a shape, as float32."""
    return (start + np.arange(np.prod(shape, dtype=int))).reshape(shape).astype(np.float32)


def make_keras():
    import keras
    from keras import layers

    def network(**options):
        keras.utils.clear_session()
        conv = {'use_bias': False, 'padding': 'same', **options}
        inputs = x = layers.Input((8, 8, 3))
        for layer in (
            layers.Conv2D(4, 3, name='stem', **conv),
            layers.BatchNormalization(name='stem_bn'),
            layers.Lambda(lambda x: x * 2, name='doubled'),
            layers.DepthwiseConv2D(3, name='dw', **conv),
            layers.BatchNormalization(scale=False),
            layers.SeparableConv2D(5, 3, name='separable', **conv),
            layers.Dropout(0.1, seed=1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name='predictions'),
        ):
            x = layer(x)
        net = keras.Model(inputs, x)
        net.compile('sgd', 'mse')
        net.set_weights([array(i, *w.shape).astype(w.dtype) for i, w in enumerate(net.weights)])
        return net

    net = network()
    net.save(FOLDER / 'net.keras')
    net.save(FOLDER / 'net.h5')
    net.save_weights(FOLDER / 'net.weights.h5')
    network(dtype='bfloat16').save_weights(FOLDER / 'bfloat16.weights.h5')


def make_tensorflow():
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    tf1 = tf.compat.v1
    tf1.disable_eager_execution()
    with tf1.variable_scope('Net/Conv2d_1a_3x3'):
        tf1.get_variable('weights', initializer=array(0, 3, 3, 2, 4))
        with tf1.variable_scope('BatchNorm'):
            tf1.get_variable('beta', initializer=array(1, 4))
            for i, name in enumerate(('moving_mean', 'moving_variance'), 2):
                tf1.get_variable(name, initializer=array(i, 4), trainable=False)
    with tf1.variable_scope('Net/Logits'):
        tf1.get_variable('weights', initializer=array(4, 4, 2))
        tf1.get_variable('biases', initializer=array(5, 2))
    loss = sum(tf1.reduce_sum(v * v) for v in tf1.trainable_variables())
    optimizer = tf1.train.RMSPropOptimizer(0.001, momentum=0.9)
    optimizer.minimize(loss, global_step=tf1.train.get_or_create_global_step())
    average = tf1.train.ExponentialMovingAverage(0.5)
    average.apply()
    shadows = [v for v in tf1.global_variables() if 'ExponentialMovingAverage' in v.name]
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        for variable in shadows:
            session.run(variable.assign(variable + 100))
        for name, version in (('one', saver_pb2.SaverDef.V1), ('two', saver_pb2.SaverDef.V2)):
            saver = tf1.train.Saver(write_version=version)
            saver.save(session, str(FOLDER / f'{name}.ckpt'), write_meta_graph=False)
    (FOLDER / 'checkpoint').unlink()

    graph = tf.Graph()
    with graph.as_default(), tf1.Session() as session:
        tf1.get_variable('a/kernel', initializer=array(0, 2, 3).astype(np.float16))
        tf1.get_variable('b/kernel', (4, 2), partitioner=tf1.fixed_size_partitioner(2))
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(FOLDER / 'sliced.ckpt'), write_meta_graph=False)
    (FOLDER / 'checkpoint').unlink()


def make_caffe():
    from proto import caffe_pb2

    def blob(message, value, legacy=False):
        added = message.blobs.add()
        added.data.extend(value.reshape(-1).tolist())
        if legacy:
            shape = (1,) * (4 - value.ndim) + value.shape
            added.num, added.channels, added.height, added.width = shape
        else:
            added.shape.dim.extend(value.shape)

    net = caffe_pb2.NetParameter(name='net')
    for name, kind, values in (
        ('conv1/7x7_s2', 'Convolution', (array(0, 4, 3, 3, 3), array(1, 4))),
        ('bn1', 'BatchNorm', (array(2, 4), array(3, 4), np.array([2.0]))),
        ('scale1', 'Scale', (array(4, 4), array(5, 4))),
        ('relu', 'ReLU', ()),
        ('fc8', 'InnerProduct', (array(6, 2, 4), array(7, 2))),
    ):
        layer = net.layer.add(name=name, type=kind)
        for value in values:
            blob(layer, value)
    (FOLDER / 'net.caffemodel').write_bytes(net.SerializeToString())

    old = caffe_pb2.NetParameter(name='old')
    numbers = caffe_pb2.V1LayerParameter
    for name, kind, values in (
        ('conv1', numbers.CONVOLUTION, (array(0, 4, 3, 3, 3), array(1, 4))),
        ('relu', numbers.RELU, ()),
        ('fc8', numbers.INNER_PRODUCT, (array(6, 2, 4), array(7, 2))),
    ):
        layer = old.layers.add(name=name, type=kind)
        for value in values:
            blob(layer, value, legacy=True)
    (FOLDER / 'old.caffemodel').write_bytes(old.SerializeToString())


if __name__ == '__main__':
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
    FOLDER.mkdir(exist_ok=True)
    {'keras': make_keras, 'tensorflow': make_tensorflow, 'caffe': make_caffe}[sys.argv[1]]()
