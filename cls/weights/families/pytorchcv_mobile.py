"""pytorchcv's names of MobileNet, ShuffleNetV2 and networks of inverted residuals.

Each table gives pairs to the names of the modules here (see pytorchcv.py).
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from cls.models import efficientnet, shufflenetv2
from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Renames, Tensors

MOBILENET = (
    (r'^features\.init_block\.conv\.', 'conv_stem.'),
    (r'^features\.init_block\.bn\.', 'bn1.'),
    (
        r'^features\.stage(\d)\.unit(\d)\.(dw|pw)_conv\.(conv|bn)\.',
        lambda m: (
            f'blocks.{int(m[1]) - 1}.{int(m[2]) - 1}.'
            f'{f"conv_{m[3]}" if m[4] == "conv" else {"dw": "bn1", "pw": "bn2"}[m[3]]}.'
        ),
    ),
    (r'^output\.', 'classifier.'),
)


def shufflenetv2_pairs(form: int) -> Renames:
    """Returns the pairs of the network without (0) or with (1) `b` in its name."""
    return (
        *(
            (rf'\.unit(\d)\.{re.escape(both[form])}\.', rf'.unit\1.{ours}.')
            for ours, both in shufflenetv2.LAYERS.items()
        ),
        (r'^features\.init_block\.conv\.conv\.', 'conv1.0.'),
        (r'^features\.init_block\.conv\.bn\.', 'conv1.1.'),
        (r'^features\.final_block\.conv\.', 'conv5.0.'),
        (r'^features\.final_block\.bn\.', 'conv5.1.'),
        (
            r'^features\.stage(\d)\.unit(\d)\.',
            lambda m: f'stage{int(m[1]) + 1}.{int(m[2]) - 1}.',
        ),
        (r'^output\.', 'fc.'),
    )


# Layers of inverted residuals, in each file's names, after the name of a block here.
EXPAND, DEPTHWISE, PROJECT = ('conv_pw', 'bn1'), ('conv_dw', 'bn2'), ('conv_pwl', 'bn3')
LAYERS = {
    'conv1': EXPAND,
    'conv2': DEPTHWISE,
    'conv3': PROJECT,
    'exp_conv': EXPAND,
    'dw_conv': DEPTHWISE,
    'pw_conv': PROJECT,
}
V3_LAYERS = {'exp_conv': EXPAND, 'conv1': DEPTHWISE, 'conv2': PROJECT}
ENDS = (
    (r'^features\.init_block\.(?:conv\.|conv1\.)?bn\.', 'bn1.'),
    (r'^features\.init_block\.(?:conv\.|conv1\.)?conv\.', 'conv_stem.'),
    (r'^features\.final_block\.(?:conv2\.)?bn\.', 'bn2.'),
    (r'^features\.final_block\.(?:conv2\.)?conv\.', 'conv_head.'),
    (r'^output\.(?:fc\.)?', 'classifier.'),
)


def _runs(variant: Variant) -> list[list[inverted.Run]]:
    """Returns the runs of each stage of a network of inverted residuals."""
    fields: dict[str, Any] = {f: getattr(variant.module, f, None) for f in ('genotype', 'width')}
    fields |= variant.fields
    if variant.module is efficientnet.EfficientNet:
        lite = fields.get('lite', False)
        return efficientnet.scaled(fields['genotype'], fields['width'], fields['depth'], lite)
    return inverted.scaled(fields['genotype'], fields['width'])


def _units(variant: Variant) -> list[tuple[str, str]]:
    """Returns (name in pytorchcv, name here) of each block; a stage begins with each stride."""
    runs = _runs(variant)
    strided = {f'blocks.{s}.0' for s, stage in enumerate(runs) if s == 0 or stage[0].strides > 1}
    units, stage, unit = [], 0, 0
    for name, _ in inverted.blocks(runs):
        stage, unit = (stage + 1, 1) if name in strided else (stage, unit + 1)
        units.append((f'features.stage{stage}.unit{unit}', name))
    return units


def _inside(units: list[tuple[str, str]], layers: dict[str, tuple[str, str]]) -> Renames:
    """Returns the pairs of layers and gates of blocks, given (name in pytorchcv, name here)."""
    return (
        *((rf'^{re.escape(theirs)}\.', f'{ours}.') for theirs, ours in units),
        (
            rf'^(blocks\.\d+\.\d+)\.({"|".join(layers)})\.(conv|bn)\.',
            lambda m: f'{m[1]}.{layers[m[2]][m[3] == "bn"]}.',
        ),
        (r'^(blocks\.\d+\.\d+\.se)\.conv1\.', r'\1.conv_reduce.'),
        (r'^(blocks\.\d+\.\d+\.se)\.conv2\.', r'\1.conv_expand.'),
    )


def inverted_pairs(variant: Variant) -> Renames:
    """Returns the pairs of a MobileNetV2 or an EfficientNet."""
    return (*_inside(_units(variant), LAYERS), *ENDS)


def mnasnet(variant: Variant) -> Renames:
    """Returns the pairs of a network whose first and last blocks belong to its ends."""
    (_, first), *units, (_, last) = _units(variant)
    units = [
        (theirs.replace(theirs[:15], f'features.stage{int(theirs[14]) - 1}'), ours)
        for theirs, ours in units
    ]
    ends = [('features.init_block.conv2', first), ('features.final_block.conv1', last)]
    return (*_inside(units + ends, LAYERS), *ENDS)


def mobilenetv3(variant: Variant) -> Renames:
    """Returns the pairs of a MobileNetV3."""
    last = f'blocks.{len(_runs(variant))}.0'
    return (
        *_inside(_units(variant), V3_LAYERS),
        (r'^features\.final_block\.conv\.conv\.', f'{last}.conv.'),
        (r'^features\.final_block\.conv\.bn\.', f'{last}.bn1.'),
        (r'^output\.conv1\.', 'conv_head.'),
        (r'^output\.conv2\.', 'classifier.'),
        *ENDS[:2],
    )


def biased(layer: str) -> Callable[[Tensors, Variant], Tensors]:
    """Returns a function that adds a bias of 0 to a linear layer without one in pytorchcv."""

    def tensors(tensors: Tensors, variant: Variant) -> Tensors:
        del variant
        weight = tensors.get(f'{layer}.weight')
        if weight is None:
            return tensors
        return {**tensors, f'{layer}.bias': np.zeros(weight.shape[0], weight.dtype)}

    return tensors
