"""Weights and an image that two programs draw alike: NumPy only."""

import zlib

import numpy as np

SIZE = 64


def tensor(name, shape):
    """Returns the tensor of a state dict with a name and shape, float32."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('running_var'):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) < 2:
        low = 0.5 if name.endswith('weight') else -0.2
        return rng.uniform(low, low + 0.4, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def image():
    """Returns an image, (SIZE, SIZE, 3) uint8."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(256, size=(8, 8, 3))
    smooth = np.kron(coarse, np.ones((SIZE // 8, SIZE // 8, 1)))
    noise = rng.integers(-20, 20, size=smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
