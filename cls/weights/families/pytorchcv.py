"""pytorchcv (imgclsmob): its names of networks, and of the tensors of variants named otherwise.

Its files name tensors uniformly: features.init_block, features.stageN.unitM, output. The tables
turn these into the names of the modules here, and the variant's own `renames` turn those into the
names of its reference. Variants whose reference is pytorchcv need no table.

Source: github.com/osmr/imgclsmob, the package pytorchcv 0.0.74.
"""

import re
from collections.abc import Callable

import numpy as np

from cls.models import efficientnet
from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Renames, Tensors


def _of(pairs: Renames | Callable[[Variant], Renames]) -> Callable[[Variant], Renames]:
    """Returns a function of a variant: pairs to our names, and then to those of its reference."""

    def renames(variant: Variant) -> Renames:
        return (*(pairs(variant) if callable(pairs) else pairs), *variant.renames)

    return renames


def _block(match: re.Match[str]) -> str:
    return f'layer{match[1]}.{int(match[2]) - 1}.'


# Residual networks.
BLOCKS = (
    (r'^features\.stage(\d)\.unit(\d+)\.', _block),
    (r'\.body\.conv(\d)\.(conv|bn)\.', r'.\2\1.'),
    (r'\.identity_conv\.conv\.', '.downsample.0.'),
    (r'\.identity_conv\.bn\.', '.downsample.1.'),
)
RESIDUAL = (
    (r'^features\.init_block\.conv\.(conv|bn)\.', r'\g<1>1.'),
    *BLOCKS,
    (r'^output\.', 'fc.'),
)
SENET = (
    (r'^features\.init_block\.conv\.(conv|bn)\.', r'layer0.\g<1>1.'),
    (r'^features\.init_block\.conv(\d)\.(conv|bn)\.', r'layer0.\2\1.'),
    *BLOCKS,
    (r'\.se\.conv(\d)\.', r'.se_module.fc\1.'),
    (r'^output\.(fc\.)?', 'last_linear.'),
)


