"""Sweeps whose trainings are those of trained.py and take little time.

  python tests/experiments/stand_in.py FLAG ...

is `cls sweep` with such trainings; their scores are those of `score`.
"""

import math
import sys
import tempfile
from pathlib import Path

from cls.config import load as configs
from cls.experiments import pools, study, sweep
from cls.experiments.check import Checked, digest

PROGRAM = Path(__file__).parent / 'trained.py'


def score(fields):
    """Returns an accuracy; the best learning rate is 0.1."""
    return 90 - 5 * abs(math.log10(float(fields['optim.lr'])) + 1)


def install(setattr_, folder, behavior, evaluations=2, kind='test'):
    """Replaces the trainings of sweeps, and the process that checks configs.

    Args:
      setattr_: as the built-in function.
      folder: for files.
      behavior: {field: text} -> (score, how), see trained.py.
      evaluations: of a training.
      kind: of the split of the evaluations.
    """

    def work(self, *trials):
        (trial,) = trials
        overrides = dict(self.plan.all_overrides(trial))
        config = folder / f'{trial.name}.config.json'
        config.write_text(configs.to_json(configs.load(self.plan.config, [*overrides.items()])))
        value, how = behavior(overrides)
        arguments = [PROGRAM, self.folder / trial.name, config, value, evaluations, how]
        command = [sys.executable, '-S', '-E', *map(str, arguments)]
        return pools.Work(trial.name, command, self.folder / 'logs' / f'{trial.name}.txt')

    def checked(config, trials, together=False):
        loaded = [configs.load(config, [*overrides]) for overrides in trials]
        return [Checked(digest(one), evaluations, kind) for one in loaded]

    setattr_(sweep.Sweep, 'work', work)
    setattr_(sweep, 'check', checked)
    assert study.open_plan is sweep.open_plan


if __name__ == '__main__':
    from cls.tools.sweep import main

    with tempfile.TemporaryDirectory() as scratch:
        install(setattr, Path(scratch), lambda fields: (score(fields), 'slow'), 1)
        sys.exit(main())
