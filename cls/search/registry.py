"""Spaces, searchers, objectives, evaluators and supernets by name, with fields from a config."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cls.config.field import is_number
from cls.errors import UserError, nearest, refuse, require
from cls.search import objectives
from cls.search.evaluators import surrogate, table
from cls.search.searchers import evolution, genetic, policy, progressive, q_learning, random
from cls.search.spaces import (
    block_qnn,
    cells,
    genet,
    hier,
    metaqnn,
    mnasnet,
    proxylessnas,
    tabular,
)


class Slow(NamedTuple):
    """An entry whose module is imported on demand.

    Trainings and supernets take seconds to import, and a search in a table does not need them.
    """

    load: Callable[[], Callable[..., Any]]


SPACES = {
    'nasnet': cells.NASNetCells,
    'pnasnet': cells.PNASNetCells,
    'amoebanet': cells.AmoebaNetCells,
    'darts': cells.DARTSCells,
    'genet': genet.GeNetBits,
    'hier': hier.Motifs,
    'block_qnn': block_qnn.BlockQNN,
    'metaqnn': metaqnn.MetaQNN,
    'nasbench201': tabular.NasBench201,
    'nasbench_macro': tabular.NasBenchMacro,
    'transnas101': tabular.TransNasBench101,
    'mnasnet': mnasnet.MnasNet,
    'accel_nasbench': mnasnet.AccelNasBench,
    'proxylessnas': proxylessnas.ProxylessNAS,
}
SEARCHERS = {
    'random': random.Random,
    'evolution': evolution.Evolution,
    'genetic': genetic.Genetic,
    'q_learning': q_learning.QLearning,
    'policy_gradient': policy.PolicyGradient,
    'progressive': progressive.Progressive,
}
OBJECTIVES = {
    'accuracy': objectives.accuracy,
    'accuracy_latency': objectives.accuracy_latency,
    'early_stop': objectives.early_stop,
}


def _training() -> Callable[..., Any]:
    from cls.search.evaluators import train

    return train.Training.from_config


def _timed_training() -> Callable[..., Any]:
    from cls.search.evaluators import latency

    return latency.Timed.from_config


def _darts() -> Callable[..., Any]:
    from cls.search.supernets import darts

    return darts.Darts


def _proxylessnas() -> Callable[..., Any]:
    from cls.search.supernets import proxylessnas

    return proxylessnas.ProxylessNAS


# Called with the space and the whole config, before their own fields.
EVALUATORS = {
    'table': table.Table.from_config,
    'surrogate': surrogate.Surrogate.from_config,
    'train': Slow(_training),
    'train_latency': Slow(_timed_training),
}
SUPERNETS = {'darts': Slow(_darts), 'proxylessnas': Slow(_proxylessnas)}
GROUPS: dict[str, Mapping[str, Callable[..., Any] | Slow]] = {
    'space': SPACES,
    'searcher': SEARCHERS,
    'objective': OBJECTIVES,
    'evaluator': EVALUATORS,
    'supernet': SUPERNETS,
}


# The largest size, count or rate in the fields of a group. Each entry checks smaller values itself.
MOST = {
    'space': 2**12,
    'searcher': 2**24,
    'objective': 2**24,
    'evaluator': 2**24,
    'supernet': 2**24,
}


def find(group: str, name: str) -> Callable[..., Any]:
    """Returns the entry with a name in a group. Raises UserError for an unknown name."""
    entries = GROUPS[group]
    if name not in entries:
        hint = nearest(name, entries) or f' Known: {", ".join(entries)}.'
        raise UserError(f'config.search.{group}.name is {name!r}.{hint}')
    for package in ('matplotlib', 'yaml'):  # before a search of hours, not at its end
        require(package, 'search')
    entry = entries[name]
    return entry.load() if isinstance(entry, Slow) else entry


def create(group: str, config: ConfigDict | Mapping[str, Any], *arguments: Any) -> Any:
    """Returns the entry that config.search.GROUP names, called with arguments and its fields.

    Raises UserError for an unknown name, unknown fields, and values that do not fit.
    """
    fields = dict(config)
    make = find(group, fields.pop('name'))
    known, usual = list(inspect.signature(make).parameters)[len(arguments) :], _defaults(make)
    mistakes = []
    for field, value in fields.items():
        if field not in known:
            hint = nearest(field, known) or f' Known: {", ".join(known) or "none"}.'
            mistakes.append(f'config.search.{group} has no field {field!r}.{hint}')
        elif wanted := _unlike(usual.get(field), value, MOST[group]):
            mistakes.append(f'config.search.{group}.{field} is {value!r}: expected {wanted}.')
    refuse(mistakes)
    try:
        return make(*arguments, **fields)
    except (TypeError, ValueError) as error:
        raise UserError(f'config.search.{group}: {error}.') from error


def defaults(group: str, name: str, **changed: Any) -> ConfigDict:
    """Returns the config of an entry: its name and its fields that have defaults, some changed."""
    return ConfigDict({'name': name, **_defaults(find(group, name)), **changed})


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
    """Returns the expectation for a value whose default is numbers, '' if the value meets it."""
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
