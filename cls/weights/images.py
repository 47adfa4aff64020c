"""The preparation of images for weights: from a snapshot's metadata, or else from tables."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cls.data.spec import EVAL_CROPS
from cls.errors import UserError
from cls.models.registry import Variant
from cls.weights import card as cards
from cls.weights import processor, published, stem, usual
from cls.weights.hub import CARD, PROCESSOR, Located
from cls.weights.published import Published

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
LITE = (127 / 255,) * 3, (128 / 255,) * 3  # as in its authors' code
DPN = (124 / 255, 117 / 255, 104 / 255), (1 / (255 * 0.0167),) * 3
# Reference, or variant without one -> mean and standard deviation of pixels in 0..1, and the part
# of the shorter side that the center crop keeps, if these are not ImageNet's and 0.875. The two
# Inceptions of torchvision convert ImageNet's normalization to HALF before their first layer.
PREPARED = {
    'torchvision:googlenet': (*HALF, 0.875),
    'torchvision:inception_v3': (*HALF, 0.875),
    'timm:inception_v3': (*HALF, 0.875),
    'timm:inception_v4': (*HALF, 0.875),
    'timm:inception_resnet_v2': (*HALF, 0.8975),
    'timm:legacy_xception': (*HALF, 0.8975),
    **{f'timm:dpn{size}': (*DPN, 0.875) for size in (68, 92, 98, 131, 107)},
    **{f'mobilenet_{width}_tf': (*HALF, 0.875) for width in ('100', '075', '050', '025')},
    'mobilenetv2_100_tf': (*HALF, 0.875),
    'timm:mobilenetv1_100': (*HALF, 0.875),
    'timm:tf_mobilenetv3_large_minimal_100': (*HALF, 0.875),
    'timm:tf_mobilenetv3_small_minimal_100': (*HALF, 0.875),
    'pretrainedmodels:nasnetamobile': (*HALF, 0.875),
    'pretrainedmodels:nasnetalarge': (*HALF, 0.911),
    'timm:pnasnet5large': (*HALF, 0.911),
    **{
        f'timm:tf_efficientnet_{size}': (*IMAGENET, crop)
        for size, crop in zip(
            ('b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7', 'b8', 'l2'),
            (0.882, 0.89, 0.904, 0.922, 0.934, 0.942, 0.949, 0.954, 0.961),
            strict=True,
        )
    },
    **{
        f'timm:tf_efficientnet_lite{size}': (*LITE, crop)
        for size, crop in enumerate((0.875, 0.882, 0.89, 0.904, 0.92))
    },
}

# timm resizes with bicubic interpolation except for these; the other packages are bilinear.
BILINEAR_IN_TIMM = re.compile(
    'timm:(dla60|legacy_se|mobilenetv3_large|res2ne|resnext101_32x4d|tf_efficientnet_lite[34]|'
    'tf_mobilenetv3)'
)


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The preparation of images for a model's published weights.

    Attributes:
      mean, std: by channel, of pixels in 0..255.
      size: height and width of the images.
      crop: the part of the resized image's shorter side that the center crop keeps.
      interpolation: as config.data.interpolation.
      known_from: the source of each of these.
      other: (size, crop) that the card has only for evaluation; () if none.
      space: 'BGR' if the first convolution expects the channels in this order, otherwise ''.
      row: the published weights that these are, None if unknown.
      assumed: a sentence on fields that published weights of this kind differ in, '' if none.
      squash: whether both sides are resized, whatever their ratio, and not the shorter one.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    crop: float
    interpolation: str
    known_from: Mapping[str, str]
    other: tuple[int, float] | tuple[()] = ()
    space: str = ''
    row: Published | None = None
    assumed: str = ''
    squash: bool = False

    @property
    def resize(self) -> int:
        """The shorter side before the crop, rounded down as timm does."""
        return math.floor(self.size / self.crop)

    def of_channels(self, channels: int) -> 'Preparation':
        """Returns the preparation of images with some channels: colors' means become one."""
        mean, std = (stem.normalization(values, channels) for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std)


