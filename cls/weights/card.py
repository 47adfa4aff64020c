"""What a checkpoint says of itself: a snapshot's config.json, or a training script's arguments.

timm writes config.json in two forms. The present one has `architecture`, `num_classes`,
`model_args` (arguments of the constructor, where they are not its own), `label_names`,
`label_descriptions` and the images' `pretrained_cfg`; the older one has all in one object.
Transformers' has `id2label`. Training scripts save an argparse.Namespace beside the weights.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from cls.errors import UserError
from cls.models import registry
from cls.models.registry import Variant

# timm's networks whose state dict has the names and shapes of a variant's reference and that
# compute something else (other padding, epsilon or blurred strides), found by comparing all of
# timm 1.0.31's. The tf_ ones are variants too.
LOOKALIKES = {
    'efficientnet_b0': ('efficientnet_blur_b0',),
    'tf_efficientnet_b0': ('efficientnet_blur_b0',),
    'mobilenetv3_large_075': ('tf_mobilenetv3_large_075',),
    'mobilenetv3_small_075': ('tf_mobilenetv3_small_075',),
    'resnet18': ('resnetblur18',),
    'wrn18_1': ('resnetblur18',),
    'resnet50': ('resnetaa50', 'resnetblur50'),
    'nasnet_a_large': ('nasnetalarge',),
}
# Names that mean one network here, or in pytorchcv, and another in timm, whose cards these are.
_OTHERS_IN_TIMM = {
    'mobilenetv3_large_100': ('mobilenetv3_large_100',),
    'mobilenetv3_small_100': ('mobilenetv3_small_100',),
    'nasnet_a_large': ('nasnetalarge',),  # which pads as TensorFlow, and pretrainedmodels' does not
    'resnet50_v1': ('resnet50',),
    'resnet101_v1': ('resnet101',),
    'resnet152_v1': ('resnet152',),
    **{f'se{name}': (f'se{name}',) for name in ('resnet50', 'resnet101', 'resnet152', 'net154')},
    **{f'se{name}': (f'se{name}',) for name in ('resnext50_32x4d', 'resnext101_32x4d')},
}
# Further names of the same network: timm's where the reference is another package's, and the
# network at inference that a variant trains in another way.
_ALSO = {
    'mnasnet_b1': ('mnasnet_100',),
    'resnet152_sd': ('resnet152',),
}
# timm's former names, turned into those it has now.
_FORMER = (
    (r'^(?:tv|ssl|swsl|ig)_(resne.*|densenet121)$', r'\1'),
    (r'^gluon_(resnet\d+)_v1b$', r'\1'),
    (r'^gluon_(resnext.*|inception_v3)$', r'\1'),
    (r'^(tf_efficientnet_..)_(?:ap|ns|ns_475)$', r'\1'),
    (r'^(efficientnet_b[23])a$', r'\1'),
    (r'^(?:tf|adv)_(inception_v3)$', r'\1'),
    (r'^ens_adv_(inception_resnet_v2)$', r'\1'),
    (r'^xception$', 'legacy_xception'),
    (r'^mnasnet_a1$', 'semnasnet_100'),
    (r'^mnasnet_b1$', 'mnasnet_100'),
)

# Arguments of timm's constructors that do not change what a network computes in evaluation, and
# those that do not if they have these values.
_OF_TRAINING = (
    'checkpoint_path', 'drop_block_rate', 'drop_connect_rate', 'drop_path_rate', 'drop_rate',
    'exportable', 'img_size', 'num_classes', 'pretrained', 'pretrained_cfg', 'scriptable',
    'zero_init_last',
)  # fmt: skip
_DEFAULTS = {'in_chans': 3, 'global_pool': 'avg', 'output_stride': 32, 'features_only': False}
_ACTIVATIONS = (  # by the beginning of a reference's name
    (r'(tf_)?efficientnet_(b\d|l2)', ('swish', 'silu')),
    (r'(tf_)?efficientnet_lite\d', ('relu6',)),
    (r'(wide_)?resne(t|xt)\d', ('relu',)),
)

_NAMES = (
    *('label_names', 'labels', 'class_names', 'classes', 'id2label', 'idx_to_class'),
    *('label2id', 'class_to_idx', 'label_descriptions'),
)
_NUMBERED = ('label2id', 'class_to_idx')  # name -> output, not the other way around


def preprocessing(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a card's object that says how images are prepared; {} where it has none.

    Raises UserError if that is no object.
    """
    fields = card.get('pretrained_cfg', card)
    if not isinstance(fields, Mapping):
        raise UserError(f'pretrained_cfg is {fields!r:.60}: expected an object')
    return fields


