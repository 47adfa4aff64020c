"""SKNet-50 in the file of its authors, with the layers of models/sknet50.prototxt."""

import numpy as np

from cls import weights


def layers():
    """Returns name -> array, as of `load_caffe`."""
    shapes = {}

    def unit(name, inputs, outputs, window=1, groups=1, norm=True):
        shapes[f'{name}.weight'] = (outputs, inputs // groups, window, window)
        for leaf in ('weight', 'bias', 'running_mean', 'running_var') if norm else ():
            shapes[f'{name}/bn.{leaf}'] = (outputs,)

    unit('conv1/7x7_s2', 3, 64, 7)
    inputs = 64
    for stage, (blocks, inner) in enumerate(((3, 128), (4, 256), (6, 512), (3, 1024)), 2):
        for block in range(1, blocks + 1):
            place, fused = f'conv{stage}_{block}', max(inner // 16, 32)
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


def test_sknet_of_its_authors():
    match = weights.identify(layers())
    assert (match.variant, match.family, match.num_classes) == ('sknet50', 'caffe', 1000)
    assert match.fields == {'ceil_pool': True}
    assert not match.part and not match.left_out
