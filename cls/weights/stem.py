"""Weights of color images in a network that takes images with another number of channels.

One channel sees the sum of the kernels of red, green and blue, as if the gray image were given for
all three. For other numbers the kernels are repeated, red, green, blue, red, ..., and multiplied by
three over the number, so that the values behind them keep about their size. This is timm's rule
(adapt_input_conv in timm/models/_manipulate.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util

COLORS = 3


def adapted_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns (H, W, channels, O) of a kernel (H, W, 3, O), of the same type."""
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float64).astype(kernel.dtype)
    repeated = kernel[:, :, np.arange(channels) % COLORS]
    return (repeated * (COLORS / channels)).astype(kernel.dtype)


def adapt(variables: Any, shapes: Any, channels: int) -> tuple[Any, str]:
    """Returns (variables with adapted first convolutions, a text on them, '' without any).

    Args:
      variables: {'params', ...} of a network for color images.
      shapes: the same of the network to fill, arrays or shapes.
      channels: the channels of its images; for three nothing is changed.
    """
    given: Any = traverse_util.flatten_dict(variables)
    wanted: Any = traverse_util.flatten_dict(shapes)
    names = []
    for path, kernel in given.items() if channels != COLORS else ():
        new = np.shape(wanted.get(path, ()))
        if np.shape(kernel) == (*new[:2], COLORS, *new[3:]) and new[2:3] == (channels,):
            given[path] = adapted_kernel(np.asarray(kernel), channels)
            names.append('/'.join(path[1:]))
    if not names:
        return variables, ''
    how = 'summed' if channels == 1 else f'repeated, times {COLORS} / {channels}'
    text = f'{", ".join(names)}: of {COLORS} channels, {how} for {channels}'
    return traverse_util.unflatten_dict(given), text


def normalization(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std for some channels: of other than three, the mean of those of colors."""
    if channels == COLORS:
        return tuple(mean), tuple(std)
    return (float(np.mean(mean)),), (float(np.mean(std)),)
