"""Spaces, searchers, objectives and evaluators by name, with fields from a config."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from cls.config.defaults import is_number
from cls.errors import UserError, nearest

# Module in cls.search and what it is called there. Imported when asked for: some load JAX.
SPACES = {
    'nasnet': 'spaces.cells:NASNetCells',
    'pnasnet': 'spaces.cells:PNASNetCells',
    'amoebanet': 'spaces.cells:AmoebaNetCells',
    'darts': 'spaces.cells:DARTSCells',
    'genet': 'spaces.genet:GeNetBits',
    'hier': 'spaces.hier:Motifs',
    'block_qnn': 'spaces.block_qnn:BlockQNN',
    'metaqnn': 'spaces.metaqnn:MetaQNN',
    'nasbench201': 'spaces.tabular:NasBench201',
    'nasbench_macro': 'spaces.tabular:NasBenchMacro',
    'transnas101': 'spaces.tabular:TransNasBench101',
    'mnasnet': 'spaces.mnasnet:MnasNet',
    'accel_nasbench': 'spaces.mnasnet:AccelNasBench',
    'proxylessnas': 'spaces.proxylessnas:ProxylessNAS',
}
SEARCHERS = {
    'random': 'searchers.random:Random',
    'evolution': 'searchers.evolution:Evolution',
    'genetic': 'searchers.genetic:Genetic',
    'q_learning': 'searchers.q_learning:QLearning',
    'policy_gradient': 'searchers.policy:PolicyGradient',
    'progressive': 'searchers.progressive:Progressive',
}
OBJECTIVES = {
    'accuracy': 'objectives:accuracy',
    'accuracy_latency': 'objectives:accuracy_latency',
    'early_stop': 'objectives:early_stop',
}
# Called with the space and the whole config, before their own fields.
EVALUATORS = {
    'table': 'evaluators.table:of',
    'surrogate': 'evaluators.surrogate:of',
    'train': 'evaluators.train:of',
    'train_latency': 'evaluators.latency:of',
}
SUPERNETS = {
    'darts': 'supernets.darts:Darts',
    'proxylessnas': 'supernets.proxylessnas:ProxylessNAS',
}
GROUPS = {
    'space': SPACES,
    'searcher': SEARCHERS,
    'objective': OBJECTIVES,
    'evaluator': EVALUATORS,
    'supernet': SUPERNETS,
}


# Sizes, counts and rates of a group, at most; what makes no sense below that says so itself.
MOST = {
    'space': 2**12,
    'searcher': 2**24,
    'objective': 2**24,
    'evaluator': 2**24,
    'supernet': 2**24,
}


def found(group: str, name: str) -> Callable[..., Any]:
    """Returns what a name of a group means. Raises UserError for one that is not there."""
    known = GROUPS[group]
    if name not in known:
        hint = nearest(name, known) or f' Known: {", ".join(known)}.'
        raise UserError(f'config.search.{group}.name is {name!r}.{hint}')
    module, _, attribute = known[name].partition(':')
    return getattr(importlib.import_module(f'cls.search.{module}'), attribute)


def create(group: str, config: ConfigDict | Mapping[str, Any], *arguments: Any) -> Any:
    """Returns what config.search.GROUP describes: its name called with arguments and its fields.

    Raises UserError for a name or a field that is not there, and for values that do not fit.
    """
    fields = dict(config)
    make = found(group, fields.pop('name'))
    known = list(inspect.signature(make).parameters)[len(arguments) :]
    for field in fields:
        if field not in known:
            hint = nearest(field, known) or f' Known: {", ".join(known) or "none"}.'
            raise UserError(f'config.search.{group} has no field {field!r}.{hint}')
    usual = _defaults(make)
    for field, value in fields.items():
        if wanted := _unlike(usual.get(field), value, MOST[group]):
            raise UserError(f'config.search.{group}.{field} is {value!r}: expected {wanted}.')
    try:
        return make(*arguments, **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f'config.search.{group}: {error}.') from error


def defaults(group: str, name: str, **changed: Any) -> ConfigDict:
    """Returns the config of a name: all its fields that have defaults, some changed."""
    return ConfigDict({'name': name, **_defaults(found(group, name)), **changed})


def _defaults(make: Callable[..., Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(make):
        return {
            field.name: field.default
            for field in dataclasses.fields(make)
            if field.default is not dataclasses.MISSING
        }
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(make).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }


def _unlike(usual: Any, value: Any, most: int) -> str:
    """Returns what was expected in the place of a number, or of numbers, unlike the default."""
    usual = usual if isinstance(usual, tuple) else (usual,)
    values = value if isinstance(value, tuple) else (value,)
    if not usual or not all(is_number(x) for x in usual):
        return ''
    if not all(is_number(x) for x in values):
        return 'numbers'
    if all(isinstance(x, int) for x in usual) and not all(isinstance(x, int) for x in values):
        return 'whole numbers'
    if not values:
        return 'at least one number'
    least = -most if min(usual) < 0 else 0
    return '' if all(least <= x <= most for x in values) else f'{least} to {most}'
