"""SKNet in the files of its authors, with the layers of models/sknet50.prototxt and sknet101."""

import numpy as np
import pytest

from cls import weights
from cls.errors import UserError


def layers(fourth=6, third_attention=32):
    """Returns name -> array, as of `load_caffe`; of a depth and an attention's width."""
    shapes = {}

    def unit(name, inputs, outputs, window=1, groups=1, norm=True):
        shapes[f'{name}.weight'] = (outputs, inputs // groups, window, window)
        for leaf in ('weight', 'bias', 'running_mean', 'running_var') if norm else ():
            shapes[f'{name}/bn.{leaf}'] = (outputs,)

    unit('conv1/7x7_s2', 3, 64, 7)
    inputs = 64
    for stage, (blocks, inner) in enumerate(((3, 128), (4, 256), (fourth, 512), (3, 1024)), 2):
        for block in range(1, blocks + 1):
            place = f'conv{stage}_{block}'
            fused = third_attention if stage == 3 else max(inner // 16, 32)
            unit(f'{place}/1x1_reduce', inputs, inner)
            unit(f'{place}/3x3g32', inner, inner, 3, 32)
            unit(f'{place}/3x3g32d2', inner, inner, 3, 32)
            unit(f'{place}/B_fc1', inner, fused)
            unit(f'{place}/B_fc2', fused, 2 * inner, norm=False)
            unit(f'{place}/1x1_increase', inner, 2 * inner)
            if block == 1:
                unit(f'{place}/1x1_proj', inputs, 2 * inner)
            inputs = 2 * inner
    shapes |= {'classifier.weight': (1000, 2048), 'classifier.bias': (1000,)}
    return {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}


def test_sknet50_of_its_authors():
    match = weights.identify(layers())
    assert (match.variant, match.family, match.num_classes) == ('sknet50', 'caffe', 1000)
    assert match.fields == {'ceil_pool': True}
    assert not match.part and not match.left_out


def test_sknet101_of_its_authors_has_narrower_attention():
    """The convolutions conv3_*/B_fc1 have 16 outputs in models/sknet101.prototxt."""
    tensors = layers(fourth=23, third_attention=16)
    with pytest.raises(UserError, match=r"caffe's sknet101 \(16 channels, .*not here"):
        weights.identify(tensors, {'file': 'sknet101.caffemodel'})
