"""The first convolution of a network in images of another number of channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cls.errors import UserError

Path = tuple[str, ...]
COLORS = 3


def adapted(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns the kernel of a first convolution for images of another number of channels.

    An image that repeats the old channels in turn, or one whose channels are all equal, gives the
    same outputs: kernels of one channel sum over the old ones, those of more channels repeat them
    in turn and are scaled by old / new. timm's `in_chans` adapts weights of three channels so.

    Args:
      kernel: (height, width, old channels, outputs).
      channels: the number of new channels.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=kernel.dtype)
    return kernel[:, :, np.arange(channels) % old] * np.asarray(old / channels, kernel.dtype)


def adapt(
    given: Mapping[Path, Any], wanted: Mapping[Path, Any], channels: int
) -> tuple[dict[Path, Any], str]:
    """Returns (variables with an adapted first convolution, a line on it; '' if none differs).

    Args:
      given: path -> array, loaded.
      wanted: path -> anything with a shape, of the network for images of `channels`.
      channels: the channels of the images.

    Raises UserError if several convolutions differ in their input channels, so that none is known
    to be the first.
    """
    stems = [path for path in given.keys() & wanted.keys() if _is_stem(given[path], wanted[path])]
    stems = [path for path in stems if wanted[path].shape[2] == channels]
    if not stems:
        return dict(given), ''
    if len(stems) > 1:
        raise UserError(
            f'{len(stems)} convolutions have other input channels than the weights '
            f'({", ".join(sorted("/".join(path[1:]) for path in stems)[:3])}, ...): expected '
            'one, the first, which can be adapted to the images'
        )
    (path,) = stems
    old, name = given[path].shape[2], '/'.join(path[1:])
    how = 'the sum over' if channels == 1 else f'{old}/{channels} of the repeated kernels of'
    line = f'{name} adapted to images of {channels} channel(s): {how} its {old}'
    return {**given, path: adapted(np.asarray(given[path]), channels)}, line


def _is_stem(given: Any, wanted: Any) -> bool:
    """Returns whether two kernels differ in their input channels alone."""
    one, other = np.shape(given), wanted.shape
    return (
        len(one) == len(other) == 4
        and one[2] != other[2]
        and (*one[:2], one[3]) == (*other[:2], other[3])
    )


def normalization(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns a mean or deviation for images of some channels: of colors, the mean for all."""
    return values if len(values) in (1, channels) else (float(np.mean(values)),)
