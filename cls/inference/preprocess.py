"""From an image to the input of a model: exactly the preparation of an evaluation.

The host decodes, resizes and crops (`Preprocess.pixels`, uint8); the device normalizes
(`Preprocess.normalize`, float32). `Preprocess.__call__` does both.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image as pillow

from cls.data import planes, transforms
from cls.data.decode import MAX_PIXELS, BrokenImage, Decoded, Picture, Rules, of_pillow, picture
from cls.data.headers import MAX_PIXELS_FIELD
from cls.data.resize import INTERPOLATIONS
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.steps.train_step import normalize
from cls.storage import paths

# A path or address, the content of a file, an image of Pillow, or uint8 (H, W), (H, W, C).
Image = str | os.PathLike | bytes | pillow.Image | np.ndarray
# An image, or a batch (N, H, W, C), or a sequence of them.
Images = Image | Iterable[Any]


class UnreadableImage(UserError):
    """An image that cannot be read, decoded or taken as input.

    Attributes:
      image: the name of the image: its path, or its place in the input.
      why: the reason, without the name.
      too_large: whether the image has more than `Preprocess.max_pixels`.
    """

    def __init__(self, image: str, why: str, too_large: bool = False) -> None:
        super().__init__(f'{image}: {why}: expected an image, or leave it out.')
        self.image, self.why, self.too_large = image, why, too_large

    @classmethod
    def of(cls, image: str, error: BrokenImage) -> 'UnreadableImage':
        """Returns the error of an image with a name that cannot be decoded."""
        return cls(image, str(error), error.field == MAX_PIXELS_FIELD)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The preparation of images for a model, the same as in an evaluation.

    Attributes:
      size: height and width of the model's input, in pixels.
      resize: the shorter side before the center crop, in pixels.
      interpolation: one of cls.data.resize.INTERPOLATIONS.
      mean, std: by channel or one for all, of pixels in 0..255.
      contrast: '' or 'global', see cls.steps.train_step.normalize.
      channels: channels of the input.
      exif: whether images are turned as their EXIF data say.
      max_pixels: height times width of the largest image that is decoded.
      repair: whether a damaged JPEG is taken as far as it can be decoded.
      squash: whether both sides become `resize`, whatever their ratio.
    """

    size: int
    resize: int
    interpolation: str = 'bilinear'
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    contrast: str = ''
    channels: int = 3
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    repair: bool = False
    squash: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for values that no image can have."""
        if not 0 < self.size <= self.resize:
            raise UserError(
                f'preprocess: size is {self.size} and resize {self.resize}: expected a crop of at '
                'least one pixel, and resize of at least that.'
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f'preprocess: interpolation is {self.interpolation!r}: expected one of '
                f'{", ".join(INTERPOLATIONS)}.{nearest(self.interpolation, INTERPOLATIONS)}'
            )
        for name in ('mean', 'std'):
            count = len(getattr(self, name))
            if count not in (1, self.channels):
                raise UserError(
                    f'preprocess: {name} has {count} values: expected one for each of '
                    f'{self.channels} channels, or one for all.'
                )

    @classmethod
    def of_data(cls, data: DataSpec, channels: int) -> 'Preprocess':
        """Returns the preparation of an evaluation with config.data."""
        return cls(
            size=data.eval_pixels,
            resize=data.eval_shorter_side,
            interpolation=data.interpolation,
            mean=tuple(data.mean),
            std=tuple(data.std),
            contrast=data.contrast,
            channels=channels,
            exif=data.exif,
            max_pixels=data.max_pixels,
            repair=data.broken_images == 'take',
            squash=data.is_squashed,
        )

    def data(self) -> DataSpec:
        """Returns the same as the fields of config.data, for the views of a protocol."""
        return DataSpec(
            image_size=self.size,
            eval_resize=self.resize,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            contrast=self.contrast,
            exif=self.exif,
            max_pixels=self.max_pixels,
            eval_crop='squash' if self.squash else 'center',
        )

    def __call__(self, images: Images) -> np.ndarray:
        """Returns the model's input for images, (N, size, size, channels) float32, normalized.

        Raises UnreadableImage for the first image that cannot be taken.
        """
        return np.asarray(self.normalize(self.pixels(images)))

    def pixels(self, images: Images) -> np.ndarray:
        """Returns decoded, resized and cropped images, (N, size, size, channels) uint8.

        Args:
          images: an image or several: paths, contents of files, images of Pillow, uint8 arrays
            (H, W, C) or (H, W), batches (N, H, W, C), and sequences of them.

        Raises UnreadableImage for the first image that cannot be taken.
        """
        each, _ = split(images)
        crops = [self.crop(image, name) for name, image in each]
        shape = (len(crops), self.size, self.size, self.channels)
        return np.stack(crops) if crops else np.zeros(shape, np.uint8)

    def normalize(self, images: Any) -> jax.Array:
        """Returns normalized images, (N, H, W, C) float32; it can be part of a jitted function.

        Args:
          images: (N, H, W, C), in 0..255.
        """
        return normalize(images, self.mean, self.std, self.contrast)

    def crop(self, image: Image, name: str = 'the image') -> np.ndarray:
        """Returns one decoded, resized and cropped image, (size, size, channels) uint8.

        Args:
          image: see `Image`.
          name: the name of the image in errors.

        Raises UnreadableImage if it cannot be taken.
        """
        opened = self.picture(image, name)
        try:
            return transforms.center_crop(
                opened, self.size, self.resize, self.interpolation, self.squash
            )
        except BrokenImage as error:
            raise UnreadableImage.of(name, error) from error

    def decoded(self, image: Image, name: str = 'the image') -> np.ndarray:
        """Returns the pixels of a whole image, (H, W, channels) uint8. Raises as `crop` does."""
        opened = self.picture(image, name)
        try:
            return opened.region(0, 0, *opened.size, to=opened.size)[0]
        except BrokenImage as error:
            raise UnreadableImage.of(name, error) from error

    def picture(self, image: Image, name: str) -> Picture:
        """Returns an image, decoded or to be decoded. Raises UnreadableImage."""
        rules = Rules(self.exif, self.max_pixels, self.repair, verify=True)
        try:
            if isinstance(image, np.ndarray):
                return Decoded(planes.converted(image, self.channels))
            if isinstance(image, pillow.Image):
                if self.channels not in (1, 3):
                    return Decoded(planes.converted(np.asarray(image), self.channels))
                return Decoded(of_pillow(image, self.channels, rules))
            return picture(_content(image), self.channels, rules)
        except BrokenImage as error:
            raise UnreadableImage.of(name, error) from error
        except MemoryError as error:
            raise UnreadableImage(name, str(error) or 'it does not fit the memory') from error


def _content(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    file = paths.path(image)
    if paths.is_remote(file):
        with paths.explained(file):
            return file.read_bytes()
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = getattr(error, 'strerror', None) or error
        raise BrokenImage(f'it cannot be read ({why})') from error


def split(images: Images) -> tuple[list[tuple[str, Image]], bool]:
    """Returns ((name, image) of each image, whether it was a single one and not a batch).

    Raises UserError for input of another kind.
    """
    if _is_image(images):
        return [(_name(images, 0), _plain(images))], True
    return [(_name(image, i), image) for i, image in enumerate(_each(images))], False


def _each(images: Any) -> Iterator[Image]:
    if _is_image(images):
        yield _plain(images)
        return
    if hasattr(images, 'ndim') and hasattr(images, 'dtype'):
        if images.ndim != 4:
            raise UserError(
                f'an array of shape {tuple(images.shape)}: expected an image (H, W, C) or a batch '
                '(N, H, W, C) of uint8.'
            )
        yield from np.asarray(images)
        return
    if isinstance(images, dict) or not isinstance(images, Iterable):
        raise UserError(
            f'a {type(images).__name__} is no image: expected a path, an image of Pillow, a uint8 '
            'array, or a sequence of these.'
        )
    for image in images:
        yield from _each(image)


def _is_image(image: Any) -> bool:
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview | pillow.Image):
        return True
    return getattr(image, 'ndim', 0) in (2, 3) and hasattr(image, 'dtype')


def _plain(image: Any) -> Image:
    is_array = hasattr(image, 'dtype') and not isinstance(image, pillow.Image)
    return np.asarray(image) if is_array else image


def _name(image: Any, place: int) -> str:
    if isinstance(image, str | Path | os.PathLike):
        return os.fspath(image)
    return getattr(image, 'filename', '') or f'image {place}'