def _check_pixels(told: Mapping[str, Any]) -> None:
    """Raises UserError unless pixels are RGB in 0 to 1; weights from Caffe differ."""
    if told.get('input_space') not in (None, 'RGB'):
        raise UserError(
            f'input_space is {told["input_space"]!r:.40}: expected RGB. For BGR, import '
            'only the file, with import_weights --bgr'
        )
    if told.get('input_range') not in (None, [0, 1], (0, 1)):
        raise UserError(f'input_range is {told["input_range"]!r:.40}: expected [0, 1]')
    mode = told.get('crop_mode') or EVAL_CROPS[0]
    if mode not in EVAL_CROPS:
        raise UserError(f'crop_mode is {mode!r:.40}: expected {" or ".join(EVAL_CROPS)}')


def prepared_for(
    variant: Variant,
    located: Located,
    source: str,
    wanted: int = 0,
    package: str = '',
    channels: int = stem.COLORS,
) -> Preparation:
    """Returns the preparation of images for a checkpoint.

    Each field is from the first of these that states it: the snapshot's metadata; the table of
    published weights, if it has this checkpoint (see `published.find`); all published weights of
    the package for this variant, if they agree; the table of the reference.

    Args:
      variant: the variant of the checkpoint.
      located: its files.
      source: the checkpoint as the user gave it.
      wanted: the wanted pixels, used if the source of the size has them; 0: its default.
      package: the package whose names the tensors have, '' for the reference's.
      channels: the channels of the images.

    Raises:
      UserError: see `preparation`.
    """
    card = located.card
    if located.processor:
        card = {**card, 'pretrained_cfg': processor.as_card(located.processor, PROCESSOR)}
    row, evidence = published.find(variant.name, source, located.file, located.card)
    reference = variant.reference or variant.name
    if row is not None:
        rows, known = (row,), f'{row.title}, by {evidence}'
    else:
        package = package or reference.partition(':')[0]
        rows = tuple(r for r in published.of_variant(variant.name) if r.package == package)
        known = f'all published weights of {package}'
        if not rows and (one := usual.row(package, variant.name)):
            rows, known = (one,), f'the usual preparation of {package}'
    told = preparation(reference, card, wanted or variant.input_size, rows, known, channels)
    return dataclasses.replace(told, row=row, assumed='' if row else _differences(told, rows))


def _differences(told: Preparation, rows: Sequence[Published]) -> str:
    """Returns a sentence on published weights with another preparation than the assumed one."""
    guessed = [field for field, source in told.known_from.items() if source.startswith(_TABLE)]
    differing = {}
    for field, name in (('crop', 'resize'), ('interpolation', 'interpolation'), ('size', 'size')):
        own = getattr(told, name)
        for row in rows if field in guessed else ():
            if value := getattr(row, name):
                differing.setdefault((name, value), []).append(row.tag or row.name)
        differing.pop((name, own), None)
    if not differing:
        return ''
    listed = '; '.join(f'{n} {v} of {", ".join(tags[:3])}' for (n, v), tags in differing.items())
    return f'Assumed, as no published weights are recognized; some differ: {listed}.'


