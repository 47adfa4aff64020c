"""The names of ResNeXt in keras-applications 1.0.8, which later Keras no longer has.

A convolution in groups is a depthwise one with several outputs for each input, of which it sums
those of the inputs of a group.
"""

import re

from cls.models.registry import Variant
from cls.weights.families import Family, Names, Tensors
from cls.weights.families.keras import resnet_names


def _grouped(tensors: Tensors, variant: Variant) -> Tensors:
    """Returns the tensors with (outputs, inputs of a group, h, w) for (all outputs, 1, h, w)."""
    groups, result = variant.fields['cardinality'], dict(tensors)
    for name, value in tensors.items():
        if re.search(r'_block\d+_2_conv\.weight$', name):
            total, _, height, width = value.shape
            size = round((total // groups) ** 0.5)  # inputs of a group, and its outputs
            kernel = value.reshape(groups, size, size, height, width).swapaxes(1, 2)
            result[name] = kernel.reshape(groups * size, size, height, width)
    return result


FAMILY = Family(
    'keras-applications',
    (Names(r'resnext(50|101)_32x4d', resnet_names, _grouped),),
)
