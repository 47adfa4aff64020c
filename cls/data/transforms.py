"""Decoding, resizing and cropping on the host: one uint8 image in, one uint8 image out.

Images are (H, W, C) uint8 with C 1 or 3, colours in the order RGB. Whatever is random takes a
NumPy Generator and draws from nothing else.
"""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from ml_collections import ConfigDict

from cls.errors import UserError, nearest

# The pipeline has its own threads, one image in each: OpenCV's would only be in their way.
cv2.setNumThreads(1)
# A broken image is reported by whoever called `decode`, with its name, which OpenCV lacks.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(encoded: bytes, channels: int) -> np.ndarray:
    """Decodes JPEG, PNG, WebP or BMP to (H, W, channels) uint8; channels is 1 or 3.

    Grey, palette, CMYK and 16-bit images become what is asked for; transparency is dropped. An
    orientation in the EXIF data is ignored, as TensorFlow's and Pillow's decoders do, with which
    the published nets were trained.

    Raises ValueError if this is no image or only a part of one.
    """
    mode = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB}[channels]
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # of an empty or an absurdly large image
        raise ValueError('not an image') from error
    if image is None:
        raise ValueError('not an image, or a truncated one')
    return image.reshape(*image.shape[:2], channels)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, C) to (height, width, C), close to Pillow's antialiased bilinear filter.

    Pillow's filter for a reduction by s is a triangle of half-width s, with variance s²/6. A
    Gaussian of variance (s² - 1)/6 before OpenCV's bilinear interpolation (a triangle of
    half-width 1) comes to the same variance. On photographs this is nearer to Pillow than
    INTER_AREA (a box); it is slower for strong reductions (500 pixels to 64, not yet to 128).
    Enlarging is plain bilinear in both.
    """
    if image.shape[:2] == (height, width):
        return image
    reduction = np.maximum([image.shape[0] / height, image.shape[1] / width], 1.0)
    sigma_y, sigma_x = np.sqrt((reduction**2 - 1) / 6)
    resized = image
    if sigma_x or sigma_y:
        # Zero would mean 'as the other axis' to OpenCV; this little is a kernel of one pixel.
        resized = cv2.GaussianBlur(
            resized,
            (0, 0),
            sigmaX=max(sigma_x, 1e-3),
            sigmaY=max(sigma_y, 1e-3),
            borderType=cv2.BORDER_REFLECT,
        )
    resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])  # OpenCV drops a single channel


def resize_shorter(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes so that the shorter side is `side`; the longer one is rounded down."""
    height, width = image.shape[:2]
    if height <= width:
        return resize(image, side, int(side * width / height))
    return resize(image, int(side * height / width), side)


def center_crop(image: np.ndarray, size: int, resize_to: int) -> np.ndarray:
    """The crop of evaluation: shorter side to `resize_to`, then the middle (size, size)."""
    image = resize_shorter(image, resize_to)
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def plain(image: np.ndarray, rng: np.random.Generator, *, size: int) -> np.ndarray:
    """No augmentation: the whole image if it is square, else its middle, at (size, size)."""
    del rng
    return center_crop(image, size, size)


def pad_crop(images: np.ndarray, offsets: np.ndarray, *, size: int, pad: int) -> np.ndarray:
    """Crops a batch out of its images with `pad` zero pixels added at every side.

    Args:
      images: (N, size, size, C) uint8.
      offsets: (N, 2) integers, the crops' top and left in 0..2*pad.

    Returns:
      (N, size, size, C) uint8.
    """
    count, _, _, channels = images.shape
    padded = np.zeros((count, size + 2 * pad, size + 2 * pad, channels), np.uint8)
    padded[:, pad : pad + size, pad : pad + size] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    crops = windows[np.arange(count), offsets[:, 0], offsets[:, 1]]  # (N, C, size, size)
    return np.ascontiguousarray(crops.transpose(0, 2, 3, 1))


def pad_and_crop(image: np.ndarray, rng: np.random.Generator, *, size: int, pad: int) -> np.ndarray:
    """The crop of CIFAR recipes: `plain`, zeros around it, a random (size, size) of that."""
    image = plain(image, rng, size=size)
    offsets = rng.integers(2 * pad + 1, size=(1, 2))
    return pad_crop(image[None], offsets, size=size, pad=pad)[0]


def scale_jitter(
    image: np.ndarray, rng: np.random.Generator, *, size: int, scale: tuple[int, int]
) -> np.ndarray:
    """The crop of VGG and ResNet: shorter side uniform in `scale`, then a random crop."""
    image = resize_shorter(image, int(rng.integers(scale[0], scale[1] + 1)))
    top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def random_resized(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    """The crop of Inception as torchvision does it: a random part, resized to (size, size)."""
    top, left, height, width = random_box(image.shape[:2], rng, area, aspect)
    return resize(image[top : top + height, left : left + width], size, size)


def random_box(
    shape: tuple[int, int],
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draws (top, left, height, width) inside an image of shape (H, W).

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
            top = int(rng.integers(full_height - height + 1))
            left = int(rng.integers(full_width - width + 1))
            return top, left, height, width
    ratio = min(max(full_width / full_height, aspect[0]), aspect[1])
    height = max(1, min(full_height, round(full_width / ratio)))
    width = max(1, min(full_width, round(full_height * ratio)))
    return (full_height - height) // 2, (full_width - width) // 2, height, width


def train_crop(data: ConfigDict) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Returns the crop that `config.data` asks for: (image, rng) -> (image_size, image_size, C).

    Raises UserError for an unknown name and for ranges that make no sense.
    """
    size = _image_size(data)
    if data.train_crop == 'none':
        return functools.partial(plain, size=size)
    if data.train_crop == 'pad':
        if data.pad < 0:
            raise UserError(f'config.data.pad is {data.pad}: expected pixels to add, 0 or more.')
        return functools.partial(pad_and_crop, size=size, pad=data.pad)
    if data.train_crop == 'scale_jitter':
        low, high = _range(data, 'scale', size, math.inf)
        return functools.partial(scale_jitter, size=size, scale=(low, high))
    if data.train_crop == 'random_resized':
        area, aspect = _range(data, 'area', 0, 1), _range(data, 'aspect', 0, math.inf)
        return functools.partial(random_resized, size=size, area=area, aspect=aspect)
    crops = ('none', 'pad', 'scale_jitter', 'random_resized')
    raise UserError(
        f"config.data.train_crop is '{data.train_crop}': expected one of {', '.join(crops)}."
        + nearest(data.train_crop, crops)
    )


def eval_crop(data: ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the crop of evaluation: image -> (image_size, image_size, C). Raises UserError."""
    size = _image_size(data)
    resize_to = data.eval_resize or size
    if resize_to < size:
        raise UserError(
            f'config.data.eval_resize is {resize_to}, less than the {size} of image_size that are '
            'cropped from it: expected 0 (as image_size) or more than that.'
        )
    return functools.partial(center_crop, size=size, resize_to=resize_to)


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
