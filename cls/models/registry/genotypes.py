"""Genotypes: searched architectures as plain data, and as the type that a model expects.

A model that represents any point of a search space has a field `genotype`. The type of this field,
of frozen dataclasses, tuples, strings and integers, belongs to the space. JSON has the same
structure: a dataclass is an object with all its fields, a tuple an array. A type may refuse values
that its annotations allow (as an unknown operation) by a ValueError from its `__post_init__`, and
counts its layers, or blocks of several, in a property `num_layers`: a network of more than
config.limits.layers would trace and compile for hours without a message.
"""

import json
from typing import Any

import cattrs

from cls.errors import UserError
from cls.nn import limits

_PARTS = 10  # limit of texts and numbers in a genotype for each layer


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f'expected {kind.__name__}, not {value!r}')
    return value


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
# cattrs would convert other values.
_CONVERTER.register_structure_hook(str, _exactly)
_CONVERTER.register_structure_hook(int, _exactly)


def structure(data: Any, kind: Any) -> Any:
    """Returns plain data as a genotype of a type. Raises UserError that names the misfitting part.

    Args:
      data: from a JSON file; arrays may be tuples.
      kind: the annotation of the model's field `genotype`.
    """
    most = limits.max_layers()
    if _parts(data) > _PARTS * most:
        raise UserError(
            f'the genotype has more than {_PARTS * most:,} parts: expected a network of at '
            f'most {most:,} layers (config.limits.layers).'
        )
    try:
        genotype = _CONVERTER.structure(data, kind)
    except Exception as error:  # a type may raise any error
        faults = '; '.join(cattrs.transform_error(error, path='genotype', format_exception=_say))
        raise UserError(f'the genotype does not fit its space: {faults}.') from None
    limits.check_layers(getattr(genotype, 'num_layers', 0), 'the genotype')
    return genotype


def _parts(data: Any) -> int:
    """Returns the number of texts, numbers and containers in plain data, up to the limit."""
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
    """Returns a genotype as plain data, for `structure`."""
    return json.loads(json.dumps(_CONVERTER.unstructure(genotype)))
