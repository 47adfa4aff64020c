"""Runs with equal configs up to the seed as groups, and the differing fields of configs."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from cls.config import load as configs
from cls.experiments.plan import SEED
from cls.experiments.runs import RunData

log = logging.getLogger(__name__)

MISSING = None  # the value of a field in a config without it


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds.

    Attributes:
      label: the differences to the other groups, as 'optim.lr=0.1'.
      fields: these fields and their values.
      runs: the runs, sorted by seed, one for each.
    """

    label: str
    fields: Mapping[str, Any]
    runs: tuple[RunData, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def results(self, metric: str) -> dict[int, float]:
        """Returns seed -> the metric in the result of each finished run that has it."""
        values = {run.seed: (run.result or {}).get(metric) for run in self.runs}
        return {s: v for s, v in values.items() if isinstance(v, (int, float))}


def grouped(runs: Sequence[RunData], varied: Sequence[str] = ()) -> tuple[Group, ...]:
    """Returns the groups of runs, in the order of their first runs.

    Fields that the training is independent of, as log_every, do not separate groups. Of two runs
    with the same config and seed, whose results are equal, the first counts; this is logged.

    Args:
      runs: the runs.
      varied: fields to show for each group even if all have the same value.
    """
    parts: dict[str, dict[int, RunData]] = {}
    for run in runs:
        own = parts.setdefault(repr(_training_fields(run)), {})
        if run.seed in own:
            log.info(
                '%s has the config and the seed of %s: it does not count a second time.',
                *(run.folder, own[run.seed].folder),
            )
        own.setdefault(run.seed, run)
    members = [tuple(own[seed] for seed in sorted(own)) for own in parts.values()]
    configs_ = [dict(_training_fields(own[0])) for own in members]
    table = {name: tuple(config.get(name) for config in configs_) for name in varied}
    table |= differences(configs_)
    groups = []
    for index, own in enumerate(members):
        fields = {name: values[index] for name, values in table.items()}
        groups.append(Group(label(fields) or own[0].config['model']['name'], fields, own))
    return tuple(groups)


def _training_fields(run: RunData) -> list[tuple[str, Any]]:
    """Returns the fields that determine a training, without the seed."""
    pairs = sorted(run.fields.items())
    return [pair for pair in pairs if pair[0] != SEED and not configs.is_outward(pair[0])]


def differences(fields: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Returns name -> the value in each config, of the fields that differ between any two configs.

    Args:
      fields: configs by dotted names; a field that one lacks is MISSING there.
    """
    names = dict.fromkeys(name for config in fields for name in sorted(config))
    table = {name: tuple(config.get(name, MISSING) for config in fields) for name in sorted(names)}
    return {
        name: values
        for name, values in table.items()
        if any(value != values[0] for value in values)
    }


def label(fields: Mapping[str, Any]) -> str:
    """Returns 'optim.lr=0.1, model.name=wrn16_8_cifar' for the fields of a group."""
    return ', '.join(f'{name}={shown(value)}' for name, value in fields.items())


def shown(value: Any) -> str:
    """Returns a value of a field for a table: short, and on one line."""
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, str) and value.count('/') > 2:
        return f'.../{PurePath(value).name}'
    text = str(value) if isinstance(value, (str, int)) else repr(value)
    text = ' '.join(text.split()) or "''"
    return text if len(text) <= 60 else f'{text[:40]}...{text[-15:]}'
