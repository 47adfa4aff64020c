"""The names of image-classifiers 1.0.0 (classification_models), for Keras.

Its SENets are those of pretrainedmodels with pooling as in PyTorch's ResNet. Their layers are
numbered, in the order of calls, and each group of a convolution is a layer. Its ResNets and
ResNeXts are converted from MXNet: they begin with a norm, `bn_data`, of images in 0..255, whose
statistics would belong to the preparation of images. These networks are refused.
"""

import re
from collections.abc import Iterator

import numpy as np

from cls.models.registry import Variant
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.keras import ranked
from cls.weights.families.own_names import ours

_NORM = 'a norm of the images, with statistics of its own'


def _senet(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors under the names of the variant's reference, with groups joined."""
    by_rank = ranked(tensors)
    result: Tensors = {}
    convolution = norm = 0
    for name, groups in _layers(variant):
        if re.search(r'(^|\.)bn\d$|downsample\.1$', name):
            for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
                result[f'{name}.{leaf}'] = by_rank.pop(f'batch_normalization.{norm}.{leaf}')
            norm += 1
            continue
        parts = [by_rank.pop(f'conv2d.{convolution + k}.weight') for k in range(groups)]
        result[f'{name}.weight'] = np.concatenate(parts) if groups > 1 else parts[0]
        if (bias := by_rank.pop(f'conv2d.{convolution}.bias', None)) is not None:
            result[f'{name}.bias'] = bias
        convolution += groups
    for leaf in ('weight', 'bias'):
        if (value := by_rank.pop(f'dense.0.{leaf}', None)) is not None:
            result[f'last_linear.{leaf}'] = value
    if by_rank:
        raise ValueError(f'further tensors, as {next(iter(by_rank))}')
    return result


def _layers(variant: Variant) -> Iterator[tuple[str, int]]:
    """Yields (name, number of groups) of each convolution and norm, in the order of calls."""
    fields = variant.fields
    for i in range(1, 4 if fields.get('deep') else 2):
        yield f'layer0.conv{i}', 1
        yield f'layer0.bn{i}', 1
    for stage, blocks in enumerate(fields['stage_sizes'], 1):
        for block in range(blocks):
            place = f'layer{stage}.{block}'
            for i in (1, 2, 3):
                yield f'{place}.conv{i}', fields.get('groups', 1) if i == 2 else 1
                yield f'{place}.bn{i}', 1
            if not block:
                yield f'{place}.downsample.0', 1
                yield f'{place}.downsample.1', 1
            yield f'{place}.se_module.fc1', 1
            yield f'{place}.se_module.fc2', 1


def _without_norm(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors without the norm of the images, with groups joined.

    Basic blocks have a projection in the first stage too.
    """
    result = ranked(tensors)
    for leaf in ('bias', 'running_mean', 'running_var'):
        del result[f'bn_data.{leaf}']
    result.pop('bn_data.weight', None)  # of MXNet; it is 1
    groups = variant.fields.get('cardinality', 1)
    places = (re.match(r'stage(\d)_unit(\d+)_', name) for name in result)
    units = [f'stage{i}_unit{j}_' for i, j in sorted({(int(m[1]), int(m[2])) for m in places if m})]
    if groups > 1 and 'conv2d.0.weight' in result:
        for i, unit in enumerate(units):
            parts = [result.pop(f'conv2d.{i * groups + k}.weight') for k in range(groups)]
            result[f'{unit}conv2.weight'] = np.concatenate(parts)
    elif 'conv2d.0.weight' in result:
        for i, unit in enumerate(units):
            for k in (0, 1):
                for leaf in ('weight', 'bias'):
                    result[f'{unit}se{k + 1}.{leaf}'] = result.pop(f'conv2d.{2 * i + k}.{leaf}')
    if not variant.fields.get('bottleneck') and groups == 1:
        del result['stage1_unit1_sc.weight']
    return result


_PREACT: Renames = (
    (r'^bn1\.', 'post_activ.'),
    (r'^(conv|bn)0\.', r'\g<1>1.'),
    (r'^fc1\.', 'output.'),
    (r'^stage(\d)_unit(\d+)_(bn|conv)(\d)\.', r'stage\1.unit\2.conv\4.\3.'),
    (r'^stage(\d)_unit(\d+)_sc\.', r'stage\1.unit\2.identity_conv.'),
    (r'^stage(\d)_unit(\d+)_se(\d)\.', r'stage\1.unit\2.se_module.fc\3.'),
)
_RESNEXT: Renames = (
    (r'^(conv|bn)0\.', r'\g<1>1.'),
    (r'^fc1\.', 'fc.'),
    (
        r'^stage(\d)_unit(\d+)_(bn|conv)(\d)\.',
        lambda m: f'layer{m[1]}.{int(m[2]) - 1}.{m[3]}{m[4]}.',
    ),
    (
        r'^stage(\d)_unit(\d+)_sc(_bn)?\.',
        lambda m: f'layer{m[1]}.{int(m[2]) - 1}.downsample.{int(bool(m[3]))}.',
    ),
)

FAMILY = Family(
    'image-classifiers',
    (
        Names(
            r'seresnet(50|101|152)|seresnext(50|101)_32x4d|senet154',
            tensors=_senet,
            fields={'padded': True},
        ),
        Names(
            r'(se)?preactresnet(18|34)|preactresnet(50|101|152)b',
            ours(*_PREACT),
            _without_norm,
            missing=_NORM,
        ),
        Names(r'resnext(50|101)_32x4d', ours(*_RESNEXT), _without_norm, missing=_NORM),
    ),
)
