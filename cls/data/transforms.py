"""Crops on the host: one picture in, one uint8 image of the net's size out.

A crop takes a `decode.Picture`, of which it has decoded what it needs, or an image that is decoded
already, (H, W, C) uint8. Whatever is random takes `order.Draws` (a NumPy Generator would do) and
draws from nothing else.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cls.data.decode import Decoded, Picture
from cls.data.order import Draws
from cls.data.resize import INTERPOLATIONS, Resized, shorter_to
from cls.errors import UserError, nearest

Box = tuple[int, int, int, int]  # top, left, height, width
Border = tuple[int, ...] | None  # a colour, of all channels or of each; None: the image, mirrored
PAD_MODES = ('zero', 'mean', 'mirror')
CROPS = ('none', 'pad', 'scale_jitter', 'random_resized', 'distorted_box')


def _resized(
    image: Picture | np.ndarray,
    box: Box,
    to: tuple[int, int],
    interpolation: str,
    exact: bool = False,
) -> Resized:
    """Resizes the box (top, left, height, width) of an image to `to`.

    What is exact has the pixels of a full decoding and of Pillow's or TensorFlow's filter. Else,
    where `to` is smaller, the image may be decoded roughly and at a scale that leaves at least
    `to`, and resized roughly; not for TensorFlow's filters, which look at single pixels of the
    original.
    """
    if isinstance(image, np.ndarray):
        image = Decoded(image)
    enough = box[2:] if exact or interpolation.startswith('tf_') else to
    pixels, inside = image.region(*box, to=enough, roughly=not exact)
    return Resized(pixels, to, interpolation, inside, roughly=not exact)


def _size(image: Picture | np.ndarray) -> tuple[int, int]:
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size


def center_crop(
    image: Picture | np.ndarray, size: int, resize_to: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """The crop of evaluation: shorter side to `resize_to`, then the middle (size, size).

    The pixels are those of torchvision's Resize and CenterCrop of a PIL image, which timm uses.
    """
    shape = _size(image)
    to = shorter_to(shape, resize_to)
    top, left = (round((side - size) / 2) for side in to)
    resized = _resized(image, (0, 0, *shape), to, interpolation, exact=True)
    return resized.window(top, left, size, size)


def plain(
    image: Picture | np.ndarray,
    rng: Draws,
    *,
    size: int,
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """No augmentation: the whole image if it is square, else its middle, at (size, size)."""
    del rng
    return center_crop(image, size, size, interpolation)


def pad_crop(
    images: np.ndarray, offsets: np.ndarray, *, size: int, pad: int, border: Border = (0,)
) -> np.ndarray:
    """Crops a batch out of its images with `pad` pixels added at every side.

    Args:
      images: (N, size, size, C) uint8.
      offsets: (N, 2) integers, the crops' top and left in 0..2*pad.
      size: height and width of images and crops.
      pad: pixels; less than `size` if mirrored.
      border: what is added; mirrored is reflected at the outermost pixel, as in the code of the
        wide residual networks (arXiv 1605.07146).

    Returns:
      (N, size, size, C) uint8.
    """
    if border is None:
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), 'reflect')
    else:
        shape = len(images), size + 2 * pad, size + 2 * pad, images.shape[3]
        padded = np.empty(shape, np.uint8)
        padded[:] = border
        padded[:, pad : pad + size, pad : pad + size] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    crops = windows[np.arange(len(images)), offsets[:, 0], offsets[:, 1]]  # (N, C, size, size)
    return np.ascontiguousarray(crops.transpose(0, 2, 3, 1))


def pad_and_crop(
    image: Picture | np.ndarray,
    rng: Draws,
    *,
    size: int,
    pad: int,
    border: Border = (0,),
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """The crop of CIFAR recipes: `plain`, a border around it, a random (size, size) of that."""
    image = plain(image, rng, size=size, interpolation=interpolation)
    offsets = np.array([[rng.integers(2 * pad + 1) for _ in range(2)]])
    return pad_crop(image[None], offsets, size=size, pad=pad, border=border)[0]


def scale_jitter(
    image: Picture | np.ndarray,
    rng: Draws,
    *,
    size: int,
    scale: tuple[int, int],
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """The crop of VGG and ResNet: shorter side uniform in `scale`, then a random crop."""
    shape = _size(image)
    to = shorter_to(shape, rng.integers(scale[0], scale[1] + 1))
    top, left = (rng.integers(side - size + 1) for side in to)
    return _resized(image, (0, 0, *shape), to, interpolation).window(top, left, size, size)


def random_part(
    image: Picture | np.ndarray,
    rng: Draws,
    *,
    draw: Callable[..., Box],
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """The crop of Inception: a part of the image that `draw` chooses, resized to (size, size)."""
    box = draw(_size(image), rng, area, aspect)
    return _resized(image, box, (size, size), interpolation).window(0, 0, size, size)


def random_box(
    shape: tuple[int, int],
    rng: Draws,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draws (top, left, height, width) inside an image of shape (H, W), as torchvision does.

    The part of the area is uniform in `area`, the logarithm of width over height uniform between
    those of `aspect`. What does not fit is drawn again; after ten such boxes it is the largest one
    in the middle that keeps to `aspect`.
    """
    full_height, full_width = shape
    for _ in range(10):
        pixels = full_height * full_width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            top = rng.integers(full_height - height + 1)
            left = rng.integers(full_width - width + 1)
            return top, left, height, width
    ratio = min(max(full_width / full_height, aspect[0]), aspect[1])
    height = max(1, min(full_height, round(full_width / ratio)))
    width = max(1, min(full_width, round(full_height * ratio)))
    return (full_height - height) // 2, (full_width - width) // 2, height, width


