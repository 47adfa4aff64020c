"""pytorchcv's names of Inception networks, Xception, DPN, PolyNet and networks of searched cells.

Each table gives pairs to the names of the modules here (see pytorchcv.py); those of the networks of
cells give the names of their reference.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cls.models import inception_resnet_v2, inception_v3, inception_v4
from cls.nn import inception
from cls.weights.families import Renames


def _branches(theirs: str, ours: str, table: inception.Branches) -> Iterator[tuple[str, str]]:
    """Yields the pairs of a block of numbered branches (see cls.nn.inception)."""
    for number, (branch, steps) in enumerate(table.items(), 1):
        prefix, units = rf'^{theirs}\.branches\.branch{number}\.', 0
        for k, step in enumerate(steps):
            name = f'{ours}.{branch}.{k}' if steps[1:] else f'{ours}.{branch}'
            if isinstance(step, tuple):
                yield from (
                    (f'{prefix}conv1x3\\.', f'{name}a.'),
                    (f'{prefix}conv3x1\\.', f'{name}b.'),
                )
            elif isinstance(step, inception.Unit):
                units += 1
                yield rf'{prefix}(?:conv_list\.conv{units}|conv)\.', f'{name}.'


def _inception(
    stem: Sequence[str], blocks: Mapping[str, tuple[str, Any]], more: Renames = ()
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


def _units_of(
    stage: int, blocks: Sequence[tuple[str, inception.Branches]]
) -> dict[str, tuple[str, inception.Branches]]:
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
                *((f'Mixed_7{letter}', inception_v3.inception_c()) for letter in 'bc'),
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
        lambda m: f'block{m[1]}.rep.{3 * int(m[2]) - 2 - (m[1] == "1") + (m[3] == "bn")}.',
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
    (r'\.preactiv\.bn\.', '.conv3.bn.'),
    (r'\.conv3a\.', '.conv3.conv1.'),
    (r'\.conv3b\.', '.conv3.conv2.'),
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
