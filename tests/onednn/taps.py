"""Convolutions by their definition, for the tests of this folder."""

import numpy as np


def in_float64(images, kernel, strides, pads, dilation, groups):
    """Returns NumPy's convolution: a sum over taps of products."""
    images, kernel = np.asarray(images, np.float64), np.asarray(kernel, np.float64)
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    size = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[1:3], kernel.shape[:2], strides, dilation, strict=True)
    ]
    out = np.zeros((len(images), *size, kernel.shape[-1]))
    grouped = kernel.reshape(*kernel.shape[:3], groups, -1)
    for i, j in np.ndindex(*kernel.shape[:2]):
        rows = i * dilation[0] + strides[0] * np.arange(size[0])
        columns = j * dilation[1] + strides[1] * np.arange(size[1])
        seen = padded[:, rows][:, :, columns].reshape(*out.shape[:3], groups, -1)
        sums = [seen[..., g, :] @ grouped[i, j, :, g] for g in range(groups)]
        out += np.concatenate(sums, -1)
    return out
