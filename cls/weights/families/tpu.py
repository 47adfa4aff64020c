"""The names of the TPU reference models, in torch's form by cls.weights.keras.

EfficientNet and MnasNet number their layers within a block, `conv2d_1`: a block without expansion
has one convolution and one norm less.

Source: models/official/efficientnet, mnasnet and amoeba_net in tensorflow/tpu.
"""

import re

from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Renames
from cls.weights.families.cell_names import tensorflow, without_aux
from cls.weights.families.keras import by_number, home, network_runs

_TF = {'padding': 'SAME', 'epsilon': 1e-3}


def _names(variant: Variant) -> Renames:
    blocks = inverted.blocks(network_runs(variant))
    names = [name for name, _ in blocks]

    def layer(match: re.Match) -> str:
        index, kind, number = int(match[1]), match[2], int(match[3] or 0)
        expands = index < len(blocks) and blocks[index][1].expansion != 1
        number += 0 if expands else 1
        convolutions, norms = ('conv_pw', 'conv_pwl'), ('bn1', 'bn2', 'bn3')
        rows = {'conv2d': convolutions, 'depthwise_conv2d': ('conv_dw',)}.get(kind, norms)
        if kind == 'depthwise_conv2d':
            number = 0
        layer_name = rows[number] if number < len(rows) else f'{kind}_{number}'
        return f'{by_number(names, index)}.{layer_name}.'

    return home(
        (
            (r'^(?:efficientnet|mnasnet)-\w+\.', ''),
            (r'^mnas_', ''),
            (r'^stem\.conv2d\.', 'conv_stem.'),
            (r'^stem\.(?:tpu_)?batch_normalization\.', 'bn1.'),
            (r'^head\.conv2d\.', 'conv_head.'),
            (r'^head\.(?:tpu_)?batch_normalization\.', 'bn2.'),
            (r'^head\.dense\.', 'classifier.'),
            (
                r'^blocks_(\d+)\.se\.conv2d(_1)?\.',
                lambda m: f'{by_number(names, int(m[1]))}.se.conv_{_GATES[bool(m[2])]}.',
            ),
            (
                r'^blocks_(\d+)\.((?:depthwise_)?conv2d|(?:tpu_)?batch_normalization)(?:_(\d))?\.',
                layer,
            ),
        ),
        variant,
    )


_GATES = ('reduce', 'expand')

FAMILY = Family(
    'tpu',
    tables=(
        Names('tf_efficientnet_(b[0-8]|l2|lite[0-4])', _names),
        Names('mnasnet_(a1|b1|small)(_\\d+)?', _names, fields=_TF),
        Names('amoebanet_.*', tensorflow, without_aux),
    ),
    networks={f'efficientnet-b{i}': f'tf_efficientnet_b{i}' for i in range(9)}
    | {f'efficientnet-lite{i}': f'tf_efficientnet_lite{i}' for i in range(5)},
    missing={
        r'efficientnet-condconv.*': 'conditional convolutions',
        r'efficientnet-edgetpu.*': 'fused blocks',
        r'efficientnet-x.*': 'fused blocks and other activations',
    },
)
