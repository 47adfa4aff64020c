"""The order of the colors in weights from Caffe."""

from typing import Any

from flax import traverse_util

from cls.errors import UserError


def reverse_colors(params: dict) -> None:
    """Reverses, in place, the order of the colors that the first convolution expects.

    Raises UserError unless exactly one layer can be the first convolution.
    """
    layers: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')
    first = [
        layer
        for path, layer in layers.items()
        if path.endswith('/kernel') and layer.ndim == 4 and layer.shape[2] == 3
    ]
    if len(first) != 1:
        raise UserError(
            f'--bgr: {len(first)} convolutions have three input channels; expected exactly one.'
        )
    first[0][:] = first[0][:, :, ::-1].copy()
