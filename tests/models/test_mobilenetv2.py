"""MobileNetV2 beyond its golden rows: timm's names."""

import jax
import numpy as np
from golden import keyed, rows

from cls import weights


def test_files_with_timms_names_are_read_too():
    row = rows.read('mobilenetv2')['torchvision:mobilenet_v2']
    state = keyed.state_dict(row.tensors, row.gain)
    timm = rows.read('mobilenetv2')['timm:mobilenetv2_075'].tensors
    # Both packages list the layers in order.
    renamed = dict(zip(timm, state.values(), strict=True))
    assert not renamed.keys() & state.keys()
    variables, expected = (weights.from_torch(x, 'mobilenetv2_100') for x in (renamed, state))
    for x, y in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
