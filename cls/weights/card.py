"""The metadata of a checkpoint: a snapshot's config.json, or a training script's arguments.

timm writes config.json in two forms. The present one has `architecture`, `num_classes`,
`model_args` (arguments of the constructor that are not its defaults), `label_names`,
`label_descriptions` and the preparation of images in `pretrained_cfg`. The older form has all in
one object. Transformers' config.json has `id2label`. Training scripts save an argparse.Namespace
with the weights.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cls.errors import UserError
from cls.models import registry
from cls.models.registry import Variant
from cls.weights import transformers_card
from cls.weights.families import families

# timm's networks that accept the state dict of a variant's reference but compute something else, by
# other padding, epsilon or blurred strides. A comparison of all networks of timm 1.0.31 found them.
# The tf_ ones are variants too.
LOOKALIKES = {
    'efficientnet_b0': ('efficientnet_blur_b0',),
    'tf_efficientnet_b0': ('efficientnet_blur_b0',),
    'resnet18': ('resnetblur18',),
    'wrn18_1': ('resnetblur18',),
    'resnet50': ('resnetaa50', 'resnetblur50'),
}
# More names of the same network: timm's if the reference is in another package.
_ALSO = {
    'mnasnet_b1': ('mnasnet_100',),
}
# timm's former names -> its present names.
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

# Arguments of timm's constructors that do not change a network in evaluation, and arguments that do
# not change it with these values.
_OF_TRAINING = (
    'checkpoint_path', 'drop_block_rate', 'drop_connect_rate', 'drop_path_rate', 'drop_rate',
    'exportable', 'img_size', 'num_classes', 'pretrained', 'pretrained_cfg', 'scriptable',
    'zero_init_last',
)  # fmt: skip
_DEFAULTS = {'global_pool': 'avg', 'output_stride': 32, 'features_only': False}
_ACTIVATIONS = (  # the start of a reference's name -> its activation
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
    """Returns the fields of a card on the preparation of images; {} if it has none.

    Raises UserError if `pretrained_cfg` is not an object.
    """
    fields = card.get('pretrained_cfg', card)
    if not isinstance(fields, Mapping):
        raise UserError(f'pretrained_cfg is {fields!r:.60}: expected an object')
    return fields


def license_of(readme: str) -> str:
    """Returns the license in the metadata of a model card, '' if it has none.

    The metadata are lines `name: value` between two lines `---` at the start of README.md. A
    `license_name` is the name of a license that the Hub calls `other`.
    """
    match = re.match(r'---[ \t]*\r?\n(.*?)^---', readme, re.DOTALL | re.MULTILINE)
    if not match:
        return ''
    fields = dict(re.findall(r'^(license(?:_name)?):[ \t]*(.*?)[ \t]*\r?$', match[1], re.MULTILINE))
    values = {name: value.strip('\'"') for name, value in fields.items()}
    name = values.get('license', '')
    name = values.get('license_name', name) if name in ('', 'other') else name
    return name if name.isprintable() else ''


def word(card: Mapping[str, Any]) -> str:
    """Returns a card's architecture, '' if it has none. Raises UserError if it is not a text."""
    name = card.get('architecture') or preprocessing(card).get('architecture') or ''
    if not isinstance(name, str):
        raise UserError(f'architecture is {name!r:.60}: expected a name')
    return name


def words(variant: Variant) -> set[str]:
    """Returns the names that timm and torchvision use for the network of a variant."""
    reference = (variant.reference or '').rpartition(':')[2]
    if reference in registry.names():  # pytorchcv's resnet50 is not the one of that name here
        same = registry.variant(reference).reference == variant.reference
        reference = reference if same else ''
    own = {variant.name, variant.name.removesuffix('_cifar'), reference} - {''}
    return (
        own - _of_others(variant)
        | {*_ALSO.get(variant.name, ())}
        | {word for word, name in _networks() if name == variant.name}
    )


def _networks() -> Iterator[tuple[str, str]]:
    """Yields (name of a network of timm or torchvision, its variant)."""
    for family in families():
        if family.name in ('timm', 'torchvision'):
            yield from family.networks.items()


def _of_others(variant: Variant) -> set[str]:
    return {word for word, name in _networks() if name != variant.name}


def plain_word(word: str) -> str:
    """Returns an architecture's name without a hub's prefix, a tag, or timm's former names."""
    word = word.removeprefix('hf-hub:').removeprefix('hf_hub:').rpartition('/')[2]
    if word not in registry.names():
        word = word.partition('.')[0]
    for pattern, replacement in _FORMER:
        word = re.sub(pattern, replacement, word)
    return word


def check(card: Mapping[str, Any], variant: Variant, *, strict: bool = True) -> None:
    """Raises UserError unless `architecture` and `model_args` of a card fit a variant.

    Args:
      card: the card of a snapshot, or from a training script's arguments.
      variant: the variant to import the weights as.
      strict: whether every other name is refused. Otherwise only names of another known network
        are refused, because training scripts may name their models freely.
    """
    transformers_card.check(card)
    architecture, own = word(card), words(variant)
    plain = plain_word(architecture)
    if architecture and not {architecture, plain} & own and (strict or is_known(plain)):
        fitting = _index(tuple(registry.names())).get(plain, [])
        choose = f'choose {" or ".join(fitting[:3])}' if fitting else 'cls lacks this network'
        raise UserError(
            f'architecture is {architecture!r}, not {_listed(variant)}: there the tensors would '
            f'compute something else; {choose}'
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
            f'model_args has {listed}, unlike {variant.name}: its tensors would compute something '
            'else there; cls lacks this network'
        )