def word(card: Mapping[str, Any]) -> str:
    """Returns the architecture's name, '' where a card has none. Raises UserError for no text."""
    name = card.get('architecture') or preprocessing(card).get('architecture') or ''
    if not isinstance(name, str):
        raise UserError(f'architecture is {name!r:.60}: expected a name')
    return name


def words(variant: Variant) -> set[str]:
    """Returns the names under which timm and torchvision know a variant's very network."""
    reference = (variant.reference or '').rpartition(':')[2]
    named = {variant.name, variant.name.removesuffix('_cifar'), reference} - {''}
    return named - {*_OTHERS_IN_TIMM.get(variant.name, ())} | {*_ALSO.get(variant.name, ())}


def plain_word(word: str) -> str:
    """Returns an architecture's name without a hub's prefix, a tag, or timm's former names."""
    word = word.removeprefix('hf-hub:').removeprefix('hf_hub:').rpartition('/')[2]
    if word not in registry.names():
        word = word.partition('.')[0]
    for pattern, replacement in _FORMER:
        word = re.sub(pattern, replacement, word)
    return word


def check(card: Mapping[str, Any], variant: Variant, *, strict: bool = True) -> None:
    """Raises UserError if a card is not of a variant's network: `architecture` and `model_args`.

    Args:
      card: of a snapshot, or from a training script's arguments.
      variant: what the weights are wanted as.
      strict: whether every other name is refused; else only names that are known to be another
        network's, as scripts call their models as they like.
    """
    told, own = word(card), words(variant)
    plain = plain_word(told)
    if told and not {told, plain} & own and (strict or _is_known(plain)):
        fitting = _index(tuple(registry.names())).get(plain, [])
        choose = f'choose {" or ".join(fitting[:3])}' if fitting else 'this network is not here'
        raise UserError(
            f'architecture is {told!r}, not {_listed(variant)}, as which the tensors would compute '
            f'something else; {choose}'
        )
    arguments = card.get('model_args') or {}
    if not isinstance(arguments, Mapping):
        raise UserError(f'model_args is {arguments!r:.60}: expected an object')
    arguments = {**arguments, **{k: card[k] for k in ('global_pool',) if card.get(k)}}
    changed = {
        name: value
        for name, value in arguments.items()
        if name not in _OF_TRAINING and value is not None and not _is_default(variant, name, value)
    }
    if changed:
        listed = ', '.join(f'{name}={value!r:.60}' for name, value in changed.items())
        raise UserError(
            f'model_args has {listed}, which {variant.name} has not: its tensors would compute '
            'something else; this network is not here'
        )


def _is_default(variant: Variant, name: str, value: Any) -> bool:
    """Whether an argument of timm's constructor says what the network is anyway."""
    if name == 'act_layer':
        reference = (variant.reference or '').rpartition(':')[2]
        return any(re.match(p, reference) and value in acts for p, acts in _ACTIVATIONS)
    return name in _DEFAULTS and _DEFAULTS[name] == value


def _is_known(word: str) -> bool:
    known = _index(tuple(registry.names()))
    return word in known or any(word in names for names in LOOKALIKES.values())


