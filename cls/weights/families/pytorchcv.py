"""pytorchcv (imgclsmob): its names of networks, and of the tensors of variants named otherwise.

Its files name tensors uniformly: features.init_block, features.stageN.unitM, output. The tables
turn these into the names of the modules here, and the variant's own `renames` turn those into the
names of its reference. Variants whose reference is pytorchcv need no table.

Source: github.com/osmr/imgclsmob, the package pytorchcv 0.0.74.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cls.models import efficientnet, inception_resnet_v2, inception_v3, inception_v4
from cls.models.registry import Variant
from cls.nn import inception, inverted
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


def _branches(theirs: str, ours: str, table: inception.Branches) -> Iterator[tuple[str, str]]:
    """Yields the pairs of a block of branches, which pytorchcv numbers (see cls.nn.inception)."""
    for number, (branch, steps) in enumerate(table.items(), 1):
        prefix, units = rf'^{theirs}\.branches\.branch{number}\.', 0
        for k, step in enumerate(steps):
            name = f'{ours}.{branch}.{k}' if steps[1:] else f'{ours}.{branch}'
            if isinstance(step, tuple):
                yield from ((f'{prefix}conv1x3\\.', f'{name}a.'), (f'{prefix}conv3x1\\.', f'{name}b.'))
            elif isinstance(step, inception.Unit):
                units += 1
                yield rf'{prefix}(?:conv_list\.conv{units}|conv)\.', f'{name}.'


def _inception(
    stem: Sequence[str], blocks: Mapping[str, tuple[str, inception.Branches]], more: Renames = ()
) -> Renames:
    """Returns the pairs of an Inception network.

    Args:
      stem: names here of the convolutions of the initial block.
      blocks: name in pytorchcv, after `features.` -> name here and branches.
      more: further pairs.
    """
    pairs = [(rf'^features\.init_block\.conv{i}\.', f'{name}.') for i, name in enumerate(stem, 1)]
    for theirs, (ours, table) in blocks.items():
        pairs += _branches(rf'features\.{re.escape(theirs)}', ours, table)
    return (*pairs, *more)


def _units_of(stage: int, blocks: Sequence[tuple[str, inception.Branches]]) -> dict[str, Any]:
    return {f'stage{stage}.unit{unit}': block for unit, block in enumerate(blocks, 1)}


STEM = [name for name in inception.STEM if name.startswith('conv')]
_A, _B = (inception_v3.InceptionV3.pool_widths, inception_v3.InceptionV3.inner_widths)
INCEPTION_V3 = _inception(
    STEM,
    {
        **_units_of(
            1,
            [
                (f'Mixed_5{letter}', inception_v3.inception_a(width))
                for letter, width in zip('bcd', _A, strict=True)
            ],
        ),
        **_units_of(
            2,
            [
                ('Mixed_6a', inception_v3.REDUCTION_A),
                *(
                    (f'Mixed_6{letter}', inception_v3.inception_b(width))
                    for letter, width in zip('bcde', _B, strict=True)
                ),
            ],
        ),
        **_units_of(
            3,
            [
                ('Mixed_7a', inception_v3.REDUCTION_B),
                *((f'Mixed_7{letter}', inception_v3.INCEPTION_C) for letter in 'bc'),
            ],
        ),
    },
    ((r'^output\.fc\.', 'fc.'),),
)
INCEPTION_V4 = _inception(
    [f'features.{i}' for i in range(3)],
    {
        **{
            f'init_block.block{i}': (f'features.{i + 2}', inception_v4.STEM[i + 2])
            for i in (1, 2, 3)
        },
        **_units_of(1, [(f'features.{i}', inception_v4.INCEPTION_A) for i in range(6, 10)]),
        **_units_of(
            2,
            [
                ('features.10', inception_v4.REDUCTION_A),
                *((f'features.{i}', inception_v4.INCEPTION_B) for i in range(11, 18)),
            ],
        ),
        **_units_of(
            3,
            [
                ('features.18', inception_v4.REDUCTION_B),
                *((f'features.{i}', inception_v4.INCEPTION_C) for i in range(19, 22)),
            ],
        ),
    },
    ((r'^output\.fc\.', 'last_linear.'),),
)
_R2 = inception_resnet_v2
INCEPTION_RESNET_V2 = _inception(
    STEM,
    {
        'init_block.block': ('mixed_5b', _R2.MIXED_5B),
        **_units_of(1, [(f'repeat.{i}', _R2.BLOCK35) for i in range(10)]),
        **_units_of(
            2,
            [
                ('mixed_6a', _R2.REDUCTION_A),
                *((f'repeat_1.{i}', _R2.BLOCK17) for i in range(20)),
            ],
        ),
        **_units_of(
            3,
            [
                ('mixed_7a', _R2.REDUCTION_B),
                *((f'repeat_2.{i}', _R2.BLOCK8) for i in range(9)),
                ('block8', _R2.BLOCK8),
            ],
        ),
    },
    (
        (
            r'^features\.stage(\d)\.unit(\d+)\.conv\.',
            lambda m: f'{_residual(int(m[1]), int(m[2]))}.conv2d.',
        ),
        (r'^features\.final_conv\.', 'conv2d_7b.'),
        (r'^output\.fc\.', 'classif.'),
    ),
)


def _residual(stage: int, unit: int) -> str:
    """Returns the name of a residual block of Inception-ResNet-v2."""
    if (stage, unit) == (3, 11):
        return 'block8'
    return f'repeat.{unit - 1}' if stage == 1 else f'repeat_{stage - 1}.{unit - 2}'


XCEPTION = (
    (r'^features\.init_block\.conv(\d)\.(conv|bn)\.', r'\2\1.'),
    (r'^features\.final_block\.conv(\d)\.bn\.', lambda m: f'bn{int(m[1]) + 2}.'),
    (r'^features\.final_block\.conv(\d)\.conv\.', lambda m: f'conv{int(m[1]) + 2}.'),
    (
        r'^features\.stage(\d)\.unit(\d)\.',
        lambda m: f'block{12 if m[1] == "4" else int(m[1]) + int(m[2]) - 1}.',
    ),
    (r'\.identity_conv\.conv\.', '.skip.'),
    (r'\.identity_conv\.bn\.', '.skipbn.'),
    (
        r'^block(\d+)\.body\.block(\d)\.(conv|bn)\.',
        # The first block has no rectifier at its start.
        lambda m: (
            f'block{m[1]}.rep.{3 * int(m[2]) - 2 - (m[1] == "1") + (m[3] == "bn")}.'
        ),
    ),
    (r'\.?dw_conv\.', '.conv1.'),
    (r'\.?pw_conv\.', '.pointwise.'),
    (r'^output\.', 'fc.'),
)
DPN = (
    (r'^features\.init_block\.', 'conv1.'),
    (
        r'^features\.stage(\d)\.unit(\d+)\.',
        lambda m: f'conv{int(m[1]) + 1}_{m[2]}.',
    ),
    (r'^(conv2_1)\.conv_proj\.', r'\1.c1x1_w_s1.'),
    (r'\.conv_proj\.', '.c1x1_w_s2.'),
    (r'^features\.final_block\.activ\.bn\.', 'conv5_bn_ac.'),
    (r'^output\.classifier\.', 'classifier.'),
)


def _poly_unit(match: re.Match[str]) -> str:
    """Returns the name of one of the two modules of a unit, or of a reduction."""
    stage, unit, kind = int(match[1]), int(match[2]), match[3]
    if stage == 1:
        return f'stage_a.{unit - 1}.'
    letter = 'abc'[stage - 1]
    if unit == 1:
        return f'reduction_{"ab"[stage - 2]}.{kind}.'
    return f'stage_{letter}.{2 * (unit - 2) + (kind == "twoway")}.{"poly." * (kind == "poly")}'


POLYNET = (
    (r'^features\.init_block\.conv(\d)\.', lambda m: f'stem.conv1.{int(m[1]) - 1}.'),
    (r'^features\.init_block\.block1\.branches\.branch2\.conv\.', 'stem.conv1_branch.'),
    (r'^features\.init_block\.block3\.branches\.branch2\.conv\.', 'stem.conv2_branch.'),
    (
        r'^features\.init_block\.block2\.branches\.branch(\d)\.conv_list\.conv(\d)\.',
        lambda m: f'stem.conv2_{("short", "long")[int(m[1]) - 1]}.{int(m[2]) - 1}.',
    ),
    (r'^features\.stage(\d)\.unit(\d+)\.(twoway|poly|branches)\.', _poly_unit),
    (r'\.poly\.res_blocks\.', '.conv2d_blocks.'),
    (r'\.poly\.pre_block\.', '.'),
    (r'\.res_blocks\.(\d)\.conv\.', r'.blocks.\1.conv2d.'),
    (r'\.res_blocks\.', '.blocks.'),
    (
        r'\.(?:branches\.)?branch(\d)\.conv_list\.conv(\d)\.',
        lambda m: f'.path{int(m[1]) - 1}.{int(m[2]) - 1}.',
    ),
    (r'\.branches\.branch(\d)\.conv\.(conv|bn)\.', lambda m: f'.path{int(m[1]) - 1}.0.{m[2]}.'),
    (r'\.branches\.branch(\d)\.(conv|bns)\.', lambda m: f'.path{int(m[1]) - 1}.0.{m[2]}.'),
    (r'^(reduction_\w)\.branches\.', r'\1.'),
    (r'\.bns\.', '.bn_blocks.'),
    (r'^output\.fc\.', 'last_linear.'),
)


def _nasnet_cell(match: re.Match[str]) -> str:
    """Returns the reference's name of a cell, with six numbers for each stage."""
    stage, unit = int(match[1]), int(match[2])
    if stage > 1 and unit == 1:
        return f'reduction_cell_{stage - 2}.'
    return f'cell_{6 * (stage - 1) + unit - 1 - (stage > 1)}.'


