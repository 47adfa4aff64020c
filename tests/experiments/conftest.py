"""Sweeps whose trainings are those of trained.py, and take little time."""

import sys
from pathlib import Path

import pytest

from cls.config import load as configs
from cls.experiments import check, pools, sweep
from cls.experiments.check import Checked, digest

PROGRAM = Path(__file__).parent / 'trained.py'


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    """A function that sets the score and the behavior of trainings: (overrides) -> (score, how)."""

    def install(behavior, evaluations=2, kind='test'):
        def work(self, trial):
            overrides = dict(self.plan.all_overrides(trial))
            config = tmp_path / f'{trial.name}.config.json'
            text = configs.to_json(configs.load(self.plan.config, list(overrides.items())))
            config.write_text(text)
            score, how = behavior(overrides)
            folder = self.folder / trial.name
            arguments = [PROGRAM, folder, config, score, evaluations, how]
            command = [sys.executable, '-S', '-E', *map(str, arguments)]
            return pools.Work(trial.name, command, self.folder / 'logs' / f'{trial.name}.txt')

        def checked(config, trials):
            loaded = [configs.load(config, list(overrides)) for overrides in trials]
            return [Checked(digest(one), evaluations, kind) for one in loaded]

        monkeypatch.setattr(sweep.Sweep, 'work', work)
        monkeypatch.setattr(sweep, 'check', checked)

    assert check.check is not None
    return install
