"""Weights and images that two frameworks can generate identically, from a name and a shape.

The bits are a PCG64 stream seeded by a hash of the name. This uses only the bit generator, as NumPy
guarantees its streams (but not those of the distributions), and float32 arithmetic as fixed by IEEE
754: any NumPy on any machine gives the same numbers.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

SALT = 'cls golden 1'  # a change of the salt changes all golden files


def make(name: str, shape: Sequence[int], gain: float = 1.0) -> np.ndarray:
    """Returns a tensor's values: float32 (int64 zeros for num_batches_tracked).

    An `index` (n,) is int64 and picks from the first n channels, a `mask` is bool.

    Matrices and kernels, of variance gain / fan-in, propagate the signal; each network has its
    `gain` (see make.py). Variances and scales are positive and all other values are non-zero, so
    that a swapped or missing tensor changes the logits.

    Args:
      name: in the reference's naming; its last part determines the kind of tensor.
      shape: in PyTorch's layout: (O, I, ...) for matrices and kernels.
      gain: of matrices and kernels.
    """
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    if leaf == 'index':
        return uniform(name, shape, 0, shape[0]).astype(np.int64)
    if leaf == 'mask':
        return uniform(name, shape, -1, 1) > 0
    if leaf == 'running_var':
        return uniform(name, shape, 0.5, 1.5)
    if leaf == 'running_mean':
        return uniform(name, shape, -0.3, 0.3)
    if leaf == 'bias':
        return uniform(name, shape, -0.3, 0.3)
    if len(shape) < 2:  # a norm's scale, a rectifier's slope
        return uniform(name, shape, 0.5, 1.5)
    bound = math.sqrt(3 * gain / math.prod(shape[1:]))
    values = uniform(name, shape, -bound, bound)
    if shape[1] >= 16:
        values -= values.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return values


def state_dict(tensors: Mapping[str, Sequence[int]], gain: float = 1.0) -> dict[str, np.ndarray]:
    """Returns `make` for every tensor of a mapping from names to shapes."""
    return {name: make(name, shape, gain) for name, shape in tensors.items()}


def images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """Returns (count, size, size, channels) float32 images of about unit variance.

    They are coarse patches with a little noise: to a network that averages over the image, all
    samples of plain noise look the same.
    """
    patches = uniform(f'patches {size}', (count, 4, 4, channels), -2.0, 2.0)
    noise = uniform(f'noise {size}', (count, size, size, channels), -0.5, 0.5)
    nearest = np.arange(size) * 4 // size
    return patches[:, nearest][:, :, nearest] + noise


def uniform(name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """Returns float32 numbers in [low, high), a function of name and shape."""
    seed = int.from_bytes(hashlib.sha256(f'{SALT}:{name}'.encode()).digest()[:16], 'little')
    count = math.prod(shape)
    raw = np.random.PCG64(seed).random_raw((count + 1) // 2)
    bits = np.asarray(raw, '<u8').view('<u4')[:count]
    bits >>= 8  # in place, as all below: a classifier has 100 million numbers
    values = bits.astype(np.float32)
    values *= np.float32(2**-24)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values.reshape(shape)
