"""The names of the TPU models and of TF-Slim, against the same tensors under Keras's names.

Rows of Keras agree with Keras itself (test_packages.py). The names of the models are made here as
their code makes them: layers of a kind are numbered within a scope, in the order of their calls.
"""

import collections
import re

import jax
import numpy as np
import pytest
from golden import keyed, rows

from cls import weights
from cls.weights.keras import to_torch

ROWS = rows.read('../weights/families/keras')
# Keras's layers of a block, in the order of the calls, and the kinds of the TPU models.
INVERTED = (
    ('expand_conv', 'conv2d'),
    ('expand_bn', 'tpu_batch_normalization'),
    ('dwconv', 'depthwise_conv2d'),
    ('bn', 'tpu_batch_normalization'),
    ('se_reduce', 'se/conv2d'),
    ('se_expand', 'se/conv2d'),
    ('project_conv', 'conv2d'),
    ('project_bn', 'tpu_batch_normalization'),
)
OUTER = {
    'stem_conv': 'stem/conv2d',
    'stem_bn': 'stem/tpu_batch_normalization',
    'top_conv': 'head/conv2d',
    'top_bn': 'head/tpu_batch_normalization',
    'predictions': 'head/dense',
}


def state_of(network):
    if network not in ROWS:
        pytest.skip(f'no row of {network}')
    return keyed.state_dict(ROWS[network].tensors, ROWS[network].gain)


def same(network, renamed):
    """Compares the variables of both names, filled without a hint on the package."""
    state = state_of(network)
    assert len(renamed) == len(state)
    by_keras, by_name = (weights.fit(tensors, network) for tensors in (state, renamed))
    assert not by_name.left_out
    jax.tree.map(np.testing.assert_array_equal, by_keras.variables, by_name.variables)


def tpu_names(layers):
    """Returns Keras's layer -> the TPU model's."""
    names = dict(OUTER)
    blocks = sorted({m[1] for m in (re.match(r'(block\d[a-z])_', name) for name in layers) if m})
    for index, block in enumerate(blocks):
        counts = collections.Counter()
        for layer, kind in INVERTED:
            if f'{block}_{layer}' in layers:
                number = f'_{counts[kind]}' if counts[kind] else ''
                names[f'{block}_{layer}'] = f'blocks_{index}/{kind}{number}'
                counts[kind] += 1
    return names


@pytest.mark.parametrize('network', ['tf_efficientnet_b0', 'tf_efficientnet_b1'])
def test_an_efficientnet_of_the_tpu_models(network):
    state = state_of(network)
    names = tpu_names({name.rpartition('.')[0] for name in state})
    renamed = {}
    for name, value in state.items():
        layer, _, leaf = name.rpartition('.')
        renamed[f'efficientnet-b0/{names[layer]}'.replace('/', '.') + f'.{leaf}'] = value
    same(network, renamed)


@pytest.mark.parametrize(
    'network', ['mobilenet_025_tf', 'mobilenetv2_035', 'mobilenetv3_small_100']
)
def test_a_mobilenet_of_slim(network):
    """From the names of Keras, which its code derived from slim's."""
    pairs = {
        'mobilenet_025_tf': (
            (r'^conv1_bn\.', 'MobilenetV1.Conv2d_0.BatchNorm.'),
            (r'^conv1\.', 'MobilenetV1.Conv2d_0.'),
            (r'^conv_(d|p)w_(\d+)_bn\.', r'conv_\1w_\2.BatchNorm.'),
            (r'^conv_dw_(\d+)\.', r'MobilenetV1.Conv2d_\1_depthwise.'),
            (r'^conv_pw_(\d+)\.', r'MobilenetV1.Conv2d_\1_pointwise.'),
            (r'^conv_preds\.', 'MobilenetV1.Logits.Conv2d_1c_1x1.'),
        ),
        'mobilenetv2_035': (
            (r'^bn_Conv1\.', 'MobilenetV2.Conv.BatchNorm.'),
            (r'^Conv1\.', 'MobilenetV2.Conv.'),
            (r'^Conv_1_bn\.', 'MobilenetV2.Conv_1.BatchNorm.'),
            (r'^Conv_1\.', 'MobilenetV2.Conv_1.'),
            (r'^predictions\.', 'MobilenetV2.Logits.Conv2d_1c_1x1.'),
            (r'^block_(\d+)_', r'expanded_conv_\1.'),
            (r'^expanded_conv_(?=[a-z])', 'expanded_conv.'),
            (r'_BN\.', '.BatchNorm.'),
            (r'^expanded', 'MobilenetV2.expanded'),
        ),
        'mobilenetv3_small_100': (
            (r'^conv_(\d)_bn\.', r'Conv_\1.BatchNorm.'),
            (r'^conv_bn\.', 'Conv.BatchNorm.'),
            (r'^conv(?=[_.])', 'Conv'),
            (r'^logits\.', 'Logits.Conv2d_1c_1x1.'),
            (r'_bn\.', '.BatchNorm.'),
            (r'^(expanded_conv(?:_\d+)?)_squeeze_excite_conv', r'\1.squeeze_excite.Conv'),
            (r'^(expanded_conv(?:_\d+)?)_(?=[a-z])', r'\1.'),
            (r'^', 'MobilenetV3.'),
        ),
    }[network]
    renamed = {}
    for name, value in state_of(network).items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    same(network, renamed)


def test_names_with_slashes_become_those_with_dots():
    found = to_torch({'efficientnet-b0/stem/conv2d/kernel': np.ones((3, 3, 3, 4), 'f')})
    assert list(found) == ['efficientnet-b0.stem.conv2d.weight']
