"""Transformers' preprocessor_config.json, in the fields of timm's card.

Its image processors resize, crop, scale to 0..1 and normalize, each on request.
"""

import math
from collections.abc import Mapping
from typing import Any

from cls.errors import UserError

_FILTERS = {0: 'nearest', 2: 'bilinear', 3: 'bicubic'}  # Pillow's numbers
_CROPPED_BELOW = 384  # ConvNextImageProcessor resizes larger images without a crop


def as_card(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns `pretrained_cfg` as of timm, with an entry `_processor` that names the file.

    Args:
      fields: the file's content.
      name: the file's name, for messages.

    Raises:
      UserError: the file prepares images in an unsupported way.
    """
    card: dict[str, Any] = {'_processor': name}
    resample = fields.get('resample', 2)
    if fields.get('do_resize', True):
        if resample not in _FILTERS:
            raise UserError(f'{name}: resample is {resample!r:.40}: expected 0, 2 or 3')
        card['interpolation'] = _FILTERS[resample]
    size, resize, squash = _sizes(fields, name)
    if size:
        card |= {'input_size': [3, size, size], 'crop_pct': _fraction(size, resize)}
        card |= {'crop_mode': 'squash'} if squash else {}
    card |= _normalization(fields, name)
    return card


def _sizes(fields: Mapping[str, Any], name: str) -> tuple[int, int, bool]:
    """Returns (pixels of the input, side before the crop, whether both sides become that)."""
    if not fields.get('do_resize', True):
        return 0, 0, False
    edge, square = _side(fields.get('size'), name)
    if fields.get('crop_pct') and not square:  # ConvNextImageProcessor
        if edge < _CROPPED_BELOW:
            return edge, int(edge / float(fields['crop_pct'])), False
        return edge, edge, True
    if fields.get('do_center_crop'):
        crop, _ = _side(fields.get('crop_size', fields.get('size')), name)
        return crop, max(edge, crop), square
    if square or not edge:
        return edge, edge, square
    raise UserError(
        f'{name}: size is {fields.get("size")!r:.60} without a center crop, so that images have '
        'several shapes: expected crop_size, or a height and width'
    )


def _side(value: Any, name: str) -> tuple[int, bool]:
    """Returns (pixels, whether both sides are fixed) of a size; (0, False) for None."""
    if value is None:
        return 0, False
    if type(value) is int:
        return value, False
    if isinstance(value, Mapping):
        edge: Any = value.get('shortest_edge')
        sides: Any = value.get('height'), value.get('width')
        if type(edge) is int and edge > 0:
            return edge, False
        if type(sides[0]) is int and sides[0] == sides[1] > 0:
            return sides[0], True
    raise UserError(f'{name}: {value!r:.60} is no size: expected shortest_edge, or a square')


def _fraction(size: int, resize: int) -> float:
    crop = round(size / resize, 6)
    return crop if math.floor(size / crop) == resize else math.nextafter(size / resize, 0)


def _normalization(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns `mean` and `std` of pixels in 0..1."""
    factor, offset = fields.get('rescale_factor', 1 / 255), bool(fields.get('rescale_offset'))
    if not fields.get('do_rescale', True) or not isinstance(factor, float):
        raise UserError(f'{name}: expected do_rescale, with a rescale_factor')
    scale = 255 * factor  # 1: to 0..1; 2, with an offset: to -1..1
    mean: Any = [0.0] * 3
    std: Any = [1.0] * 3
    if fields.get('do_normalize', True):
        mean, std = (fields.get(key) for key in ('image_mean', 'image_std'))
        if not _is_channels(mean) or not _is_channels(std):
            raise UserError(f'{name}: expected image_mean and image_std of three channels')
    mean = [(m + offset) / scale for m in mean]
    if fields.get('include_top'):  # EfficientNetImageProcessor divides by the deviation twice
        std = [s * s for s in std]
    return {'mean': [round(m, 7) for m in mean], 'std': [round(s / scale, 7) for s in std]}


def _is_channels(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 3 and all(type(x) in (int, float) for x in value)
    )