@functools.cache
def _index(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns each word for a network -> the variants that it is."""
    found: dict[str, list[str]] = {}
    for name in names:
        for own in words(registry.variant(name)):
            found.setdefault(own, []).append(name)
    return found


def _listed(variant: Variant) -> str:
    others = sorted(words(variant) - {variant.name})
    return variant.name + (f' ({", ".join(others)})' if others else '')


def class_names(card: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], str]:
    """Returns (names of a network's outputs, the card's field that has them); ((), '') if none.

    Args:
      card: of a snapshot.
      count: of the outputs.

    Raises:
      UserError: there are names, but not one for each output, or some twice (unless there are
        1,000, as of ImageNet's English names: then these count as none), or two fields have them
        in different orders.
    """
    first = {}  # the set of names that a field has -> (them in its order, the field)
    for holder in (card, preprocessing(card)):
        for field in _NAMES:
            if names := _ordered(field, holder.get(field)):
                if len(names) != count:
                    raise UserError(
                        f'{field} names {len(names)} classes, but the network has {count} outputs: '
                        'expected a name for each'
                    )
                twice = sorted({name for name in names if names.count(name) > 1})
                if twice and count != 1000:
                    raise UserError(f'{field} has {twice[0]!r} twice: expected different names')
                if not twice:
                    other, before = first.setdefault(frozenset(names), (names, field))
                    if other != names and field != 'label_descriptions':
                        raise UserError(
                            f'{before} and {field} have the same names in different orders: '
                            'expected one order'
                        )
    return next(iter(first.values()), ((), ''))


def _ordered(field: str, value: Any) -> tuple[str, ...]:
    """Returns the names of a field by output, () where it has none."""
    if not value or (field == 'classes' and type(value) is int):  # how many there are
        return ()
    if not isinstance(value, Mapping | list | tuple):
        raise UserError(f'{field} is {value!r:.60}: expected a list of names')
    if isinstance(value, Mapping):
        if field in _NUMBERED:
            value = {number: name for name, number in value.items()}
        places = {str(key): name for key, name in value.items()}
        if all(key.isdecimal() for key in places):
            numbers = sorted(map(int, places))
            if numbers != list(range(len(places))):
                raise UserError(
                    f'{field} numbers its {len(places)} classes {numbers[0]} to {numbers[-1]}: '
                    f'expected 0 to {len(places) - 1}, each once'
                )
            value = [places[key] for key in sorted(places, key=int)]
        elif field == 'label_descriptions':  # of each name: the names themselves count
            value = list(places)
        else:
            raise UserError(f'{field} is an object without numbers for keys: expected a list')
    if not all(type(name) in (str, int) for name in value):
        raise UserError(f'{field} holds more than names: expected a list of texts')
    names = tuple(map(str, value))
    if strange := [name for name in names if not name or not name.isprintable()]:
        raise UserError(f'{field} has {strange[0]!r:.60}: expected names that can be printed')
    unnamed = all(re.fullmatch(r'LABEL_\d+', name) for name in names)  # Transformers' default
    return () if unnamed else names


def size(fields: Mapping[str, Any], name: str) -> int:
    """Returns the height of `input_size` or `test_input_size`, (channels, height, width); or 0.

    Raises UserError for images that are not square or not of three channels.
    """
    value = fields.get(name)
    if value is None:
        return 0
    whole = isinstance(value, list | tuple) and all(type(n) is int and n > 0 for n in value)
    if not whole or len(value) != 3 or value[0] != 3 or value[1] != value[2]:
        raise UserError(
            f'{name} is {value!r:.60}: expected three channels and a square, as (3, 224, 224)'
        )
    return value[1]


def number(fields: Mapping[str, Any], name: str, default: float) -> float:
    """Returns a part of a side, as `crop_pct`. Raises UserError unless it is in (0, 1]."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError(f'{name} is {value!r:.60}: expected a part of the side, above 0, at most 1')
    return float(value)


def channels(fields: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """Returns `mean` or `std`, None if absent.

    Raises UserError unless it is three numbers that pixels in 0 to 1 can have.
    """
    value = fields.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or not all(type(x) in (int, float) and 0 <= x <= 1 for x in value)
        or (name == 'std' and not all(value))
    ):
        above = 'above 0, at most 1' if name == 'std' else '0 to 1'
        raise UserError(
            f'{name} is {value!r:.60}: expected three numbers, {above}, of pixels in 0 to 1'
        )
    return tuple(map(float, value))
