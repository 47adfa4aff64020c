"""The registry of systems and their variants, with one contract for all models.

A model file defines its system, its module, and then its variants:

    SYSTEM = System('ResNet', 'Deep Residual Learning for Image Recognition', 'CVPR 2016', ...)
    register(Variant('resnet50', SYSTEM, ResNet, dict(stage_sizes=(3, 4, 6, 3)), ...))

`register_table` registers all variants of a table. A config file may register its own variants in
the same way, of any Flax module that keeps the contract: a field `num_classes`, and
`__call__(images, train=False)` that returns logits.

May import: errors, nn, registration.
"""

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls import registration
from cls.errors import UserError, nearest
from cls.models.registry import genotypes
from cls.models.registry.tracing import abstract_variables as abstract_variables
from cls.models.registry.tracing import flax_norms as flax_norms
from cls.nn import limits
from cls.nn.init import shapes_only


@dataclasses.dataclass(frozen=True)
class System:
    """A row of the reading list. Accuracies in percent on ImageNet's validation set.

    `headline` is the variant that represents the cost of the system; `params` and `macs` are the
    paper's numbers for it, in millions, or None if it gives none.
    """

    name: str
    title: str
    venue: str
    arxiv: str
    top1: float | None  # the system's best published single number
    top5: float | None
    headline: str = ''
    params: float | None = None
    macs: float | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A named model: a module with its fields, its cost and its accuracy.

    `params` counts trainable parameters without auxiliary heads; `macs` the multiply-adds of
    convolutions and matrix products for one image of `input_size`; tests compare both with the
    traced module. `top1` and `top5` are the paper's, in percent, by a single crop unless the model
    file says otherwise. `reference` is `package:constructor` of an implementation with the same
    graph, `renames` the (regular expression, replacement) pairs from our parameter names to its
    names, and `old_names` those from names in its older checkpoints to its current names.
    """

    name: str
    system: System
    module: type[nn.Module]
    fields: Mapping[str, Any]
    input_size: int
    params: int
    macs: int
    top1: float | None = None
    top5: float | None = None
    reference: str | None = None
    renames: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    old_names: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Variants with averaged softmax outputs; one that is named twice is trained from two seeds."""

    name: str
    system: System
    members: tuple[str, ...]


# Fields of modules that count blocks or layers.
_DEPTHS = frozenset({'stage_sizes', 'block_sizes', 'blocks', 'depths', 'depth', 'modules'})

_VARIANTS: dict[str, Variant] = {}
_ORIGINS: dict[str, str] = {}  # variant of a config file -> the file
_ENSEMBLES: dict[str, Ensemble] = {}
_SUPERNETS: dict[str, type[nn.Module]] = {}


def origin(name: str) -> str:
    """Returns the config file that registered a variant, '' for those of cls.models."""
    return _ORIGINS.get(name, '')


def is_known(name: str) -> bool:
    """Returns whether a variant, a supernet, or the reference of a variant has a name."""
    _import_all()
    return name in _VARIANTS or name in _SUPERNETS or name in aliases()


def register(variant: Variant) -> None:
    """Registers a variant.

    Raises ValueError when the name is taken. For a variant of a config file this is a UserError,
    also raised for a module that does not keep the contract.
    """
    file = registration.current()
    if file:
        _import_all()
        _check_contract(variant, file)
        _ORIGINS[variant.name] = file
    elif variant.name in _VARIANTS:
        raise ValueError(f'two variants are named {variant.name}')
    _VARIANTS[variant.name] = variant


def register_table(
    table: Mapping[str, Sequence[Any]],
    columns: str,
    *,
    system: System,
    module: type[nn.Module],
    fields: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    **shared: Any,
) -> None:
    """Registers a variant for each row of a table.

    Args:
      table: rows of values, by the name of the variant.
      columns: the names of a row's values, separated by spaces. An attribute of `Variant`
        (`input_size`, `params`, `top1`, `reference`, ...) describes the variant; `fields` is a
        mapping of further fields of the module; any other name is itself a field of the module.
      system: the system of all rows.
      module: the module of all rows.
      fields: fields of the module that all rows share. A function takes those values of a row that
        are fields, by name, and returns the fields in their place.
      **shared: attributes of `Variant` that all rows share. A function takes the variant's name.

    Raises:
      ValueError: a row and `columns` differ in length, or a name is taken.
    """
    names = columns.split()
    attributes = {field.name for field in dataclasses.fields(Variant)}
    for name, row in table.items():
        values = dict(zip(names, row, strict=True))
        described = {key: values.pop(key) for key in names if key in attributes}
        for key, value in shared.items():
            described[key] = value(name) if callable(value) else value
        more = described.pop('fields', {})
        own = fields(**values) if callable(fields) else {**(fields or {}), **values}
        register(Variant(name, system, module, {**own, **more}, **described))


