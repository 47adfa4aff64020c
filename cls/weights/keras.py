"""Converts the names and axes of Keras's or TF-Slim's tensors to those of torch.

After this, one rule (see convert.py) is enough. For example, blocks/conv1/depthwise_kernel with
axes (h, w, C, M) becomes blocks.conv1.weight with axes (C * M, 1, h, w).

  Keras               TF-Slim               torch             array
  kernel              weights               weight            (*spatial, I, O) -> (O, I, *spatial)
  depthwise_kernel    depthwise_weights     weight            (h, w, C, M) -> (C * M, 1, h, w)
  pointwise_kernel    pointwise_weights     pointwise.weight  as kernel
  bias, beta          biases, beta          bias              unchanged
  gamma               gamma                 weight            unchanged
  moving_mean         moving_mean           running_mean      unchanged
  moving_variance     moving_variance       running_var       unchanged
  mean, variance,                           the same names    unchanged, of a Normalization layer
  count

Keras 3 calls a depthwise kernel `kernel` too. One of a single output for each input, (h, w, C, 1),
is recognized by its shape.
"""

from collections.abc import Mapping

import numpy as np

from cls.errors import UserError

LEAVES = {
    'kernel': 'weight',
    'weights': 'weight',
    'depthwise_kernel': 'weight',
    'depthwise_weights': 'weight',
    'pointwise_kernel': 'pointwise.weight',
    'pointwise_weights': 'pointwise.weight',
    'gamma': 'weight',
    'bias': 'bias',
    'biases': 'bias',
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_variance': 'running_var',
    'mean': 'mean',
    'variance': 'variance',
    'count': 'count',
}


def to_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with torch's names and order of axes.

    Args:
      tensors: name with slashes -> array; a ':0' at the end of a name is removed.

    Raises:
      UserError: names that the table above lacks, or two names that become equal.
    """
    named = [(name.removesuffix(':0'), value) for name, value in tensors.items()]
    foreign = [name for name, _ in named if name.rpartition('/')[2] not in LEAVES]
    if foreign:
        raise UserError(
            f'{len(foreign)} of {len(named)} tensors, as {foreign[0]}, have no name of Keras or '
            f'TF-Slim: expected MODULE/LEAF with LEAF one of {", ".join(LEAVES)}'
        )
    converted = dict(_to_torch(name, value) for name, value in named)
    if len(converted) < len(named):
        raise UserError('some tensors have names that become the same')
    return converted


def _to_torch(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    *modules, leaf = name.split('/')
    if leaf.startswith('depthwise') or _is_depthwise(leaf, value.shape):
        height, width, channels, multiplier = value.shape
        value = value.reshape(height, width, 1, channels * multiplier)
    if LEAVES[leaf].endswith('weight') and leaf != 'gamma':
        value = value.transpose(-1, -2, *range(value.ndim - 2))
    return '.'.join((*modules, LEAVES[leaf])), value


def _is_depthwise(leaf: str, shape: tuple[int, ...]) -> bool:
    """Returns whether a kernel of Keras 3 is depthwise, with one output for each input.

    A spatial convolution of many channels to a single one, with the same shape, occurs in no
    classifier here.
    """
    return leaf == 'kernel' and len(shape) == 4 and shape[3] == 1 < shape[2] and shape[0] > 1
