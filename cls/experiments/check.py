"""The check of all configs of a sweep, in a process of its own.

  python -m cls.experiments.check FILE

The process opens the data and builds the networks as a training does, and frees the accelerators
when it ends. FILE has the configs, and their description replaces its content.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cls import ensemble, signals
from cls.cli import run
from cls.config import defaults
from cls.config import load as configs
from cls.errors import Mistakes, UserError
from cls.experiments.plan import SEED, Pairs
from cls.experiments.together import check as check_setup
from cls.run.environment import start
from cls.search import job as search
from cls.search import supernets  # noqa: F401  registers networks and trainings
from cls.setup import Setup, refuse_mistaken, set_up


@dataclasses.dataclass(frozen=True)
class Checked:
    """The description of a config that can be trained.

    Attributes:
      digest: equal for configs that describe the same training.
      evaluations: the number of evaluations in a run.
      split_kind: 'validation' or 'test', the split of the evaluations.
    """

    digest: str
    evaluations: int
    split_kind: str


def digest(config: Any) -> str:
    """Returns a text that is equal for configs that describe the same training."""
    return hashlib.sha256(configs.identity(config).encode()).hexdigest()[:16]


def check(config: str, trials: Sequence[Pairs], together: bool = False) -> list[Checked]:
    """Returns the descriptions of the configs of a recipe with fields.

    Args:
      config: the recipe.
      trials: the overridden fields of each config.
      together: whether one process is to train all seeds of a config.

    Raises UserError for all mistakes together.
    """
    with tempfile.TemporaryDirectory(prefix='cls-check-') as folder:
        file = Path(folder) / 'configs.json'
        file.write_text(json.dumps([config, trials, together]))
        command = [sys.executable, '-m', 'cls.experiments.check', str(file)]
        # Its stdout is that of libraries, and of no interest here.
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        answer = json.loads(file.read_text())
    if 'mistake' in answer:
        raise UserError(answer['mistake'])
    if 'checked' not in answer:
        lines = result.stderr.strip().splitlines() or [f'exit code {result.returncode}']
        raise UserError(f'the configs could not be checked ({lines[-1]}): see `cls print`.')
    return [Checked(**item) for item in answer['checked']]


def main() -> int:
    """Checks the configs of a file, and writes their description or the mistakes to it."""
    file = Path(sys.argv[1])
    request = json.loads(file.read_text())
    try:
        start()
        checked = described(*request)
        answer: Any = {'checked': [dataclasses.asdict(one) for one in checked]}
    except UserError as error:
        answer = {'mistake': str(error)}
    file.write_text(json.dumps(answer))
    return 0


def described(config: str, trials: Sequence[Pairs], together: bool = False) -> list[Checked]:
    """Does as `check`, in this process."""
    mistakes, result = Mistakes(), []
    checked: dict[str, tuple[int, str] | None] = {}
    opened: dict[str, Setup] = {}  # of each data set, which is opened once for all configs
    for overrides in trials:
        loaded = mistakes.attempt(_load, config, [(name, text) for name, text in overrides])
        if loaded is None:
            continue
        # A seed in its range, as the fields of a config state it, changes no other check.
        point = configs.identity(configs.from_json(configs.to_json(loaded), [(SEED, '0')]))
        if point not in checked:
            data = json.dumps(loaded.data.to_dict(), sort_keys=True)
            setup = mistakes.attempt(set_up, loaded, data_of=opened.get(data))
            if setup is not None:
                opened.setdefault(data, setup)
                if together:
                    mistakes.attempt(check_setup, setup)
            checked[point] = _evaluations(setup) if setup is not None else None
        if (evaluations := checked[point]) is not None:
            result.append(Checked(digest(loaded), *evaluations))
    mistakes.refuse()
    return result


def _load(config: str, overrides: Pairs) -> Any:
    """Returns the config of a training. Raises UserError for all its mistakes."""
    try:
        loaded = configs.load(config, overrides)
    except defaults.MistakenConfig as error:
        refuse_mistaken(error)
    if search.is_search(loaded) or ensemble.is_ensemble(loaded):
        kind = 'a search' if search.is_search(loaded) else 'an ensemble'
        raise UserError(f'{config} is {kind}: expected a recipe that trains one network.')
    return loaded


def _evaluations(setup: Setup) -> tuple[int, str]:
    """Returns the number of evaluations in a run, and the kind of their split."""
    every, total = setup.run.eval_every, setup.total_steps
    return -(-total // every) if every else 1, setup.kind(final=False)


if __name__ == '__main__':
    signals.begin(['cls.experiments.check'])
    run(main)
