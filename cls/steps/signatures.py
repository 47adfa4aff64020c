"""Arguments of functions in a config: names and types are checked against the signature."""

import inspect
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cls.errors import nearest

_FLOATS = ('float32', 'bfloat16', 'float16')

Parameters = Mapping[str, inspect.Parameter]


def settable(parameters: Parameters, elsewhere: Collection[str]) -> list[str]:
    """Returns the names of the parameters that a config can state.

    Args:
      parameters: those of a function.
      elsewhere: the parameters that the config does not state here.
    """
    return [
        key for key, parameter in parameters.items() if key not in elsewhere and kinds(parameter)
    ]


def mistakes(
    prefix: str,
    owner: str,
    parameters: Parameters,
    args: Mapping[str, Any],
    elsewhere: Mapping[str, str],
) -> Iterator[str]:
    """Yields the mistakes in the arguments of a function, each a sentence.

    Args:
      prefix: the group of the config, 'config.optim.args'.
      owner: the name of the function.
      parameters: those of the function.
      args: the content of the group.
      elsewhere: parameters that the config does not state here -> the field to set instead.
    """
    known = settable(parameters, elsewhere)
    for key, value in args.items():
        field = f'{prefix}.{key}'
        if key in elsewhere:
            yield f'{field} is set, but not an argument here: set {elsewhere[key]}.'
        elif key not in known:
            shown = f'its arguments: {", ".join(known)}' if known else 'it has no arguments'
            yield f'{field}: {owner} has no such argument; {shown}.{nearest(key, known)}'
        elif not any(_is_of(value, kind) for kind in kinds(parameters[key])):
            expected = ' or '.join(map(_shown, kinds(parameters[key])))
            yield f'{field} is {value!r}: expected {expected}, as {owner} takes.'
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in {*args, *elsewhere}:
            yield f'{prefix}.{key} is missing: {owner} has no default for it.'


def kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Returns the kinds of an argument, () if no config can state it.

    A kind is bool, int, float, str, tuple, None, or a tuple of names.
    """
    default, annotation = parameter.default, parameter.annotation
    options = typing.get_args(annotation) or (annotation,)
    optional = (None,) if type(None) in options else ()
    if parameter.name.endswith('dtype'):
        return (_FLOATS, None)
    if typing.get_origin(annotation) is typing.Literal:
        return (options,)
    if isinstance(default, bool):
        return (bool,)
    if isinstance(default, int | float):
        return (type(default), *optional)
    if isinstance(default, str | tuple):
        return (type(default), *((str,) if str in options and isinstance(default, tuple) else ()))
    trees = any('Iterable' in str(option) or 'Mapping' in str(option) for option in options)
    for kind in (float, int):
        if kind in options and not trees:
            return (kind, *optional)
    return ()


def _is_of(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, tuple):
        return value in kind
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _shown(kind: Any) -> str:
    if isinstance(kind, tuple):
        return ' | '.join(map(str, kind))
    names = {None: 'None', float: 'a number', int: 'a whole number', bool: 'True or False'}
    return names.get(kind) or {str: 'text', tuple: 'a tuple'}[kind]
