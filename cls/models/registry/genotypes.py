"""Genotypes: searched architectures as data, from a JSON file to the type a net asks for and back.

A net that can be built from any point of a search space has a field `genotype`; its type, made of
frozen dataclasses, tuples, strings and integers, is the space's. JSON holds the same: a dataclass
as an object with all its fields, a tuple as an array. A type may refuse what its annotations let
pass (an operation it does not know) by a ValueError from its `__post_init__`, and says by a
property `num_layers` how many layers, or blocks of some, it stands for: a network of more than
config.limits.layers would trace and compile for hours without a word.
"""

import json
from pathlib import Path
from typing import Any

import cattrs

from cls.errors import UserError
from cls.storage import paths

_PARTS = 10  # texts and numbers in a genotype's data for each layer
_max_layers = 1000  # as config.limits.layers has it


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f'expected {kind.__name__}, not {value!r}')
    return value


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
for _kind in (str, int):  # cattrs would convert what is neither
    _CONVERTER.register_structure_hook(_kind, _exactly)


def load(path: str | Path) -> Any:
    """Returns the plain data of a genotype's JSON file. Raises UserError when it cannot be read."""
    try:
        return paths.parse_json(paths.fetched(path).read_text())
    except OSError as error:
        raise UserError(f'cannot read the genotype {path}: {error.strerror}.') from None
    except ValueError as error:
        raise UserError(f'the genotype {path} is not JSON: {error}.') from None


def structure(data: Any, kind: Any) -> Any:
    """Returns plain data as a genotype of a type. Raises UserError that says where it does not fit.

    Args:
      data: as `load` returns it; arrays may be tuples.
      kind: the annotation of the net's field `genotype`.
    """
    if _parts(data) > _PARTS * _max_layers:
        raise UserError(
            f'the genotype has more than {_PARTS * _max_layers:,} parts: expected a network of at '
            f'most {_max_layers:,} layers (config.limits.layers).'
        )
    try:
        genotype = _CONVERTER.structure(data, kind)
    except Exception as error:  # whatever a type raises for a value that it cannot be made of
        faults = '; '.join(cattrs.transform_error(error, path='genotype', format_exception=_say))
        raise UserError(f'the genotype does not fit its space: {faults}.') from None
    check_layers(getattr(genotype, 'num_layers', 0), 'the genotype')
    return genotype


def max_layers() -> int:
    """Returns how many layers, or blocks, a network may have."""
    return _max_layers


def limit_layers(count: int) -> None:
    """Sets, for this process, what `max_layers` returns: config.limits.layers."""
    global _max_layers
    _max_layers = count


def check_layers(count: int, what: str) -> None:
    """Raises UserError if something stands for more layers than a net may have."""
    if count > _max_layers:
        raise UserError(
            f'{what} has {count:,} layers or blocks: expected at most {_max_layers:,} '
            '(config.limits.layers).'
        )


def _parts(data: Any) -> int:
    """Counts the texts and numbers of plain data, and its containers; stops above the limit."""
    count, rest = 0, [data]
    while rest and count <= _PARTS * _max_layers:
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


def save(genotype: Any, path: str | Path) -> None:
    """Writes a genotype as JSON, which `--config.model.genotype=FILE` reads."""
    paths.write_whole(paths.path(path), (json.dumps(plain(genotype), indent=1) + '\n').encode())