def random_tf_box(
    shape: tuple[int, int],
    rng: Draws,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draws (top, left, height, width) as tf.image.sample_distorted_bounding_box does.

    That is, of an image without boxes and with min_object_covered=0; its default, 0.1, means that
    parts of less than a tenth of the area are drawn again.

    Width over height is uniform between those of `aspect` (not its logarithm), then the height is
    uniform between those that give the areas of `area` and fit the image (not the area): the mean
    part of the area is a good tenth smaller than `random_box`'s. After a hundred boxes that do not
    fit, it is the whole image.
    """
    full_height, full_width = shape
    least, most = (part * full_height * full_width for part in area)
    for _ in range(100):
        ratio = rng.uniform(*aspect)
        tallest = min(
            round(math.sqrt(most / ratio)), full_height, math.floor((full_width + 0.5) / ratio)
        )
        shortest = min(round(math.sqrt(least / ratio)), tallest)
        height = rng.integers(shortest, tallest + 1)
        width = round(height * ratio)
        if width * height < least:  # the rounding may be to blame
            height, width = height + 1, round((height + 1) * ratio)
        if width * height > most:
            height, width = height - 1, round((height - 1) * ratio)
        if (
            least <= width * height <= most
            and 0 < width <= full_width
            and 0 < height <= full_height
        ):
            top = rng.integers(max(1, full_height - height))
            left = rng.integers(max(1, full_width - width))
            return top, left, height, width
    return 0, 0, full_height, full_width


def train_crop(
    data: ConfigDict,
) -> Callable[[Picture | np.ndarray, Draws], np.ndarray]:
    """Returns the crop that `config.data` asks for: (image, rng) -> (image_size, image_size, C).

    Raises UserError for an unknown name and for ranges that make no sense.
    """
    common = {'size': _image_size(data), 'interpolation': interpolation(data)}
    _check_name(data, 'train_crop', CROPS)
    if data.train_crop == 'none':
        return functools.partial(plain, **common)
    if data.train_crop == 'pad':
        return functools.partial(pad_and_crop, pad=padding(data), border=border(data), **common)
    if data.train_crop == 'scale_jitter':
        low, high = _range(data, 'scale', data.image_size, math.inf)
        return functools.partial(scale_jitter, scale=(low, high), **common)
    ranges = {'area': _range(data, 'area', 0, 1), 'aspect': _range(data, 'aspect', 0, math.inf)}
    draw = random_box if data.train_crop == 'random_resized' else random_tf_box
    return functools.partial(random_part, draw=draw, **ranges, **common)


def padding(data: ConfigDict) -> int:
    """Returns the pixels to add at each side before a training crop. Raises UserError."""
    if data.train_crop != 'pad':
        return 0
    _check_name(data, 'pad_mode', PAD_MODES)
    if data.pad < 0:
        raise UserError(f'config.data.pad is {data.pad}: expected pixels to add, 0 or more.')
    if data.pad_mode == 'mirror' and data.pad >= data.image_size:
        raise UserError(
            f'config.data.pad is {data.pad}: images of {data.image_size} pixels can be mirrored '
            f'by at most {data.image_size - 1}.'
        )
    return data.pad


def border(data: ConfigDict) -> Border:
    """Returns what `padding` is made of; 'mean' is data.mean, what is 0 after normalising."""
    if data.pad_mode == 'mirror':
        return None
    return (0,) if data.pad_mode == 'zero' else tuple(round(x) for x in data.mean)


def eval_crop(data: ConfigDict) -> Callable[[Picture | np.ndarray], np.ndarray]:
    """Returns the crop of evaluation: image -> (eval_size, eval_size, C). Raises UserError."""
    size = eval_size(data)
    resize_to = data.eval_resize or size
    if resize_to < size:
        raise UserError(
            f'config.data.eval_resize is {resize_to}, less than the {size} of '
            f'{"eval_size" if data.eval_size else "image_size"} that are cropped from it: expected '
            '0 (as large) or more than that.'
        )
    return functools.partial(
        center_crop, size=size, resize_to=resize_to, interpolation=interpolation(data)
    )


def eval_size(data: ConfigDict) -> int:
    """Returns the height and width of the images that are evaluated on. Raises UserError."""
    if data.eval_size < 0:
        raise UserError(
            f'config.data.eval_size is {data.eval_size}: expected 0 (as image_size) or more.'
        )
    return data.eval_size or _image_size(data)


def interpolation(data: ConfigDict) -> str:
    """Returns the name of the filter that images are resized with. Raises UserError."""
    _check_name(data, 'interpolation', INTERPOLATIONS)
    return data.interpolation


def _check_name(data: ConfigDict, field: str, known) -> None:
    if data[field] not in known:
        raise UserError(
            f"config.data.{field} is '{data[field]}': expected one of {', '.join(known)}."
            + nearest(data[field], known)
        )


def _image_size(data: ConfigDict) -> int:
    if data.image_size < 1:
        raise UserError(f'config.data.image_size is {data.image_size}: expected 1 or more.')
    return data.image_size


def _range(data: ConfigDict, field: str, least: float, most: float) -> tuple:
    """Returns the field's (low, high) if both are positive and least <= low <= high <= most."""
    values = tuple(data[field])
    if (
        len(values) != 2
        or not (0 < values[0] <= values[1] and least <= values[0])
        or (values[1] > most)
    ):
        limits = f'from {least:g} to {most:g}' if most < math.inf else f'of at least {least:g}'
        raise UserError(
            f'config.data.{field} is {values}: expected (low, high), both positive and {limits}'
            + (' (image_size).' if field == 'scale' else '.')
        )
    return values
