"""Converts the tensors of a TensorFlow Lite graph, in the order of its operations, to torch's axes.

An .npz of such a graph has names as 07_CONV_2D_w and 07_CONV_2D_b: the number of the operation, its
kind, and w for weights or b for biases. Norms are folded into the weights of convolutions.

  kind                weights
  CONV_2D             (O, h, w, I) -> (O, I, h, w)
  DEPTHWISE_CONV_2D   (1, h, w, C) -> (C, 1, h, w)
  FULLY_CONNECTED     (O, I), unchanged
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from cls.errors import UserError

_NAME = re.compile(r'(\d+)_(CONV_2D|DEPTHWISE_CONV_2D|FULLY_CONNECTED)_([wb])')


def is_graph(names: Collection[str]) -> bool:
    """Returns whether these are names of a graph's tensors."""
    return bool(names) and all(_NAME.fullmatch(name) for name in names)


def to_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with torch's order of axes, as 'op7.weight' and 'op7.bias'.

    Args:
      tensors: name, as in the module -> array.

    Raises:
      UserError: weights without four axes, or two axes in a linear layer.
    """
    result = {}
    for name, value in tensors.items():
        match = _NAME.fullmatch(name)
        assert match is not None
        number, kind, leaf = int(match[1]), match[2], match[3]
        if leaf == 'w' and value.ndim != (2 if kind == 'FULLY_CONNECTED' else 4):
            raise UserError(
                f'{name} has the shape {value.shape}: expected that of weights of {kind}'
            )
        if leaf == 'w' and kind != 'FULLY_CONNECTED':
            depthwise = kind == 'DEPTHWISE_CONV_2D'
            value = value.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        result[f'op{number}.{"weight" if leaf == "w" else "bias"}'] = value
    return result
