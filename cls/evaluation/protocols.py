"""Evaluation protocols: the views of an image that a network classifies, and their average.

The views of an image, with their mirror images in some protocols, are classified one by one; the
prediction is the mean of their softmax. Krizhevsky et al. and Szegedy et al. state this, Simonyan &
Zisserman average 'class posteriors'; He et al. average 'scores', perhaps those before the softmax.

`dense` slides the network over the whole image. A network that ends in a mean over positions and a
linear layer already does this: for a larger image it returns the mean of the logits at all
positions. Networks that flatten the last map have a field `dense`. With it their linear layers
slide over the map and the logits are averaged over the positions (VGG: 'the class score map is
spatially averaged'); the softmax of this average is averaged over scales and mirror images.

To bound the number of compiled programs, the longer side of a resized image is cropped, equally at
both ends, so that it exceeds the shorter one by a multiple of config.eval.size_divisor pixels (1:
not cropped). With a scale of 256 and the default of 32, images up to 2:1 have 17 shapes, in
landscape and portrait format, instead of about 500.

Choices where the papers are silent or differ:
* ten_crop: the corners are those of the whole resized image, as in He et al. 2014 (1406.4729,
  section 3) and torchvision; Krizhevsky et al. took those of its central square.
* crops_144: the scales of Szegedy et al., 256, 288, 320 and 352, are for a network with inputs of
  224 pixels. They are 8, 9, 10 and 11 sevenths of 224; here they are these multiples of the
  network's input size.
* crops_12: Szegedy et al. 2016 evaluate with '12 crops' without a definition. Here they are the
  crops of the 144 at the smallest scale in the middle square: its four corners, its center and the
  whole square, each with its mirror image.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn

from cls.data.spec import DataSpec
from cls.data.views import Views, corner_crops, crops, square_crops, wholes
from cls.errors import UserError, nearest, refuse


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """The fields of config.eval without `every`; cls/config/defaults.py documents them."""

    batch: int = 0
    protocol: str = 'single'
    scales: tuple[int, ...] = ()
    size_divisor: int = 32
    predictions: str = ''
    precise_bn: int = 0

    @classmethod
    def from_config(cls, config: Any) -> 'EvalSpec':
        """Reads config.eval. Raises UserError that lists all mistakes."""
        fields = config.eval
        spec = cls(**{field.name: getattr(fields, field.name) for field in dataclasses.fields(cls)})
        refuse(spec._mistakes())
        return spec

    def check_crop(self, data: DataSpec) -> None:
        """Raises UserError if a protocol of several views meets squashed images."""
        if data.is_squashed and find(self.protocol).views:
            raise UserError(
                f'config.data.eval_crop is squash, and config.eval.protocol {self.protocol}: '
                'expected single or flip, or the crop center.'
            )

    @property
    def title(self) -> str:
        """The protocol, with the other fields of a dense one: 'dense-256-384'."""
        parts = [self.protocol]
        if find(self.protocol).dense:
            parts += map(str, self.scales)
            if self.size_divisor != EvalSpec.size_divisor:
                parts.append(f'size_divisor={self.size_divisor}')
        return '-'.join(parts)

    def _mistakes(self) -> Iterator[str]:
        if self.protocol not in PROTOCOLS:
            yield f'config.eval.{_unknown(self.protocol)}'
        name = self.predictions
        if name and (Path(name).name != name or Path(name).suffix != '.csv'):
            yield (
                f'config.eval.predictions is {name!r}: expected NAME.csv, a file of the run folder.'
            )
        scales = tuple(self.scales)
        if not all(type(scale) is int and scale > 0 for scale in scales):
            yield f'config.eval.scales is {scales}: expected shorter sides in pixels.'
        elif len(set(scales)) < len(scales):
            yield f'config.eval.scales is {scales}: expected each scale once.'
        if self.size_divisor < 1:
            yield (f'config.eval.size_divisor is {self.size_divisor}: expected pixels, 1 or more.')


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to evaluate."""

    paper: str
    views: Callable[[EvalSpec, DataSpec], tuple[Views, ...]] | None  # None: eval_batches' crop
    mirrored: bool = False
    dense: bool = False


def _ten(spec: EvalSpec, data: DataSpec) -> tuple[Views, ...]:
    options = {'resize_to': data.eval_shorter_side, 'interpolation': data.interpolation}
    return (crops(corner_crops, 5, data.eval_pixels, **options),)


def _squares(
    data: DataSpec, sevenths: tuple[int, ...], where: tuple[float, ...]
) -> tuple[Views, ...]:
    size = data.eval_pixels
    scales = tuple(round(size * n / 7) for n in sevenths)
    count = 6 * len(scales) * len(where)
    options = {'scales': scales, 'where': where, 'interpolation': data.interpolation}
    return (crops(square_crops, count, size, **options),)


def _twelve(spec: EvalSpec, data: DataSpec) -> tuple[Views, ...]:
    return _squares(data, (8,), (0.5,))


def _hundred(spec: EvalSpec, data: DataSpec) -> tuple[Views, ...]:
    return _squares(data, (8, 9, 10, 11), (0, 0.5, 1))


def _dense(spec: EvalSpec, data: DataSpec) -> tuple[Views, ...]:
    options = spec.size_divisor, data.interpolation, data.max_pixels
    scales = spec.scales or (data.eval_shorter_side,)
    return tuple(wholes(scale, *options) for scale in scales)


PROTOCOLS = {
    'single': Protocol('the center crop', None),
    'flip': Protocol('the center crop and its mirror image', None, True),
    'ten_crop': Protocol('Krizhevsky et al. 2012, section 4.1', _ten, True),
    'crops_12': Protocol('Szegedy et al. 2016, 1512.00567, table 4', _twelve, True),
    'crops_144': Protocol('Szegedy et al. 2015, 1409.4842, section 7', _hundred, True),
    'dense': Protocol('Simonyan & Zisserman 2015, 1409.1556, section 3.2', _dense, dense=True),
    'dense_flip': Protocol(
        'Simonyan & Zisserman 2015; He et al. 2015, 1502.01852 and 1512.03385', _dense, True, True
    ),
}


def find(name: str) -> Protocol:
    """Returns the protocol with a name. Raises UserError if there is none."""
    if name not in PROTOCOLS:
        raise UserError(_unknown(name))
    return PROTOCOLS[name]


def _unknown(name: str) -> str:
    return (
        f'protocol is {name!r}: expected one of {", ".join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}'
    )


def dense_form(model: nn.Module, data: DataSpec) -> nn.Module:
    """Returns a model with the same parameters that slides over images larger than in training."""
    return model.clone(dense=data.image_size) if hasattr(model, 'dense') else model
