"""Images with any number of channels: arrays of NumPy, TIFF files, PNG with an alpha channel.

Images of one or three channels are converted into each other, as `decode` does it; other numbers of
channels have to be those of the file, as no conversion is right for all of them.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from cls.data.headers import BrokenImage, check_pixels
from cls.errors import require

SUFFIXES = ('.npy',)  # of files that only this module reads
_NPY = b'\x93NUMPY'
_TIFF = b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'
_PNG = b'\x89PNG\r\n\x1a\n'
_CHANNELS = 'data.channels'  # the field of the config with the number of channels
_ALPHA = ('LA', 'RGBA')  # Pillow's modes of PNG images with an alpha channel


def is_array(encoded: bytes) -> bool:
    """Whether the content of a file is a NumPy array."""
    return encoded.startswith(_NPY)


def read_array(encoded: bytes, most: int) -> np.ndarray:
    """Returns the array in the content of a .npy file, (H, W, C) uint8; nothing is executed.

    Args:
      encoded: the content; an array (H, W) has one channel.
      most: the largest H times W.

    Raises BrokenImage for another shape or type, and for a file that ends early.
    """
    stream = io.BytesIO(encoded)
    try:
        version: Any = np.lib.format.read_magic(stream)
        reading = {(1, 0): np.lib.format.read_array_header_1_0}
        header = reading.get(version, np.lib.format.read_array_header_2_0)(stream)
    except ValueError as error:
        raise BrokenImage(f'not an array of NumPy ({error})') from error
    shape, fortran, dtype = header
    check_type(dtype, shape)
    check_pixels(shape[0], shape[1], most)
    count, start = int(np.prod(shape)), stream.tell()
    if len(encoded) - start < count:
        raise BrokenImage('the file ends early')
    values = np.frombuffer(encoded, np.uint8, count, start)
    values = values.reshape(shape, order='F' if fortran else 'C')
    return np.ascontiguousarray(values.reshape(*shape[:2], -1))


def check_type(dtype: Any, shape: tuple[int, ...]) -> None:
    """Raises BrokenImage unless an array is uint8 (H, W) or (H, W, C) with pixels."""
    if dtype != np.uint8:
        raise BrokenImage(f'an array of {dtype}, not of uint8 with pixels in 0..255')
    if len(shape) not in (2, 3):
        raise BrokenImage(f'an array of shape {shape}, not (H, W, C) or (H, W)')
    if 0 in shape:
        raise BrokenImage(f'an array of shape {shape}, without pixels')


def converted(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns (H, W, channels) of an array (H, W, C) or (H, W), uint8.

    Gray becomes RGB and back, with Pillow's luminance, and alpha is left out of four channels.

    Raises BrokenImage for other numbers of channels.
    """
    check_type(image.dtype, image.shape)
    image = image[..., None] if image.ndim == 2 else image
    have = image.shape[2]
    if have == channels:
        return image
    if have == 4 and channels in (1, 3):
        image, have = image[..., :3], 3
    if have == channels:
        return image
    if (have, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (have, channels) == (3, 1):
        gray = Image.fromarray(np.ascontiguousarray(image)).convert('L')
        return np.asarray(gray)[..., None]
    raise BrokenImage(f'an array of {have} channels, not of {channels}', _CHANNELS)


def read(encoded: bytes, channels: int, most: int) -> np.ndarray:
    """Returns the pixels of an image with as many channels as the file has, (H, W, channels) uint8.

    Args:
      encoded: the content of a .npy or TIFF file, or of a PNG with an alpha channel.
      channels: the number of channels, neither 1 nor 3.
      most: the largest H times W.

    Raises BrokenImage for other formats, types and numbers of channels, and UserError if a package
    is missing.
    """
    if is_array(encoded):
        image = read_array(encoded, most)
    elif encoded.startswith(_TIFF):
        image = _tiff(encoded, most)
    else:
        image = _alpha(encoded, channels, most)
    if image.shape[2] != channels:
        raise BrokenImage(f'{image.shape[2]} channels: expected {channels}', _CHANNELS)
    return image


def _tiff(encoded: bytes, most: int) -> np.ndarray:
    # Neither Pillow nor OpenCV reads other numbers of channels; OpenCV drops one of two silently.
    require('tifffile', 'tiff')
    import tifffile  # pyright: ignore[reportMissingImports]

    try:
        with tifffile.TiffFile(io.BytesIO(encoded)) as file:
            series: Any = file.series[0]
            shape, axes = tuple(series.shape), series.axes
            check_type(series.dtype, shape)
            height, width = (shape[axes.index(axis)] for axis in 'YX')
            check_pixels(height, width, most)
            values = series.asarray()
    except BrokenImage:
        raise
    except Exception as error:  # its parsers raise all kinds for damaged files
        raise BrokenImage(f'not a TIFF that can be read ({error})') from error
    if values.ndim == 3 and axes.index('Y') > 0:  # one plane after the other
        values = np.moveaxis(values, 0, -1)
    return np.ascontiguousarray(values.reshape(height, width, -1))


def _alpha(encoded: bytes, channels: int, most: int) -> np.ndarray:
    expected = f'expected {channels} channels in a .npy, TIFF or PNG file'
    if not encoded.startswith(_PNG):
        raise BrokenImage(expected, _CHANNELS)
    try:
        with Image.open(io.BytesIO(encoded), formats=['PNG']) as image:
            check_pixels(image.height, image.width, most)
            if image.mode not in _ALPHA:
                raise BrokenImage(f'a PNG of kind {image.mode}: {expected}', _CHANNELS)
            return np.asarray(image)
    except BrokenImage:
        raise
    except Exception as error:  # its parsers raise all kinds for damaged files
        raise BrokenImage(f'not an image, or damaged ({error})') from error