def check_channels(card: Mapping[str, Any], channels: int) -> None:
    """Raises UserError if a card of timm or transformers states other channels of the images."""
    arguments = card.get('model_args') or {}
    if not isinstance(arguments, Mapping):
        arguments = {}
    for name, value in (
        ('in_chans', arguments.get('in_chans')),
        ('num_channels', card.get('num_channels')),
    ):
        if value is not None and value != channels:
            raise UserError(
                f'{name} is {value!r:.40}, but the first convolution of the weights takes '
                f'{channels} channels'
            )


def _is_default(variant: Variant, name: str, value: Any) -> bool:
    """Returns whether an argument of timm's constructor has the value of the variant."""
    if name == 'in_chans':  # see check_channels
        return type(value) is int
    if name == 'act_layer':
        reference = (variant.reference or '').rpartition(':')[2]
        return any(re.match(p, reference) and value in acts for p, acts in _ACTIVATIONS)
    return name in _DEFAULTS and _DEFAULTS[name] == value


def is_known(word: str) -> bool:
    """Returns whether timm or torchvision has a network of that name like those here."""
    index = _index(tuple(registry.names()))
    return word in index or any(word in names for names in LOOKALIKES.values())


@functools.cache
def _index(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Returns {name of a network: its variants}."""
    index: dict[str, list[str]] = {}
    for name in names:
        for own in words(registry.variant(name)):
            index.setdefault(own, []).append(name)
    return index


def _listed(variant: Variant) -> str:
    others = sorted(words(variant) - {variant.name})
    return variant.name + (f' ({", ".join(others)})' if others else '')


def class_names(card: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], str]:
    """Returns (names of a network's outputs, the card's field with the names); ((), '') if none.

    Args:
      card: the card of a snapshot.
      count: the number of outputs.

    Raises:
      UserError: the number of names differs from `count`, or a name occurs twice, or two fields
        have the same names in different orders. Repeated names among 1,000, as among ImageNet's
        English names, are ignored instead.
    """
    first = {}  # set of names -> (names in the order of a field, the field)
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
    """Returns the names in a field, in the order of the outputs; () if it has none."""
    if not value or (field == 'classes' and type(value) is int):  # the number of classes
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
        elif field == 'label_descriptions':  # name -> description
            value = list(places)
        else:
            raise UserError(f'{field} is an object without numbers for keys: expected a list')
    if not all(type(name) in (str, int) for name in value):
        raise UserError(f'{field} has more than names: expected a list of texts')
    names = tuple(map(str, value))
    if strange := [name for name in names if not name or not name.isprintable()]:
        raise UserError(f'{field} has {strange[0]!r:.60}: expected names that can be printed')
    unnamed = all(re.fullmatch(r'LABEL_\d+', name) for name in names)  # Transformers' default
    return () if unnamed else names


def size(fields: Mapping[str, Any], name: str, count: int = 3) -> int:
    """Returns the height of `input_size` or `test_input_size`, (channels, height, width); or 0.

    Raises UserError for images that are not square, or have neither three channels, as those that
    the weights were adapted from, nor `count`.
    """
    value = fields.get(name)
    if value is None:
        return 0
    valid = isinstance(value, list | tuple) and all(type(n) is int and n > 0 for n in value)
    if not valid or len(value) != 3 or value[0] not in (3, count) or value[1] != value[2]:
        raise UserError(
            f'{name} is {value!r:.60}: expected {_numbers(count)} channels and a square, as '
            f'({count}, 224, 224)'
        )
    return value[1]


def number(fields: Mapping[str, Any], name: str, default: float) -> float:
    """Returns a fraction of a side, as `crop_pct`. Raises UserError unless it is in (0, 1]."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise UserError(f'{name} is {value!r:.60}: expected a part of the side, above 0, at most 1')
    return float(value)


def channels(fields: Mapping[str, Any], name: str, count: int = 3) -> tuple[float, ...] | None:
    """Returns `mean` or `std`, None if absent.

    Raises UserError unless the value is three numbers, or `count`, in the range of pixels in 0 to
    1.
    """
    value = fields.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple)
        or len(value) not in (3, count)
        or not all(type(x) in (int, float) and 0 <= x <= 1 for x in value)
        or (name == 'std' and not all(value))
    ):
        above = 'above 0, at most 1' if name == 'std' else '0 to 1'
        raise UserError(
            f'{name} is {value!r:.60}: expected {_numbers(count)} numbers, {above}, of pixels in 0 '
            'to 1'
        )
    return tuple(map(float, value))


def _numbers(count: int) -> str:
    return 'three' if count == 3 else f'three or {count}'
