"""Protocols of evaluation: what of an image a net sees, and what is averaged.

An image's views, and their mirror images where the protocol has them, are classified one by one;
the mean of their softmax is the prediction. Krizhevsky et al. and Szegedy et al. write so, Simonyan
& Zisserman of 'class posteriors'; He et al. say 'scores', which may be those before the softmax.

`dense` is the net slid over the whole image. One that ends in a mean over positions and a linear
layer already is: the mean of the logits at all positions is what it gives for a larger image. Nets
that flatten the last map have a field `dense`, under which their linear layers slide over it and
the logits are averaged over the positions (VGG: 'the class score map is spatially averaged'); the
softmax is taken of that, and averaged over scales and mirror images.

To bound the number of programs that are compiled, the longer side of a resized image is cut, by the
same at both ends, so that it exceeds the shorter one by a multiple of config.eval.size_divisor
pixels (1: not cut). A scale of 256 and the default of 32 make 17 shapes of images up to 2:1, lying
and standing, instead of some 500.

Choices where the papers are silent or differ:
* ten_crop: the corners are those of the whole resized image, as He et al. 2014 (1406.4729, section
  3) and torchvision have it; Krizhevsky et al. took those of its central square.
* crops_144: Szegedy et al.'s scales, 256, 288, 320 and 352, are for a net that sees 224 pixels.
  They are 8, 9, 10 and 11 sevenths of that, and here of whatever the net sees.
* crops_12: Szegedy et al. 2016 evaluate with '12 crops' and do not say which. Here they are those
  of the 144 that belong to the smallest scale and the middle square: its four corners, middle and
  whole, each mirrored.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
from ml_collections import ConfigDict

from cls.data import transforms
from cls.data.views import Views, corner_crops, crops, square_crops, wholes
from cls.errors import UserError, nearest

MULTIPLE = 32  # of config.eval.size_divisor, the default


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to evaluate."""

    paper: str
    views: Callable[[ConfigDict], tuple[Views, ...]] | None  # None: the crop in data.eval_batches
    mirrored: bool = False
    dense: bool = False


def _ten(config: ConfigDict) -> tuple[Views, ...]:
    size = transforms.eval_size(config.data)
    options = {'interpolation': transforms.interpolation(config.data)}
    return (crops(corner_crops, 5, size, resize_to=config.data.eval_resize or size, **options),)


def _squares(config: ConfigDict, sevenths: tuple[int, ...], where: tuple[float, ...]):
    size = transforms.eval_size(config.data)
    scales = tuple(round(size * n / 7) for n in sevenths)
    count = 6 * len(scales) * len(where)
    options = {'interpolation': transforms.interpolation(config.data)}
    return (crops(square_crops, count, size, scales=scales, where=where, **options),)


def _twelve(config: ConfigDict) -> tuple[Views, ...]:
    return _squares(config, (8,), (0.5,))


def _hundred(config: ConfigDict) -> tuple[Views, ...]:
    return _squares(config, (8, 9, 10, 11), (0, 0.5, 1))


def _dense(config: ConfigDict) -> tuple[Views, ...]:
    scales = config.eval.scales or (config.data.eval_resize or transforms.eval_size(config.data),)
    interpolation = transforms.interpolation(config.data)
    options = config.eval.size_divisor, interpolation, config.data.max_pixels
    return tuple(wholes(scale, *options) for scale in scales)


PROTOCOLS = {
    'single': Protocol('the centre crop', None),
    'flip': Protocol('the centre crop and its mirror image', None, True),
    'ten_crop': Protocol('Krizhevsky et al. 2012, section 4.1', _ten, True),
    'crops_12': Protocol('Szegedy et al. 2016, 1512.00567, table 4', _twelve, True),
    'crops_144': Protocol('Szegedy et al. 2015, 1409.4842, section 7', _hundred, True),
    'dense': Protocol('Simonyan & Zisserman 2015, 1409.1556, section 3.2', _dense, dense=True),
    'dense_flip': Protocol(
        'Simonyan & Zisserman 2015; He et al. 2015, 1502.01852 and 1512.03385', _dense, True, True
    ),
}


def find(name: str) -> Protocol:
    """Returns a protocol. Raises UserError for a name that is none."""
    if name not in PROTOCOLS:
        raise UserError(
            f'config.eval.protocol is {name!r}: expected one of {", ".join(PROTOCOLS)}.'
            + nearest(name, PROTOCOLS)
        )
    return PROTOCOLS[name]


def title(config: ConfigDict) -> str:
    """Returns the protocol of a config with what else belongs to it: 'dense-256-384'."""
    name, chosen = config.eval.protocol, find(config.eval.protocol)
    parts = [str(scale) for scale in config.eval.scales] if chosen.dense else []
    if chosen.dense and config.eval.size_divisor != MULTIPLE:
        parts.append(f'size_divisor={config.eval.size_divisor}')
    return '-'.join([name, *parts])


def check(config: ConfigDict) -> None:
    """Raises UserError for fields of config.eval that make no sense."""
    find(config.eval.protocol)
    name = config.eval.predictions
    if name and (Path(name).name != name or Path(name).suffix != '.csv'):
        raise UserError(
            f'config.eval.predictions is {name!r}: expected NAME.csv, a file of the run folder.'
        )
    transforms.eval_crop(config.data)
    scales, multiple = tuple(config.eval.scales), config.eval.size_divisor
    if not all(type(scale) is int and scale > 0 for scale in scales):
        raise UserError(f'config.eval.scales is {scales}: expected shorter sides in pixels.')
    if len(set(scales)) < len(scales):
        raise UserError(f'config.eval.scales is {scales}: expected each scale once.')
    if multiple < 1:
        raise UserError(f'config.eval.size_divisor is {multiple}: expected pixels, 1 or more.')


def dense_form(model: nn.Module, config: ConfigDict) -> nn.Module:
    """Returns the net to be slid over larger images than it was trained on; same parameters."""
    return model.clone(dense=config.data.image_size) if hasattr(model, 'dense') else model
