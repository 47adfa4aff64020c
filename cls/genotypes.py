"""Genotypes: searched architectures as data, from a JSON file to the type a net asks for and back.

A net that can be built from any point of a search space has a field `genotype`; its type, made of
frozen dataclasses, tuples, strings and integers, is the space's. JSON holds the same: a dataclass
as an object with all its fields, a tuple as an array. A type may refuse what its annotations let
pass (an operation it does not know) by a ValueError from its `__post_init__`.
"""

import json
from pathlib import Path
from typing import Any

import cattrs

from cls import storage
from cls.errors import UserError


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
        return json.loads(storage.fetched(path).read_text())
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
    try:
        return _CONVERTER.structure(data, kind)
    except Exception as error:  # whatever a type raises for a value that it cannot be made of
        faults = '; '.join(cattrs.transform_error(error, path='genotype', format_exception=_say))
        raise UserError(f'the genotype does not fit its space: {faults}.') from None


def _say(error: BaseException, _: Any) -> str:
    if isinstance(error, KeyError):
        return f'the field {error} is missing'
    return str(error).rstrip('.') or type(error).__name__


def plain(genotype: Any) -> Any:
    """Returns a genotype as plain data, which `structure` reads back."""
    return json.loads(json.dumps(_CONVERTER.unstructure(genotype)))


def save(genotype: Any, path: str | Path) -> None:
    """Writes a genotype as JSON, which `--config.model.genotype=FILE` reads."""
    storage.write_whole(storage.path(path), (json.dumps(plain(genotype), indent=1) + '\n').encode())
