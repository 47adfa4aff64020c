"""Crops on the host: one picture in, one uint8 image of the network's input size out.

A crop takes a `decode.Picture`, and decodes only the part that it needs, or a decoded image,
(H, W, C) uint8. The only source of random numbers is `order.Draws` (or a NumPy Generator).
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from cls.data.decode import Decoded, Picture
from cls.data.order import Draws
from cls.data.resize import PILLOW, Planes, Resized, resized, shorter_to
from cls.data.spec import DataSpec

Box = tuple[int, int, int, int]  # top, left, height, width
Border = tuple[int, ...] | None  # a color, one value or one for each channel; None: mirrored image


def _resized(
    image: Picture | np.ndarray,
    box: Box,
    to: tuple[int, int],
    interpolation: str,
    exact: bool = False,
) -> Resized | Planes:
    """Resizes the box (top, left, height, width) of an image to `to`.

    If exact, the pixels are those of a full decoding and of Pillow's or TensorFlow's filter. Else
    the image may be decoded roughly, at a smaller scale with at least `to` pixels, and resized
    roughly. TensorFlow's filters and 'nearest' always get the full scale, as they use single pixels
    of the original.
    """
    if isinstance(image, np.ndarray):
        image = Decoded(image)
    enough = box[2:] if exact or interpolation not in PILLOW else to
    pixels, inside = image.region(*box, to=enough, roughly=not exact)
    return resized(pixels, to, interpolation, inside, roughly=not exact)


def _size(image: Picture | np.ndarray) -> tuple[int, int]:
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size


def center_crop(
    image: Picture | np.ndarray,
    size: int,
    resize_to: int,
    interpolation: str = 'bilinear',
    squash: bool = False,
) -> np.ndarray:
    """Returns the crop of evaluation: shorter side to `resize_to`, then the center (size, size).

    The pixels are those of torchvision's Resize and CenterCrop of a PIL image, as in timm.

    Args:
      image: The image.
      size: The height and width of the crop.
      resize_to: The shorter side before the crop.
      interpolation: One of resize.INTERPOLATIONS.
      squash: Whether both sides become `resize_to`, as with timm's crop_mode 'squash'.
    """
    shape = _size(image)
    to = (resize_to, resize_to) if squash else shorter_to(shape, resize_to)
    top, left = (round((side - size) / 2) for side in to)
    resized = _resized(image, (0, 0, *shape), to, interpolation, exact=True)
    return resized.only_window(top, left, size, size)


def plain(
    image: Picture | np.ndarray,
    rng: Draws,
    *,
    size: int,
    interpolation: str = 'bilinear',
) -> np.ndarray:
    """Returns an image without augmentation at (size, size); the center of one not square."""
    del rng
    return center_crop(image, size, size, interpolation)


def pad_crop(
    images: np.ndarray, offsets: np.ndarray, *, size: int, pad: int, border: Border = (0,)
) -> np.ndarray:
    """Returns crops of a batch of images after padding them by `pad` pixels on every side.

    Args:
      images: (N, size, size, C) uint8.
      offsets: (N, 2) integers, top and left of the crops in 0..2*pad.
      size: The height and width of images and crops.
      pad: The number of pixels; less than `size` if mirrored.
      border: The padding; None reflects at the outermost pixel, as in the code of the wide residual
        networks (arXiv 1605.07146).

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
    """Returns the crop of CIFAR recipes: a random (size, size) of the padded `plain` image."""
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
    """Returns the crop of VGG and ResNet: shorter side uniform in `scale`, then a random crop."""
    shape = _size(image)
    to = shorter_to(shape, rng.integers(scale[0], scale[1] + 1))
    top, left = (rng.integers(side - size + 1) for side in to)
    return _resized(image, (0, 0, *shape), to, interpolation).only_window(top, left, size, size)


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
    """Returns the crop of Inception: a box that `draw` samples, resized to (size, size)."""
    box = draw(_size(image), rng, area, aspect)
    return _resized(image, box, (size, size), interpolation).window(0, 0, size, size)


def random_box(
    shape: tuple[int, int],
    rng: Draws,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Draws (top, left, height, width) inside an image of shape (H, W), as torchvision does.

    The fraction of the area is uniform in `area`, the logarithm of width over height uniform in
    that of `aspect`. A box that does not fit is drawn again; after ten such boxes the result is the
    largest box in the center with a ratio in `aspect`.
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

    The image has no bounding boxes, and min_object_covered is 0; its default, 0.1, would draw boxes
    of less than a tenth of the area again.

    Width over height (not its logarithm) is uniform in `aspect`. Then the height (not the area) is
    uniform over the heights that fit the image and give an area in `area`: the mean area is a good
    tenth smaller than that of `random_box`. After a hundred boxes that do not fit, the result is
    the whole image.
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
        if width * height < least:  # perhaps because of the rounding
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


def train_crop(data: DataSpec) -> Callable[[Picture | np.ndarray, Draws], np.ndarray]:
    """Returns the crop of training: (image, rng) -> (image_size, image_size, C)."""
    common = {'size': data.image_size, 'interpolation': data.interpolation}
    if data.train_crop == 'none':
        return functools.partial(plain, **common)
    if data.train_crop == 'pad':
        return functools.partial(pad_and_crop, pad=data.pad, border=border(data), **common)
    if data.train_crop == 'scale_jitter':
        return functools.partial(scale_jitter, scale=data.scale, **common)
    draw = random_box if data.train_crop == 'random_resized' else random_tf_box
    ranges = {'area': data.area, 'aspect': data.aspect}
    return functools.partial(random_part, draw=draw, **ranges, **common)


def border(data: DataSpec) -> Border:
    """Returns the pixels of the padding; those of 'mean' are 0 after normalization."""
    if data.pad_mode == 'mirror':
        return None
    return (0,) if data.pad_mode == 'zero' else tuple(round(x) for x in data.mean)


def eval_crop(data: DataSpec) -> Callable[[Picture | np.ndarray], np.ndarray]:
    """Returns the crop of evaluation: image -> (eval_pixels, eval_pixels, C)."""
    return functools.partial(
        center_crop,
        size=data.eval_pixels,
        resize_to=data.eval_shorter_side,
        interpolation=data.interpolation,
        squash=data.is_squashed,
    )
