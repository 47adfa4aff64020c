"""The settings in a config.json of Hugging Face transformers that its tensors do not show.

transformers writes only the settings that differ from its defaults. The variants here compute what
its networks compute with the values below (families/transformers.py).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cls.errors import UserError

_EXPECTED: dict[str, dict[str, tuple]] = {  # model_type -> setting -> values
    'resnet': {'hidden_act': ('relu',), 'downsample_in_first_stage': (False,)},
    'efficientnet': {
        'hidden_act': ('swish', 'silu'),
        'batch_norm_eps': (1e-3,),
        'pooling_type': ('mean',),
        'strides': ([1, 2, 2, 2, 1, 2, 1],),
    },
    'mobilenet_v1': {
        'hidden_act': ('relu6',),
        'tf_padding': (True,),
        'layer_norm_eps': (1e-3,),
    },
    'mobilenet_v2': {
        'hidden_act': ('relu6',),
        'tf_padding': (True,),
        'layer_norm_eps': (1e-3,),
        'output_stride': (32,),
    },
}
# transformers' defaults, of EfficientNet-B7.
_EFFICIENTNET = {'image_size': 600, 'depth_coefficient': 3.1, 'depthwise_padding': []}
_REPEATS = [1, 2, 2, 3, 3, 4, 1]
_STRIDES = _EXPECTED['efficientnet']['strides'][0]


def check(card: Mapping[str, Any]) -> None:
    """Raises UserError if a setting changes the numbers of a network with the same tensors."""
    kind = card.get('model_type')
    wrong = []
    for name, values in _EXPECTED.get(kind, {}).items() if isinstance(kind, str) else ():
        value = card.get(name, values[0])
        if isinstance(value, list | tuple):
            value = list(value)
        if not any(type(value) is type(each) and value == each for each in values):
            wrong.append(f'{name}={value!r:.60}, not {values[0]!r}')
    if wrong:
        raise UserError(
            f'{", ".join(wrong)}: transformers would compute something else with the same tensors; '
            'cls lacks this network'
        )
    if kind == 'efficientnet':
        _check_padding(card)


def _check_padding(card: Mapping[str, Any]) -> None:
    """Raises UserError if blocks are padded in another way than TensorFlow pads these images."""
    settings = {name: card.get(name, value) for name, value in _EFFICIENTNET.items()}
    listed = settings['depthwise_padding']
    try:
        odd = dict(_reductions(int(settings['image_size']), float(settings['depth_coefficient'])))
        padded = {number: number in {*listed} for number in odd}
    except (TypeError, ValueError):
        raise UserError(f'{settings}: expected numbers, and a list of numbers') from None
    if padded != odd:
        raise UserError(
            f'depthwise_padding is {listed!r:.60}: for images of {settings["image_size"]} pixels '
            f'expected {[number for number, is_odd in odd.items() if is_odd]}, the blocks that '
            'halve an odd number of pixels; the network pads as TensorFlow does'
        )


def _reductions(size: int, depth: float) -> Iterator[tuple[int, bool]]:
    """Yields (number of a block that halves the size, whether the size before it is odd)."""
    size, block = math.ceil(size / 2), 0
    for repeats, stride in zip(_REPEATS, _STRIDES, strict=True):
        if stride == 2:
            yield block, size % 2 == 1
            size = math.ceil(size / 2)
        block += math.ceil(depth * repeats)