def preparation(
    reference: str,
    card: Mapping[str, Any],
    input_size: int,
    rows: Sequence[Published] = (),
    known: str = '',
    channels: int = stem.COLORS,
) -> Preparation:
    """Returns the preparation of images by the snapshot's card, or else by tables.

    A card's `crop_pct` belongs to its `input_size`, and `test_crop_pct` to `test_input_size`. The
    wanted size is used if it is one of the two, otherwise the card's `input_size`.

    Args:
      reference: 'package:constructor' of the reference implementation, or the name of a variant
        without one.
      card: config.json of a timm snapshot, or {}.
      input_size: the wanted pixels; without a card, 32 means CIFAR.
      rows: published weights; fields in which all that state them agree are used.
      known: the name of `rows` for `known_from`.
      channels: the channels of the images.

    Raises:
      UserError: the card has invalid values, or an unsupported preparation of images.
    """
    told = cards.preprocessing(card)
    origin = PROCESSOR if told.get('_processor') else CARD
    _check_pixels(told)
    stated = _agreed(rows)
    usual, table = _table(reference, input_size)
    interpolation = told.get('interpolation') or stated.get('interpolation')
    interpolation = interpolation or usual['interpolation']
    if interpolation not in _INTERPOLATIONS:
        expected = ', '.join(_INTERPOLATIONS)
        raise UserError(f'interpolation is {interpolation!r:.40}: expected one of {expected}')

    crop = stated.get('crop', usual['crop'])
    own = cards.size(told, 'input_size', channels)
    sizes = [(own, cards.number(told, 'crop_pct', crop), 'crop_pct')]
    if test := cards.size(told, 'test_input_size', channels):
        sizes.append((test, cards.number(told, 'test_crop_pct', sizes[0][1]), 'test_crop_pct'))
    elif not sizes[0][0] and 'size' in stated:
        sizes = [(stated['size'], sizes[0][1], 'crop_pct')]
        sizes += [(*stated['test'], 'crop_pct')] if 'test' in stated else []
    size, part, field = next((s for s in sizes if s[0] in (input_size, 0)), sizes[0])
    other = next(((s, c) for s, c, _ in sizes if s not in (size, 0)), ())
    fields = {'mean': 'mean', 'std': 'std', 'interpolation': 'interpolation'}
    fields |= {'size': 'input_size', 'crop': field if field in told else 'crop_pct'}
    known_from = {}
    for name, of_card in fields.items():
        here = told.get(of_card) is not None
        known_from[name] = origin if here else known if name in stated else table
    mean, std = (
        cards.channels(told, name, channels) or stated.get(name) or usual[name]
        for name in ('mean', 'std')
    )
    prepared = Preparation(
        tuple(round(255 * x, 4) for x in mean),
        tuple(round(255 * x, 4) for x in std),
        size or input_size,
        part,
        interpolation,
        known_from,
        other,
        stated.get('space', ''),
        squash=told.get('crop_mode') == 'squash',
    )
    return prepared.of_channels(channels)


_TABLE = 'the table of '
_INTERPOLATIONS = ('bilinear', 'bicubic', 'nearest')


def _table(reference: str, input_size: int) -> tuple[dict[str, Any], str]:
    """Returns the preparation of images by a reference alone, and the name of this table."""
    bicubic = reference.startswith('timm:') and not BILINEAR_IN_TIMM.match(reference)
    mean, std, crop = PREPARED.get(reference, (*IMAGENET, 0.875))
    table = f'{_TABLE}{reference}'
    if input_size == 32:
        mean, std, crop, table = *CIFAR, 1.0, f'{_TABLE}pytorchcv on CIFAR'
    interpolation = 'bicubic' if bicubic else 'bilinear'
    return {'mean': mean, 'std': std, 'crop': crop, 'interpolation': interpolation}, table


def _agreed(rows: Sequence[Published]) -> dict[str, Any]:
    """Returns the fields that have one value in all rows that state them."""
    agreed: dict[str, Any] = {}
    for field in ('mean', 'std', 'interpolation', 'size', 'space'):
        values = {getattr(row, field) for row in rows} - {(), '', 0}
        if len(values) == 1:
            agreed[field] = values.pop()
    crops = {(row.size, row.resize) for row in rows if row.resize}
    if len(crops) == 1:
        agreed['crop'] = _crop(*crops.pop())
    tests = {(row.test_size, row.test_resize) for row in rows}
    if len(tests) == 1 and 'size' in agreed and (test := tests.pop())[0]:
        agreed['test'] = test[0], _crop(*test)
    return agreed


def _crop(size: int, resize: int) -> float:
    """Returns the fraction with which `Preparation.resize` is `resize`."""
    crop = round(size / resize, 6)
    return crop if math.floor(size / crop) == resize else math.nextafter(size / resize, 0)
