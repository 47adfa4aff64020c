"""The specification of augmentation, read from config.augment."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from cls.augment.policies import POLICIES
from cls.errors import nearest, refuse

CHOICES = {
    'policy': ('', *POLICIES),
    'distortion': ('', 'inception', 'inception_fast'),
    'erasing_fill': ('noise', 'mean'),
}
COLOR_FIELDS = ('hue', 'saturation', 'hsl', 'lighting')  # for images of three channels only
GRAY_FIELDS = ('policy', 'distortion', 'contrast')  # for images of one or three channels


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """The fields of config.augment; with these defaults, `apply` only normalizes."""

    policy: str = ''
    layers: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.0
    rotation: float = 0.0
    distortion: str = ''
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    hsl: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lighting: float = 0.0
    noise: float = 0.0
    cutout: int = 0
    erasing: float = 0.0
    erasing_fill: str = 'noise'
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def from_config(cls, config: Any, channels: int) -> 'AugmentSpec':
        """Returns the specification of a training config.

        Args:
          config: the config of the run; config.augment, config.batch and config.data.name are read.
          channels: channels of the images.

        Raises UserError with all values that are unknown, or impossible for such images.
        """
        spec = cls(**config.augment)
        problems = [*spec._problems()]
        problems += spec._problems_of_channels(config.data.name, channels)
        if spec.mixes and config.batch < 2:
            problems.append('config.augment mixes the images of a batch: expected batch > 1.')
        refuse(problems)
        return spec

    def _problems(self) -> Iterator[str]:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                expected = ', '.join(map(repr, choices))
                yield (
                    f'config.augment.{name} is {value!r}: expected one of {expected}.'
                    f'{nearest(value, choices)}'
                )
        if self.policy == 'randaugment_increasing' and self.magnitude > 10:
            yield (
                f'config.augment.magnitude is {self.magnitude}: expected 0 to 10 with '
                'randaugment_increasing.'
            )

    def _problems_of_channels(self, data: str, channels: int) -> Iterator[str]:
        fields = () if channels == 3 else COLOR_FIELDS
        fields += () if channels in (1, 3) else GRAY_FIELDS
        for name in fields:
            value = getattr(self, name)
            if any(value if name == 'hsl' else [value]):
                images = 'no colors' if channels == 1 else f'{channels} channels'
                yield (
                    f'config.augment.{name} is {value!r}, but the images of {data} have {images}: '
                    f'expected {repr("") if isinstance(value, str) else 0}.'
                )

    @property
    def active(self) -> bool:
        """Whether there is any augmentation."""
        off = dataclasses.replace(
            self,
            layers=AugmentSpec.layers,
            magnitude=AugmentSpec.magnitude,
            magnitude_std=AugmentSpec.magnitude_std,
            erasing_fill=AugmentSpec.erasing_fill,
        )
        return off != AugmentSpec()

    @property
    def jitters(self) -> bool:
        """Whether colors are jittered."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def mixes(self) -> bool:
        """Whether each image and label of a batch is mixed with another."""
        return bool(self.mixup or self.cutmix)
