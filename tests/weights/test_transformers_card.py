"""Settings of transformers' config.json that change the numbers of the same tensors."""

import math

import pytest

from cls import models
from cls.errors import UserError
from cls.weights import card as cards
from cls.weights import transformers_card as settings

# The published settings of google/efficientnet-b0 to b7.
EFFICIENTNETS = [
    (224, 1.0, []),
    (240, 1.1, [16]),
    (260, 1.2, [5, 8, 16]),
    (300, 1.4, [5, 18]),
    (380, 1.8, [6]),
    (456, 2.2, [13, 27]),
    (528, 2.6, [31]),
    (600, 3.1, [18]),
]


def efficientnet(size, depth, padding):
    return {
        'model_type': 'efficientnet',
        'image_size': size,
        'depth_coefficient': depth,
        'depthwise_padding': padding,
    }


@pytest.mark.parametrize(('size', 'depth', 'padding'), EFFICIENTNETS)
def test_published_paddings_are_those_of_tensorflow(size, depth, padding):
    settings.check(efficientnet(size, depth, padding))
    with pytest.raises(UserError, match='the blocks that halve an odd number of pixels'):
        settings.check(efficientnet(size, depth, [*{*padding} ^ {math.ceil(depth)}]))


@pytest.mark.parametrize(
    ('kind', 'wrong', 'pattern'),
    [
        ('resnet', {'hidden_act': 'gelu'}, "hidden_act='gelu', not 'relu': transformers would"),
        ('resnet', {'downsample_in_first_stage': True}, 'downsample_in_first_stage=True'),
        ('efficientnet', {'hidden_act': 'relu'}, "'relu', not 'swish'"),
        ('efficientnet', {'batch_norm_eps': 1e-5}, 'batch_norm_eps=1e-05, not 0.001'),
        ('efficientnet', {'pooling_type': 'max'}, 'pooling_type'),
        ('efficientnet', {'depthwise_padding': 3}, 'a list of numbers'),
        ('mobilenet_v1', {'tf_padding': False}, 'tf_padding=False, not True'),
        ('mobilenet_v2', {'tf_padding': 1, 'layer_norm_eps': 0.1}, 'tf_padding=1.*layer_norm_eps'),
        ('mobilenet_v2', {'output_stride': 16}, 'output_stride=16'),
    ],
)
def test_settings_of_another_network_are_refused_by_name(kind, wrong, pattern):
    with pytest.raises(UserError, match=pattern):
        cards.check({'model_type': kind, **wrong}, models.variant('resnet50'))


def test_other_settings_are_free():
    for kind in ('resnet', 'mobilenet_v1', 'mobilenet_v2'):
        settings.check({'model_type': kind, 'classifier_dropout_prob': 0.5})
    b7 = {'model_type': 'efficientnet', 'depthwise_padding': [18], 'hidden_act': 'silu'}
    settings.check({**b7, 'strides': (1, 2, 2, 2, 1, 2, 1)})
    settings.check({'model_type': 'vit', 'hidden_act': 'gelu'})
    settings.check({'model_type': ['resnet'], 'hidden_act': 'gelu'})
    settings.check({'hidden_act': 'gelu'})


def test_channels_are_those_of_the_weights():
    cards.check_channels({'model_args': {'in_chans': 1}}, 1)
    cards.check_channels({'num_channels': 3, 'model_args': 'none'}, 3)
    with pytest.raises(UserError, match='num_channels is 3, but .* takes 1 channels'):
        cards.check_channels({'model_type': 'resnet', 'num_channels': 3}, 1)
