"""Genotypes: searched architectures as plain data, and as the type that a model asks for.

A net that can be built from any point of a search space has a field `genotype`; its type, made of
frozen dataclasses, tuples, strings and integers, is the space's. JSON holds the same: a dataclass
as an object with all its fields, a tuple as an array. A type may refuse what its annotations let
pass (an operation it does not know) by a ValueError from its `__post_init__`, and says by a
property `num_layers` how many layers, or blocks of some, it stands for: a network of more than
config.limits.layers would trace and compile for hours without a word.
"""

import json
from typing import Any

import cattrs

from cls.errors import UserError
from cls.nn import limits

_PARTS = 10  # texts and numbers in a genotype's data for each layer


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f'expected {kind.__name__}, not {value!r}')
    return value


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
for _kind in (str, int):  # cattrs would convert what is neither
    _CONVERTER.register_structure_hook(_kind, _exactly)


def structure(data: Any, kind: Any) -> Any:
    """Returns plain data as a genotype of a type. Raises UserError that says where it does not fit.

    Args:
      data: of a JSON file; arrays may be tuples.
      kind: the annotation of the net's field `genotype`.
    """
    most = limits.max_layers()
    if _parts(data) > _PARTS * most:
        raise UserError(
            f'the genotype has more than {_PARTS * most:,} parts: expected a network of at '
            f'most {most:,} layers (config.limits.layers).'
        )
    try:
        genotype = _CONVERTER.structure(data, kind)
    except Exception as error:  # whatever a type raises for a value that it cannot be made of
        faults = '; '.join(cattrs.transform_error(error, path='genotype', format_exception=_say))
        raise UserError(f'the genotype does not fit its space: {faults}.') from None
    limits.check_layers(getattr(genotype, 'num_layers', 0), 'the genotype')
    return genotype


def _parts(data: Any) -> int:
    """Counts the texts and numbers of plain data, and its containers; stops above the limit."""
    count, rest = 0, [data]
    while rest and count <= _PARTS * limits.max_layers():
        value = rest.pop()
        inner = value.values() if isinstance(value, dict) else value
        rest.extend(inner if isinstance(value, dict | list | tuple) else ())
        count += 1
    return count


def _say(error: BaseException, _: Any) -> str:
    if isinstance(error, KeyError):
        return f'the field {error} is missing'
    return str(error).rstrip('.') or type(error).__name__


def plain(genotype: Any) -> Any:
    """Returns a genotype as plain data, which `structure` reads back."""
    return json.loads(json.dumps(_CONVERTER.unstructure(genotype)))