def _check_contract(variant: Variant, file: str) -> None:
    before = _ORIGINS.get(variant.name, 'cls.models')
    if variant.name in _VARIANTS and before != file:
        raise UserError(
            f'{file} registers a variant {variant.name!r}, which {before} has already: expected '
            'another name.'
        )
    what = f'{file}: the module {variant.module.__name__} of the variant {variant.name!r}'
    if 'num_classes' not in fields(variant.module):
        raise UserError(f'{what} has no field num_classes: expected one, the number of its logits.')
    taken = inspect.signature(variant.module.__call__).parameters.values()
    if not any(p.name == 'train' or p.kind is p.VAR_KEYWORD for p in taken):
        raise UserError(f'{what} takes no `train`: expected __call__(self, images, train=False).')


def register_ensemble(ensemble: Ensemble) -> None:
    """Registers an ensemble."""
    _ENSEMBLES[ensemble.name] = ensemble


def register_supernet(name: str, module: type[nn.Module]) -> None:
    """Adds a network that holds a whole search space; `create` knows it, no paper lists it."""
    _SUPERNETS[name] = module


def is_supernet(name: str) -> bool:
    """Whether a supernet has that name."""
    return name in _SUPERNETS


@functools.cache
def _import_all() -> None:
    package = importlib.import_module('cls.models')
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'cls.models.{module.name}')


def variant(name: str) -> Variant:
    """Returns the variant with a name, or with a reference of that name.

    Raises UserError, with the nearest names, for any other name.
    """
    _import_all()
    name = name if name in _VARIANTS else aliases().get(name, name)
    if name not in _VARIANTS:
        known = {*_VARIANTS, *aliases()}
        hint = nearest(name, known) or ' `python -m cls.tools.models` lists them.'
        raise UserError(f'no model is named {name!r}.{hint}')
    return _VARIANTS[name]


@functools.cache
def aliases() -> dict[str, str]:
    """Returns other names of variants, those of their references -> the name of the variant."""
    _import_all()
    constructors = {
        v.reference.rpartition(':')[2]: v.name for v in _VARIANTS.values() if v.reference
    }
    return {
        other: name
        for other, name in constructors.items()
        if other.isidentifier() and other not in _VARIANTS
    }


def names(pattern: str = '*') -> list[str]:
    """Returns the names of all variants that match a shell pattern, in the order of the files."""
    _import_all()
    if pattern == '*':  # asked for often, for membership
        return list(_VARIANTS)
    return [name for name in _VARIANTS if fnmatch.fnmatchcase(name, pattern)]


def systems() -> list[System]:
    """Returns the systems that have a variant."""
    _import_all()
    return list(dict.fromkeys(v.system for v in _VARIANTS.values()))


def ensembles() -> list[Ensemble]:
    """Returns the ensembles."""
    _import_all()
    return list(_ENSEMBLES.values())


def create(name: str, **overrides: Any) -> nn.Module:
    """Returns the module of a variant or a supernet, with some fields replaced.

    A genotype may be plain data. Raises UserError for an unknown variant or field, with the nearest
    known names.
    """
    module, own = _module(name)
    known = fields(module)
    for key in overrides:
        if key not in known:
            hint = nearest(key, known) or f' It has {", ".join(known)}.'
            raise UserError(f'model {name} has no field {key!r}.{hint}')
    for key in _DEPTHS & overrides.keys():
        limits.check_layers(_total(overrides[key]), f'model {name} with {key}={overrides[key]}')
    if isinstance(overrides.get('genotype'), Mapping | list | tuple):  # plain data, of a file
        kind = known['genotype'].type
        overrides['genotype'] = genotypes.structure(overrides['genotype'], kind)
    return module(**{**own, **overrides})


def _total(value: Any) -> int:
    numbers = value if isinstance(value, tuple | list) else (value,)
    return sum(n for n in numbers if isinstance(n, int))


def _module(name: str) -> tuple[type[nn.Module], Mapping[str, Any]]:
    if name in _SUPERNETS:
        return _SUPERNETS[name], {}
    chosen = variant(name)
    return chosen.module, chosen.fields


def fields(module: type[nn.Module]) -> dict[str, dataclasses.Field]:
    """Returns the fields of a module that a user may set."""
    own = dataclasses.fields(module)
    return {f.name: f for f in own if f.init and f.name not in ('parent', 'name')}


def check_logits(model: nn.Module, input_size: int, channels: int) -> None:
    """Raises UserError for a model with an output other than (N, num_classes)."""
    images = jax.ShapeDtypeStruct((2, input_size, input_size, channels), jnp.float32)
    with shapes_only():
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    shape, expected = getattr(logits, 'shape', None), (2, model.num_classes)
    if shape != expected:
        actual = f'{shape}' if shape else f'a {type(logits).__name__}'
        raise UserError(
            f'{type(model).__name__} returns {actual} for two images of {input_size} pixels: '
            f'expected logits of shape {expected}.'
        )


def takes_progress(model: nn.Module) -> bool:
    """Returns whether a model takes the progress of training (for schedules, as of drop path).

    Such a model has an argument `progress`, from 0 at the start to 1, the default, at the end.
    """
    return 'progress' in inspect.signature(type(model).__call__).parameters


def features(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs of the stages, and `pre_logits`, by name, in evaluation mode.

    Args:
      model: a module of this registry.
      variables: its variables.
      images: (N, H, W, C), normalized.
    """
    captured: Any
    _, captured = model.apply(variables, images, train=False, mutable=['intermediates'])
    return {name: values[-1] for name, values in captured.get('intermediates', {}).items()}
