"""The specification of a run's images and labels: the fields of config.data."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from cls.data.resize import INTERPOLATIONS
from cls.data.splits import Validation
from cls.errors import UserError, nearest, refuse

PAD_MODES = ('zero', 'mean', 'mirror')
CROPS = ('none', 'pad', 'scale_jitter', 'random_resized', 'distorted_box')
CONTRASTS = ('', 'global')
EVAL_CROPS = ('center', 'squash')
_NAMES = {
    'train_crop': CROPS,
    'interpolation': INTERPOLATIONS,
    'contrast': CONTRASTS,
    'eval_crop': EVAL_CROPS,
}


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The fields of config.data, config.eval.validation and config.seed.

    cls/config/defaults.py documents them.
    """

    name: str = 'digits'
    dir: str = ''
    train_split: str = 'train'
    eval_split: str = ''
    channels: int = 0
    num_classes: int = 0
    allow_changed: bool = False
    class_order: str = 'text'
    classes: str = ''
    image_column: str = ''
    label_column: str = ''
    split_column: str = ''
    multi_label: bool = False
    exif: bool = True
    max_pixels: int = 89_478_485
    broken_images: str = 'refuse'
    balanced: bool = False
    repeats: int = 1
    image_size: int = 32
    interpolation: str = 'bilinear'
    train_crop: str = 'none'
    pad: int = 4
    pad_mode: str = 'zero'
    scale: tuple[int, int] = (256, 480)
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    eval_size: int = 0
    eval_resize: int = 0
    eval_crop: str = 'center'
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    contrast: str = ''
    workers: int = 0
    validation: str = ''
    seed: int = 0  # of the choice of images for validation

    @classmethod
    def from_config(cls, config: Any) -> 'DataSpec':
        """Returns the specification in a config. Raises UserError for all mistakes at once."""
        names = [field.name for field in dataclasses.fields(cls)]
        fields = {name: config.data[name] for name in names if name not in ('validation', 'seed')}
        spec = cls(**fields, validation=config.eval.validation, seed=config.seed)
        refuse(spec._mistakes())
        return spec

    @property
    def held(self) -> Validation:
        """The meaning of `validation`. Raises UserError if it has none."""
        return Validation.read(self.validation)

    @property
    def eval_pixels(self) -> int:
        """Height and width of the images in an evaluation."""
        return self.eval_size or self.image_size

    @property
    def is_squashed(self) -> bool:
        """Whether an evaluation resizes both sides of an image, whatever their ratio."""
        return self.eval_crop == 'squash'

    @property
    def eval_shorter_side(self) -> int:
        """The shorter side of an image in an evaluation, before the crop."""
        return self.eval_resize or self.eval_pixels

    def at_size(self, size: int) -> 'DataSpec':
        """Returns this specification for another image size; all lengths in pixels scale too."""
        if size == self.image_size:
            return self
        factor = size / self.image_size
        scale = tuple(round(factor * side) for side in self.scale)
        return dataclasses.replace(self, image_size=size, pad=round(factor * self.pad), scale=scale)

    def check_repeats(self, batch: int, batch_of: str) -> None:
        """Raises UserError if a batch cannot hold all `repeats` copies of each image.

        Args:
          batch: The number of examples.
          batch_of: The origin of the batch, for the message.
        """
        if batch % self.repeats:
            raise UserError(
                f'config.data.repeats is {self.repeats}: expected a divisor of the {batch} '
                f'examples of {batch_of}.'
            )

    def check_channels(self, channels: int) -> None:
        """Raises UserError if mean or std have another number of values than `channels`."""
        refuse(
            f'config.data.{name} has {len(values)} values, but the images of {self.name} have '
            f'{channels} channel(s): expected one for each, or one for all.'
            for name, values in (('mean', self.mean), ('std', self.std))
            if len(values) not in (1, channels)
        )

    def _mistakes(self) -> Iterator[str]:
        for field, least in (('image_size', 1), ('repeats', 1), ('eval_size', 0), ('workers', 0)):
            value = getattr(self, field)
            if value < least:
                yield f'config.data.{field} is {value}: expected {least} or more.'
        for field, known in _NAMES.items():
            yield from self._name(field, known)
        try:
            _ = self.held
        except UserError as error:
            yield str(error)
        if 0 < self.eval_resize < self.eval_pixels:
            yield (
                f'config.data.eval_resize is {self.eval_resize}, less than the {self.eval_pixels} '
                f'of {"eval_size" if self.eval_size else "image_size"} that are cropped from it: '
                'expected 0 (as large) or more than that.'
            )
        yield from self._mistakes_of_crop()

    def _mistakes_of_crop(self) -> Iterator[str]:
        if self.train_crop == 'pad':
            yield from self._name('pad_mode', PAD_MODES)
            if self.pad < 0:
                yield f'config.data.pad is {self.pad}: expected pixels to add, 0 or more.'
            if self.pad_mode == 'mirror' and self.pad >= self.image_size:
                yield (
                    f'config.data.pad is {self.pad}: images of {self.image_size} pixels can be '
                    f'mirrored by at most {self.image_size - 1}.'
                )
        elif self.train_crop == 'scale_jitter':
            yield from self._range('scale', self.image_size, math.inf)
        elif self.train_crop in ('random_resized', 'distorted_box'):
            yield from self._range('area', 0, 1)
            yield from self._range('aspect', 0, math.inf)

    def _name(self, field: str, known: tuple[str, ...]) -> Iterator[str]:
        value = getattr(self, field)
        if value not in known:
            shown = ', '.join(name or "''" for name in known)
            yield (
                f"config.data.{field} is '{value}': expected one of {shown}.{nearest(value, known)}"
            )

    def _range(self, field: str, least: float, most: float) -> Iterator[str]:
        """Yields a mistake unless a field is (low, high), positive and within the limits."""
        values = getattr(self, field)
        if (
            len(values) != 2
            or not (0 < values[0] <= values[1] and least <= values[0])
            or values[1] > most
        ):
            limits = f'from {least:g} to {most:g}' if most < math.inf else f'of at least {least:g}'
            yield (
                f'config.data.{field} is {values}: expected (low, high), both positive and '
                f'{limits}' + (' (image_size).' if field == 'scale' else '.')
            )
