"""The arms of the recipes: their network, data, length, and accuracies."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cls import models
from cls.config import files
from cls.config import load as configs
from cls.errors import UserError

RESULTS = files.ROOT / 'tests' / 'results.json'  # in a checkout: the last measurements
_CLASSES = {'tfds:cifar10': 10, 'tfds:cifar100': 100, 'tfds:imagenet2012': 1000}
HEADER = ('recipe', 'network', 'data', 'length', 'batch', "the paper's top-1", 'measured top-1')


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm of a recipe.

    Attributes:
      config: the value of --config, as 'resnet:cifar10'.
      variant: the network.
      data: config.data.name.
      duration: config.duration.
      batch: config.batch.
      about: a line about the arm.
      paper: the accuracy that the paper states for the network, in percent, if the data are of its
        kind; None if unknown.
      measured: the accuracy of the last recorded test of this arm; None if there is none.
    """

    config: str
    variant: str
    data: str
    duration: str
    batch: int
    about: str
    paper: float | None
    measured: float | None

    def __str__(self) -> str:
        parts = [f'--config {self.config}: {self.data}, {self.duration}, batches of {self.batch}']
        parts += [f'the paper has top-1 {self.paper:g} %'] if self.paper else []
        parts += [f'measured top-1 {self.measured:g} %'] if self.measured else []
        return '; '.join(parts)


@functools.cache
def arms() -> tuple[Arm, ...]:
    """Returns the arms of all recipes with a network and data of their own, in their order."""
    every = []
    for recipe in files.names():
        if recipe.startswith('search/'):
            continue
        for name, about in configs.arms(files.find(recipe)).items():
            if '=' not in about.partition(':')[0]:  # folder=DIR and fine-tuning need an argument
                every += _arm(recipe, name, about)
    return tuple(every)


def _arm(recipe: str, name: str, about: str, variant: str = '') -> Iterator[Arm]:
    spec = f'{recipe}:{name}' + (f',variant={variant}' if variant else '')
    try:
        config = configs.load(spec)
    except UserError:
        return  # an arm that needs an argument
    if 'members' in config:
        return
    chosen = models.variant(config.model.name)
    data = config.data.name
    measured = _measured().get(f'configs/{recipe}.py') if data == 'digits' else None
    paper = chosen.top1 if _is_of(chosen.name, data) else None
    yield Arm(spec, chosen.name, data, config.duration, config.batch, about, paper, measured)


def _is_of(variant: str, data: str) -> bool:
    """Whether a paper's accuracy of a variant is that on a data set."""
    kind = next((k for k in ('svhn', 'mnist') if k in variant), '')
    if kind or data.removeprefix('tfds:') in ('svhn_cropped', 'mnist'):
        return bool(kind) and kind in data
    return _CLASSES.get(data) == models.create(variant).num_classes


def of_variant(name: str) -> list[Arm]:
    """Returns the arms that train a variant, or another one of its system on the same images."""
    chosen, own, others = models.variant(name), [], []
    for arm in arms():
        trained = models.variant(arm.variant)
        if trained.name == name:
            own.append(arm)
        elif (
            trained.system == chosen.system
            and arm.data != 'digits'
            and (trained.input_size > 64) == (chosen.input_size > 64)
        ):
            recipe, _, argument = arm.config.partition(':')
            others += _arm(recipe, argument, arm.about, name)
    return own + others


def nearest(fields: Mapping[str, Any]) -> tuple[Arm, list[tuple[str, Any, Any]]] | None:
    """Returns the arm whose config has the fewest differences from that of a run, and these.

    A difference is (field, value of the arm, value of the run); a field that one lacks is None
    there. Fields that the training is independent of, and the seed, are left out.

    Args:
      fields: the config of the run, by dotted names.

    Returns None if no recipe trains the system of the run.
    """
    name = fields.get('model.name', '')
    if not models.is_known(name) or models.is_supernet(name):
        return None
    best = None
    for arm in of_variant(name):
        own = dict(configs.flatten(configs.load(arm.config)))
        names = [n for n in sorted({*own, *fields}) if n != 'seed' and not configs.is_outward(n)]
        differing = [(n, own.get(n), fields.get(n)) for n in names if own.get(n) != fields.get(n)]
        if best is None or len(differing) < len(best[1]):
            best = arm, differing
    return best


@functools.cache
def _measured() -> dict[str, float]:
    try:
        digits: Any = json.loads(RESULTS.read_text())['digits']
    except (OSError, ValueError, KeyError):
        return {}
    return {file: values[0] for file, values in digits.items()}


def table(pattern: str) -> list[tuple[str, ...]]:
    """Returns the rows of a table of the arms whose network matches a pattern, with a header."""
    known = set(models.names(pattern))
    rows: list[tuple[str, ...]] = [HEADER]
    for arm in arms():
        if arm.variant in known:
            numbers = [f'{x:g} %' if x else '-' for x in (arm.paper, arm.measured)]
            rows.append(
                (arm.config, arm.variant, arm.data, arm.duration, f'{arm.batch:,}', *numbers)
            )
    return rows