def _pnasnet_cell(match: re.Match[str]) -> str:
    """Returns the reference's name of a cell; the first is of the stem."""
    number = 4 * (int(match[1]) - 1) + int(match[2]) - 1 - (match[1] == '1')
    return f'cell_{number}.' if number >= 0 else 'cell_stem_1.'


# The inner names of cells, to those of the reference of both networks.
CELLS = (
    (r'^features\.stem(\d)_unit\.', lambda m: f'cell_stem_{int(m[1]) - 1}.'),
    (r'\.comb(\d)_(left|right)\.', r'.comb_iter_\1_\2.'),
    (r'\.conv(\d)\.bn\.', r'.bn_sep_\1.'),
    (r'\.conv(\d)\.conv\.dw_conv\.', r'.separable_\1.depthwise_conv2d.'),
    (r'\.conv(\d)\.conv\.pw_conv\.', r'.separable_\1.pointwise_conv2d.'),
    (r'^output\.fc\.', 'last_linear.'),
)
NASNET = (
    (r'^features\.init_block\.', 'conv0.'),
    (r'^features\.stage(\d)\.unit(\d+)\.', _nasnet_cell),
    *CELLS,
    (r'\.conv1x1_prev\.', '.conv_prev_1x1.'),
    (r'\.conv1x1\.', '.conv_1x1.'),
    (r'\.path\.path(\d)\.', r'.path_\1.'),
    (r'\.path\.bn\.', '.final_path_bn.'),
)
PNASNET = (
    (r'^features\.init_block\.', 'conv_0.'),
    (r'^features\.stage(\d)\.unit(\d+)\.', _pnasnet_cell),
    *CELLS,
    (r'\.conv_prev_1x1\.path(\d)\.', r'.conv_prev_1x1.path_\1.'),
    # Cells after a reduction of the resolution.
    (r'^cell_(stem_1|0|5|9)\.conv_prev_1x1\.bn\.', r'cell_\1.conv_prev_1x1.final_path_bn.'),
)

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
        Names(r'inception_v3', _of(INCEPTION_V3)),
        Names(r'inception_v4', _of(INCEPTION_V4)),
        Names(r'inception_resnet_v2', _of(INCEPTION_RESNET_V2)),
        Names(r'xception', _of(XCEPTION)),
        Names(r'dpn(68|98|107|131)', _of(DPN)),
        Names(r'polynet', _of(POLYNET)),
        Names(r'nasnet_a_(mobile|large)', NASNET),
        Names(r'pnasnet5_large', PNASNET),
    ),
)
