"""Fills the variables of a registered variant from the tensors of a file."""

import dataclasses
import logging
from collections.abc import Mapping, Set
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from cls import models
from cls.errors import UserError
from cls.models.registry import Variant
from cls.models.registry import fields as fields_of
from cls.models.registry.init import draw
from cls.weights import index, naming
from cls.weights.convert import convert, shapes, some, torch_name, wanted_of

_log = logging.getLogger(__name__)

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Variables filled from a file, and the properties of the file.

    Attributes:
      variables: the filled variables.
      fields: the fields of the module that the file determines: `num_classes`, `aux_head` as False
        if it has no auxiliary heads, and those that its package has otherwise.
      left_out: the names of tensors that are not part of the network.
      headless: whether the file has no classifier, so that the variables have none either.
      family: the package with the names in the file.
      drawn: the names of the tensors of auxiliary heads that the file lacks.
      channels: the channels of the images.
    """

    variables: dict[str, Any]
    fields: dict[str, Any]
    left_out: list[str]
    headless: bool = False
    family: str = ''
    drawn: tuple[str, ...] = ()
    channels: int = 3


def from_torch(
    state_dict: Mapping[str, np.ndarray], model_name: str, **overrides: Any
) -> dict[str, Any]:
    """Returns a registered model's variables, filled from a state dict of any family of names.

    Prefixes that wrappers add to the names are removed (see `names.own`). The names of tensors that
    are left out are logged, and those of auxiliary heads that are drawn because `aux_head=True`
    asks for them.

    Args:
      state_dict: torch name -> array, as from `cls.weights.read`.
      model_name: a registered variant.
      **overrides: fields of the module, as for `models.create`.

    Returns:
      {'params': ..., 'batch_stats': ...}, the tree of `model.init` with NumPy arrays.

    Raises:
      UserError: see `convert`; or the file's package has another value of a field.
    """
    model = models.create(model_name, **overrides)
    fixed = {'num_classes': getattr(model, 'num_classes', None)}
    fixed |= {'aux_head': True} if getattr(model, 'aux_head', False) else {}
    asked = 'aux_head' in overrides
    try:
        fitted = _fit(state_dict, model_name, False, {**fixed, **overrides}, drawing=asked)
    except UserError as error:
        raise UserError(f'{error}{_hint(state_dict, model_name, overrides)}') from None
    if unlike := {name: value for name, value in fitted.fields.items() if name not in overrides}:
        listed = ', '.join(f'{name}={value!r}' for name, value in unlike.items())
        raise UserError(
            f'{model_name}: the tensors have the names of {fitted.family}, whose network has '
            f'{listed}: expected these fields in the call, or weights.fit, which returns them'
        )
    if fitted.left_out:
        _log.warning('left out, as no part of %s: %s', model_name, some(fitted.left_out))
    if fitted.drawn:
        _log.warning('drawn, as the weights lack them: %s', some(list(fitted.drawn)))
    return fitted.variables


def fit(
    state_dict: Mapping[str, np.ndarray],
    model_name: str,
    *,
    source: Any = '',
    without_head: bool = False,
    part: str = '',
    **overrides: Any,
) -> Fitted:
    """Returns variables as `from_torch` does, with the number of classes and heads of the file.

    Args:
      state_dict: torch name -> array.
      model_name: a registered variant.
      source: the name of the file, for messages.
      without_head: whether a file may lack the classifier.
      part: 'backbone' for the variables without the classifier; the file may have other tensors.
      **overrides: fields of the module. `num_classes` among them has to be the file's. Auxiliary
        heads are drawn if `aux_head=True` asks for them and the file has none.

    Raises:
      UserError: see `convert`.
    """
    try:
        return _fit(state_dict, model_name, without_head, overrides, part)
    except UserError as error:
        message = f'{source}: {error}' if source else str(error)
        fixed = {'num_classes', 'aux_head'} & overrides.keys()
        hint = _hint(state_dict, model_name, overrides) if fixed else ''
        raise UserError(message + hint) from None


def _hint(
    state_dict: Mapping[str, np.ndarray], model_name: str, overrides: Mapping[str, Any]
) -> str:
    """Returns a hint on the fields that a state dict would fit, '' if there are none."""
    others = {k: v for k, v in overrides.items() if k not in ('num_classes', 'aux_head')}
    try:
        fields = _fit(state_dict, model_name, False, others).fields
    except UserError:
        return ''
    return f'; it fits with {", ".join(f"{k}={v}" for k, v in fields.items())}'


class _Wanted:
    """The variables of a module, in trees and by the names of the variant's reference.

    Attributes:
      head: the names of the tensors with the number of classes in their shapes.
      aux: the names of the tensors of auxiliary heads, also if the module has none.
      hidden: those of the classifier's layers before its last, see `index.hidden_layers`.
      shapes: the names and shapes of all these tensors, with naming.CLASSES in those of the head.
    """

    def __init__(self, model: nn.Module, variant: Variant):
        """Traces the module, once with and once without auxiliary heads if it can have them."""
        self.variant = variant
        # A model of the user's may compute other sizes from the number of classes.
        self.is_ours = variant.module.__module__.startswith('cls.models.')
        every: Any = index.marked(model)
        plain = every
        if 'aux_head' in fields_of(type(model)):
            every, plain = every.clone(aux_head=True), every.clone(aux_head=False)
        self.shapes = index.of_any(shapes(every, variant))
        if not self.is_ours:
            other = shapes(every.clone(num_classes=model.num_classes), variant)  # type: ignore
            self.shapes = {
                name: tuple(
                    size if size == again else naming.CLASSES
                    for size, again in zip(shape, other[name], strict=True)
                )
                for name, shape in self.shapes.items()
            }
        self.head = {name for name, shape in self.shapes.items() if naming.CLASSES in shape}
        self.aux = set() if plain is every else self.shapes.keys() - shapes(plain, variant).keys()
        body = self.shapes.keys() - self.head - self.aux
        self.hidden = index.hidden_layers(body, self.head - self.aux)

    def tree(self, model: nn.Module, channels: int, without: set[str]) -> Any:
        """Returns the variables of a module, without those of some names."""
        traced = index.marked(model) if self.is_ours else model
        abstract = models.abstract_variables(traced, self.variant.input_size, channels)
        if self.is_ours:
            abstract = index.with_classes(abstract, model.num_classes)  # type: ignore
        if not without:
            return abstract
        kept = {
            path: v for path, v in wanted_of(abstract).items() if self.name(path) not in without
        }
        return traverse_util.unflatten_dict(kept)

    def name(self, path: Path) -> str:
        """Returns the name of a variable in a file of the reference."""
        return torch_name(path, self.variant.renames)


def _has_aux(model: nn.Module) -> bool:
    return bool(getattr(model, 'aux_head', False))


def _fit(
    state_dict: Mapping[str, np.ndarray],
    model_name: str,
    without_head: bool,
    overrides: Mapping[str, Any],
    part: str = '',
    drawing: bool = True,
) -> Fitted:
    variant = models.variant(model_name)
    model = models.create(model_name, **overrides)
    wanted = _Wanted(model, variant)
    main = wanted.head - wanted.aux
    optional = wanted.aux | (main | wanted.hidden if part or without_head else set())
    named = _named(state_dict, variant, wanted, optional)
    fields = _fields(variant, named.naming, overrides)
    tensors, left_out = named.tensors, list(named.left_out)
    drawn: set[str] = set()
    if not wanted.aux & tensors.keys():
        if _has_aux(model) and 'aux_head' not in overrides:
            fields['aux_head'] = False
        elif _has_aux(model) and drawing:
            drawn = set(wanted.aux)
    elif not _has_aux(model):
        left_out += [name for name in tensors if name in wanted.aux or _is_of(name, wanted.aux)]
        tensors = {name: value for name, value in tensors.items() if name not in left_out}
    lost = set() if wanted.hidden <= tensors.keys() else set(wanted.hidden)
    if part:
        kept = wanted.shapes.keys() - wanted.head - lost
        left_out += [name for name in tensors if name not in kept and not _is_of(name, kept)]
        tensors = {name: value for name, value in tensors.items() if name in kept}
    present = [tensors[name] for name in wanted.head if name in tensors and tensors[name].ndim]
    if present and 'num_classes' not in overrides:
        fields['num_classes'] = max(len(tensor) for tensor in present)
    model = model.clone(**fields)
    headless = bool(part) or (without_head and not present)
    channels = naming.difference(tensors, wanted.shapes).channels
    abstract = wanted.tree(model, channels, drawn | (main | lost if headless else set()))
    variables = _converted(tensors, variant, abstract, left_out)
    if drawn:
        variables = _with_drawn(variables, model, wanted, drawn, channels)
    family = named.naming.family
    return Fitted(variables, fields, left_out, headless, family, tuple(sorted(drawn)), channels)


def _is_of(name: str, tensors: Set[str]) -> bool:
    """Returns whether a name is that of a counter in a norm among these tensors."""
    return naming.is_counter(name, tensors)


def _fields(
    variant: Variant, chosen: naming.Naming, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields of a family. Raises UserError if another value is asked for."""
    for name, value in chosen.fields.items():
        if name in overrides and overrides[name] != value:
            raise UserError(
                f'{variant.name}: the tensors have the names of {chosen.family}, whose network has '
                f'{name}={value!r}, not {overrides[name]!r}'
            )
    return chosen.fields


