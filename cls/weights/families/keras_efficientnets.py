"""The names of keras-efficientnets 0.1.7, whose layers are numbered in the order of calls.

Its networks are those of the TPU models, with the same padding and epsilon.
"""

from collections.abc import Iterator

from cls.models.registry import Variant
from cls.nn import inverted
from cls.weights.families import Family, Names, Renames, Tensors
from cls.weights.families.keras import at_rank, home, network_runs, ranked


def _ranks(tensors: Tensors, variant: Variant) -> Tensors:
    del variant
    return ranked(tensors)


def _layers(variant: Variant) -> Iterator[tuple[str, str]]:
    """Yields (kind, name) of each layer, in the order of calls."""
    conv, norm = 'conv2d', 'batch_normalization'
    yield conv, 'conv_stem'
    yield norm, 'bn1'
    for name, run in inverted.blocks(network_runs(variant)):
        if run.expansion != 1:
            yield conv, f'{name}.conv_pw'
            yield norm, f'{name}.bn1'
        yield 'depthwise_conv2d', f'{name}.conv_dw'
        yield norm, f'{name}.bn2'
        yield conv, f'{name}.se.conv_reduce'
        yield conv, f'{name}.se.conv_expand'
        yield conv, f'{name}.conv_pwl'
        yield norm, f'{name}.bn3'
    yield conv, 'conv_head'
    yield norm, 'bn2'
    yield 'dense', 'classifier'


def _names(variant: Variant) -> Renames:
    names: dict[str, list[str]] = {}
    for kind, name in _layers(variant):
        names.setdefault(kind, []).append(name)
    return home(
        tuple(
            (rf'^{kind}\.(\d+)\.', lambda m, some=tuple(some): f'{at_rank(some, m[1])}.')
            for kind, some in names.items()
        ),
        variant,
    )


FAMILY = Family(
    'keras-efficientnets',
    (Names(r'tf_efficientnet_b[0-7]', _names, _ranks),),
)
