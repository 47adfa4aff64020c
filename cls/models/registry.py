"""The list of systems and of their variants: one contract for every net.

A model file describes its system, its net, and then its variants:

    SYSTEM = System('ResNet', 'Deep Residual Learning for Image Recognition', 'CVPR 2016', ...)
    register(Variant('resnet50', SYSTEM, ResNet, dict(stage_sizes=(3, 4, 6, 3)), ...))
"""

import dataclasses
import fnmatch
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls import genotypes
from cls.errors import UserError, nearest
from cls.nn.init import shapes_only


@dataclasses.dataclass(frozen=True)
class System:
    """A row of the reading list. Accuracies in percent on ImageNet's validation set.

    `headline` is the variant whose cost stands for the system; `params` and `macs` are what the
    paper says of it, in millions, None where it says nothing.
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
    """A named net: a module with its fields, and what is known of it.

    `params` counts trainable parameters without auxiliary heads; `macs` the multiply-adds of
    convolutions and matrix products for one image of `input_size`; both are held against the net
    itself by tests. `top1` and `top5` are the paper's, in percent, by a single crop unless the
    model file says otherwise. `reference` is `package:constructor` of an implementation with the
    same graph, `renames` the (regular expression, replacement) pairs that turn our parameter names
    into its, and `old_names` those that turn names in its older checkpoints into its present ones.
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
    renames: tuple[tuple[str, str], ...] = ()
    old_names: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Variants whose softmax is averaged; one that is named twice is trained from two seeds."""

    name: str
    system: System
    members: tuple[str, ...]


# Nets that hold all of a search space, which no paper lists: module and class, imported when asked
# for.
SUPERNETS = {
    'darts_supernet': 'cls.search.supernet.darts:Net',
    'nasbench201_supernet': 'cls.search.supernet.nasbench201:Net',
    'proxyless_supernet': 'cls.search.supernet.proxyless_net:Net',
}

# Of a network, the most that is traced; one that a mistake in a config asks for has no end.
MODULES = 5_000
# Fields of modules that say how many blocks, or layers, there are.
_DEPTHS = frozenset({'stage_sizes', 'block_sizes', 'blocks', 'depths', 'depth', 'modules'})

_VARIANTS: dict[str, Variant] = {}
_ENSEMBLES: dict[str, Ensemble] = {}


def register(variant: Variant) -> None:
    """Adds a variant to the list. Raises ValueError when the name is taken."""
    if variant.name in _VARIANTS:
        raise ValueError(f'two variants are named {variant.name}')
    _VARIANTS[variant.name] = variant


def register_ensemble(ensemble: Ensemble) -> None:
    """Adds an ensemble to the list."""
    _ENSEMBLES[ensemble.name] = ensemble


@functools.cache
def _import_all() -> None:
    package = importlib.import_module('cls.models')
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'cls.models.{module.name}')


def variant(name: str) -> Variant:
    """Returns the variant of that name, or of which it is the reference's.

    Raises UserError, naming the nearest, if there is none.
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
    """Returns the references' names that are no variant's -> the variant's: torchvision's etc."""
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
    """Returns the module of a variant or a supernet, with fields replaced; a genotype may be data.

    Raises UserError for an unknown variant or field, naming the nearest known ones.
    """
    module, own = _module(name)
    known = fields(module)
    for key in overrides:
        if key not in known:
            hint = nearest(key, known) or f' It has {", ".join(known)}.'
            raise UserError(f'model {name} has no field {key!r}.{hint}')
    for key in _DEPTHS & overrides.keys():
        genotypes.check_layers(_total(overrides[key]), f'model {name} with {key}={overrides[key]}')
    if isinstance(overrides.get('genotype'), Mapping | list | tuple):  # plain data, from a file
        kind = known['genotype'].type
        overrides['genotype'] = genotypes.structure(overrides['genotype'], kind)
    return module(**{**own, **overrides})


def _total(value: Any) -> int:
    numbers = value if isinstance(value, tuple | list) else (value,)
    return sum(n for n in numbers if isinstance(n, int))


def _module(name: str) -> tuple[type[nn.Module], Mapping[str, Any]]:
    if name in SUPERNETS:
        module, _, attribute = SUPERNETS[name].partition(':')
        return getattr(importlib.import_module(module), attribute), {}
    chosen = variant(name)
    return chosen.module, chosen.fields


def fields(module: type[nn.Module]) -> dict[str, dataclasses.Field]:
    """Returns the fields of a module that a user may set."""
    own = dataclasses.fields(module)
    return {f.name: f for f in own if f.init and f.name not in ('parent', 'name')}


def abstract_variables(model: nn.Module, input_size: int, channels: int = 3) -> Any:
    """Returns the tree of shapes of `model.init` for square images, without computing anything.

    Raises UserError for a network of more than MODULES modules, which would be traced for minutes.
    """
    images = jax.ShapeDtypeStruct((1, input_size, input_size, channels), jnp.float32)
    seen = set()

    def count(next_call, args, kwargs, context):
        seen.add(context.module.path)
        if len(seen) > MODULES:
            raise UserError(
                f'config.model describes a network of more than {MODULES:,} modules: expected at '
                'most that (ResNet-1202 has 3,007).'
            )
        return next_call(*args, **kwargs)

    with shapes_only(), nn.intercept_methods(count):
        return jax.eval_shape(model.init, jax.random.key(0), images)


def takes_progress(model: nn.Module) -> bool:
    """Whether the net wants to know how far training is (for something scheduled, as drop path).

    Such a net takes `progress`, from 0 at the start to 1 at the end; 1 when left out.
    """
    return 'progress' in inspect.signature(type(model).__call__).parameters


def features(model: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs of the net's stages, and `pre_logits`, by name, in evaluation mode.

    Args:
      model: a module of this registry.
      variables: its variables.
      images: (N, H, W, C), normalised.
    """
    _, captured = model.apply(variables, images, train=False, mutable=['intermediates'])
    return {name: values[-1] for name, values in captured['intermediates'].items()}
