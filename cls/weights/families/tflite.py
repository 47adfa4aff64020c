"""The tensors of TensorFlow Lite graphs, in the order of their operations (see cls.weights.tflite).

Norms are folded into the convolutions. The norm of a convolution here has its bias, and otherwise
changes nothing: a mean of 0, and a variance of 1 less the epsilon.
"""

from collections.abc import Iterator

import numpy as np

from cls import models
from cls.models import mobilenet
from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Tensors
from cls.weights.families.own_names import ours
from cls.weights.families.transformers import TENSORFLOW


def _mobilenet_v1(variant: Variant) -> Iterator[tuple[str, str]]:
    """Yields the names of each convolution and its norm."""
    del variant
    yield 'conv_stem', 'bn1'
    for stage, block in mobilenet.BLOCKS:
        name = f'blocks.{stage}.{block}'
        yield from ((f'{name}.conv_dw', f'{name}.bn1'), (f'{name}.conv_pw', f'{name}.bn2'))


def _mobilenet_v2(variant: Variant) -> Iterator[tuple[str, str]]:
    """Yields the names of each convolution and its norm."""
    yield 'conv_stem', 'bn1'
    model = models.create(variant.name)
    for name, run in inverted.blocks(inverted.scaled(model.genotype)):  # type: ignore
        layers = (('conv_pw', 'bn1'), ('conv_dw', 'bn2'), ('conv_pwl', 'bn3'))
        for conv, norm in layers[run.expansion == 1 :]:
            yield f'{name}.{conv}', f'{name}.{norm}'
    yield 'conv_head', 'bn2'


def _unfolded(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with norms that only add the biases of the file.

    Raises ValueError for another number of operations.
    """
    is_v1 = variant.module is mobilenet.MobileNet
    layers = list(_mobilenet_v1(variant) if is_v1 else _mobilenet_v2(variant))
    numbers = sorted({int(name.partition('.')[0].removeprefix('op')) for name in tensors})
    if numbers != list(range(len(layers) + 1)):
        raise ValueError(f'{len(numbers)} operations, not {len(layers) + 1}')
    epsilon, result = 1e-3, {}
    for number, (conv, norm) in enumerate(layers):
        bias = tensors[f'op{number}.bias']
        result |= {
            f'{conv}.weight': tensors[f'op{number}.weight'],
            f'{norm}.bias': bias,
            f'{norm}.weight': np.ones(bias.shape, np.float32),
            f'{norm}.running_mean': np.zeros(bias.shape, np.float32),
            f'{norm}.running_var': np.full(bias.shape, 1 - epsilon, np.float32),
        }
    for leaf in ('weight', 'bias'):
        result[f'classifier.{leaf}'] = tensors[f'op{len(layers)}.{leaf}']
    return result


FAMILY = Family(
    'tflite',
    (
        Names(r'mobilenet_\d+_tf', ours(), tensors=_unfolded),
        Names(r'mobilenetv2_100_tf', ours(), tensors=_unfolded),
        Names(r'mobilenetv2_(140|075|050|035)', ours(), tensors=_unfolded, fields=TENSORFLOW),
    ),
)