def folded(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with a norm after each convolution, for convolutions that have a bias.

    pytorchcv's wide network has its norms folded into the convolutions. A norm of variance
    1 - epsilon, scale 1 and that bias computes the same.
    """
    del variant
    result = {}
    for name, value in tensors.items():
        if not name.endswith('.bias') or name == 'output.bias':
            result[name] = value
            continue
        norm = f'{name.removesuffix(".conv.bias")}.bn'
        result[f'{norm}.bias'] = value
        result[f'{norm}.weight'] = np.ones_like(value)
        result[f'{norm}.running_mean'] = np.zeros_like(value)
        result[f'{norm}.running_var'] = np.full_like(value, 1 - 1e-5)
    return result


DENSENET = (
    (r'^features\.init_block\.(conv|bn)\.', lambda m: {'conv': 'conv0.', 'bn': 'norm0.'}[m[1]]),
    (r'^features\.stage(\d)\.unit(\d+)\.', r'denseblock\1.denselayer\2.'),
    (r'^features\.stage\d\.trans(\d)\.conv\.', lambda m: f'transition{int(m[1]) - 1}.'),
    (r'^features\.post_activ\.bn\.', 'norm5.'),
    (r'^output\.', 'classifier.'),
)


def _vgg(variant: Variant) -> Renames:
    """Returns the pairs of a network, whose layers are numbered consecutively."""
    layers = 2 if variant.fields.get('batch_norm') else 1  # a convolution, and a norm
    pairs, index = [], 0
    for stage, depth in enumerate(variant.fields['depths'], 1):
        for unit in range(1, depth + 1):
            for i, layer in enumerate(('conv', 'bn')[:layers]):
                name = rf'^features\.stage{stage}\.unit{unit}\.{layer}\.'
                pairs.append((name, f'features.{index + i}.'))
            index += layers + 1  # a rectifier
        index += 1  # a pool
    linear = ((1, 0), (2, 3), (3, 6))
    return (*pairs, *((rf'^output\.fc{i}\.(?:fc\.)?', f'classifier.{n}.') for i, n in linear))


def with_biases(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns tensors with a bias of 0 for each convolution without one.

    pytorchcv has the network with biases of its convolutions (named b) and without.
    """
    del variant
    result = dict(tensors)
    for name, value in tensors.items():
        if name.endswith('.conv.weight'):
            bias = name.removesuffix('weight') + 'bias'
            result.setdefault(bias, np.zeros(value.shape[0], value.dtype))
    return result


def _squeezenet(variant: Variant) -> Renames:
    """Returns the pairs of a network, whose modules are numbered consecutively."""
    pairs, index = [(r'^features\.init_block\.conv\.', 'features.0.')], 1
    for stage, modules in enumerate(variant.fields['stages'], 1):
        index += 1  # a max pool
        for unit in range(1, len(modules) + 1):
            index += 1
            name = rf'^features\.stage{stage}\.unit{unit}\.(\w+)\.conv\.'
            pairs.append((name, rf'features.{index}.\1.'))
    return (*pairs, (r'^output\.final_conv\.', 'classifier.1.'))


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
    fields = {**{f: getattr(variant.module, f, None) for f in ('genotype', 'width')}}
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


def _inverted(variant: Variant) -> Renames:
    return (*_inside(_units(variant), LAYERS), *ENDS)


def _mnasnet(variant: Variant) -> Renames:
    """Returns the pairs of a network whose first and last blocks belong to its ends."""
    (_, first), *units, (_, last) = _units(variant)
    units = [
        (theirs.replace(theirs[:15], f'features.stage{int(theirs[14]) - 1}'), ours)
        for theirs, ours in units
    ]
    ends = [('features.init_block.conv2', first), ('features.final_block.conv1', last)]
    return (*_inside(units + ends, LAYERS), *ENDS)


def _mobilenetv3(variant: Variant) -> Renames:
    last = f'blocks.{len(_runs(variant))}.0'
    return (
        *_inside(_units(variant), V3_LAYERS),
        (r'^features\.final_block\.conv\.conv\.', f'{last}.conv.'),
        (r'^features\.final_block\.conv\.bn\.', f'{last}.bn1.'),
        (r'^output\.conv1\.', 'conv_head.'),
        (r'^output\.conv2\.', 'classifier.'),
        *ENDS[:2],
    )


def _biased(layer: str) -> Callable[[Tensors, Variant], Tensors]:
    """Returns a function that adds a bias of 0 to a linear layer, which has none in pytorchcv."""

    def tensors(tensors: Tensors, variant: Variant) -> Tensors:
        del variant
        weight = tensors.get(f'{layer}.weight')
        if weight is None:
            return tensors
        return {**tensors, f'{layer}.bias': np.zeros(weight.shape[0], weight.dtype)}

    return tensors


FAMILY = Family(
    name='pytorchcv',
    tables=(
        Names(r'resnet(18|26|34|50|101|152)|resnext(50_32x4d|101_32x4d|101_64x4d)', _of(RESIDUAL)),
        Names(
            r'seresnet(50|101|152)|seresnext(50|101)_32x4d|senet154',
            _of(SENET),
            fields={'padded': True},
        ),
        Names(r'wrn50_2', _of(RESIDUAL), folded),
        Names(r'densenet(121|161|169|201)', _of(DENSENET)),
        Names(r'vgg(11|13|16|19)', _of(_vgg)),
        Names(r'vgg(11|13|16|19)_bn', _of(_vgg), with_biases),
        Names(r'squeezenet1_[01]', _of(_squeezenet)),
        Names(r'mobilenet_100', _of(MOBILENET), fields={'clipped': False}),
        Names(r'(tf_)?efficientnet_b\d', _of(_inverted)),
        Names(r'mobilenetv2_100', _of(_inverted), _biased('output')),
        Names(r'mnasnet_(a1|b1|small)', _of(_mnasnet)),
        Names(
            r'mobilenetv3_large_100',
            _of(_mobilenetv3),
            _biased('output.conv1'),
            {'epsilon': 1e-5},
        ),
    ),
)