def _with_drawn(
    variables: dict[str, Any],
    model: nn.Module,
    wanted: _Wanted,
    drawn: set[str],
    channels: int,
) -> dict[str, Any]:
    """Returns variables with newly drawn ones."""
    size = wanted.variant.input_size
    abstract = models.abstract_variables(model, size, channels)
    only = {path for path in wanted_of(abstract) if wanted.name(path) in drawn}
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables)
    return traverse_util.unflatten_dict(flat | draw(model, 0, size, channels, only))


def _named(
    state_dict: Mapping[str, np.ndarray], variant: Variant, wanted: _Wanted, optional: Set[str]
) -> naming.Named:
    try:
        return naming.best(state_dict, variant, wanted.shapes, optional)
    except UserError as error:
        raise UserError(f'{variant.name}: {error}') from None


def _converted(
    tensors: Mapping[str, np.ndarray], variant: Variant, abstract: Any, left_out: list[str]
) -> dict[str, Any]:
    try:
        return convert(tensors, abstract, variant.renames)
    except UserError as error:
        more = f'; left out, as no part of it: {some(left_out)}' if left_out else ''
        raise UserError(f'{variant.name}: {error}{more}') from None


def same_tensors(model_name: str) -> list[str]:
    """Returns the other variants with the same names and shapes in their state dicts."""
    own = index.tensors(model_name)
    of_each = index.counts()
    return [
        name
        for name, count in of_each.items()
        if name != model_name and count == of_each[model_name] and index.tensors(name) == own
    ]
