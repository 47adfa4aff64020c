"""What config.augment asks for."""

import dataclasses

from ml_collections import ConfigDict

from cls.augment.policies import POLICIES
from cls.errors import UserError, nearest

CHOICES = {
    'policy': ('', *POLICIES),
    'distortion': ('', 'inception', 'inception_fast'),
    'erasing_fill': ('noise', 'mean'),
}
COLOURED = ('hue', 'saturation', 'hsl', 'lighting')  # what only images in RGB have


@dataclasses.dataclass(frozen=True)
class Augment:
    """The fields of config.augment; with these defaults nothing is done."""

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
    def of(cls, config: ConfigDict, channels: int) -> 'Augment':
        """Reads a config, of training on images of 1 or 3 channels.

        Raises UserError for values that mean nothing, or nothing for such images.
        """
        augment = cls(**config.augment)
        for name, known in CHOICES.items():
            value = getattr(augment, name)
            if value not in known:
                names = ', '.join(repr(x) for x in known)
                raise UserError(
                    f'config.augment.{name} is {value!r}: expected one of {names}.'
                    f'{nearest(value, known)}'
                )
        if augment.policy == 'randaugment_increasing' and augment.magnitude > 10:
            raise UserError(
                f'config.augment.magnitude is {augment.magnitude}: randaugment_increasing goes '
                'from 0 to 10.'
            )
        for name in COLOURED:
            if channels == 1 and any([getattr(augment, name)] if name != 'hsl' else augment.hsl):
                raise UserError(
                    f'config.augment.{name} is {getattr(augment, name)!r}, but the images of '
                    f'{config.data.name} have no colours: expected 0.'
                )
        if augment.mixes and config.batch < 2:
            raise UserError('config.augment mixes the images of a batch: expected batch > 1.')
        return augment

    @property
    def active(self) -> bool:
        """Whether anything is done."""
        off = dataclasses.replace(
            self,
            layers=Augment.layers,
            magnitude=Augment.magnitude,
            magnitude_std=Augment.magnitude_std,
            erasing_fill=Augment.erasing_fill,
        )
        return off != Augment()

    @property
    def jitters(self) -> bool:
        """Whether colours are jittered."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed with others."""
        return bool(self.mixup or self.cutmix)
