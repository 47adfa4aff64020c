"""Seeds that are trained together: the run folders are those of separate runs."""

import json
import signal

import jax
import numpy as np
import pytest
from tiny import FIELDS

from cls import train
from cls.config import load as configs
from cls.errors import UserError
from cls.experiments import runs, together
from cls.models import registry
from cls.run.checkpoint import restore_newest
from cls.run.goodput import TimeLedger
from cls.setup import abstract_state, set_up

RECIPE = """
import sys
from cls import models
from cls.recipes import common
sys.path.insert(0, {tests!r})
from tiny import Tiny

MINE = models.System('Mine', 'A model of my own', '', '', None, None)
models.register(models.Variant('tiny', MINE, Tiny, {{}}, input_size=8, params=0, macs=0))


def get_config(argument):
    c = common.base()
    common.use_digits(c)
    c.model.name = 'tiny'
    c.data.train_crop, c.data.pad, c.ema = 'pad', 1, 0.9
    c.optim.lr, c.schedule.name = 0.05, 'cosine'
    c.log_every, c.eval.every = '2 steps', '4 steps'
    return c
"""
SEEDS = (0, 5)
HELD = {'eval.validation': '0.2', 'checkpoint.best': 'validation/top1'}

pytestmark = pytest.mark.usefixtures('quick_programs')


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    from pathlib import Path

    from cls import models

    models.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, '_VARIANTS', dict(registry._VARIANTS))
        patch.setattr(registry, '_ORIGINS', {})
        file = tmp_path_factory.mktemp('recipe') / 'own.py'
        file.write_text(RECIPE.format(tests=str(Path(__file__).parents[1])))
        yield str(file)


def load(recipe, *overrides):
    skipped = ('schedule.warmup', 'log_every')
    fields = [pair for pair in FIELDS if pair[0] not in skipped]
    return configs.load(recipe, [*fields, *overrides])


def rows(folder):
    """Returns the lines of metrics.jsonl without times."""
    timed = ('images_per_second', 'goodput')
    return [
        {k: v for k, v in json.loads(line).items() if k not in timed and not k.startswith('time/')}
        for line in (folder / 'metrics.jsonl').read_text().splitlines()
    ]


def state(folder, setup):
    """Returns the newest state of a run folder."""
    shapes, _ = setup.new_state_shapes()
    restored = restore_newest(folder / 'checkpoints', abstract_state(shapes, setup.mesh))
    return jax.tree.map(np.asarray, restored)


@pytest.fixture(scope='module')
def separate(recipe, tmp_path_factory):
    """Runs of each seed by itself, on one device."""
    folder = tmp_path_factory.mktemp('separate')
    for seed in SEEDS:
        config = load(recipe, ('seed', str(seed)))
        setup = set_up(config, jax.devices()[:1])
        (folder / str(seed)).mkdir()
        train.fit(setup, folder / str(seed), ledger=TimeLedger())
    return folder


@pytest.mark.parametrize('stacked', [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_numbers_are_those_of_separate_runs(recipe, separate, tmp_path, stacked):
    config = load(recipe)
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    assert together.job(config, folders, stacked=stacked) == {}
    setup = set_up(config, jax.devices()[:1])
    exact = {'rtol': 2e-4, 'atol': 1e-5} if stacked else {'rtol': 0, 'atol': 0}
    for seed, folder in folders.items():
        one, other = state(separate / str(seed), setup), state(folder, setup)
        assert one.step == other.step == 8
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **exact), one, other)
        assert [list(row) for row in rows(folder)] == [list(r) for r in rows(separate / str(seed))]
        for row, expected in zip(rows(folder), rows(separate / str(seed)), strict=True):
            np.testing.assert_allclose([*row.values()], [*expected.values()], rtol=1e-4)
        data = runs.read(folder)
        assert data.seed == seed
        assert data.result['together'] == 2
        assert sorted(f.name for f in folder.glob('checkpoints/[0-9]*')) == ['3', '6', '8']
    # Different seeds are different runs.
    assert len({runs.read(folder).result['test/loss'] for folder in folders.values()}) == 2


def test_a_run_that_was_trained_together_is_finished_for_cls_train(recipe, tmp_path, capsys):
    config = load(recipe)
    together.job(config, {0: tmp_path / '0', 1: tmp_path / '1'})
    assert train.job(load(recipe, ('seed', '1')), tmp_path / '1') is not None
    assert 'nothing was trained' in capsys.readouterr().out
    with pytest.raises(UserError, match='holds a run that has begun: train it by itself'):
        together.job(config, {0: tmp_path / '0', 2: tmp_path / '2'})
    assert not (tmp_path / '2').exists()


def test_a_seed_that_fails_ends_alone(recipe, tmp_path, monkeypatch):
    """The loss of the second seed becomes infinite at its third step."""
    advance = together.Threads.advance

    def poisoned(self, phase, fed):
        metrics = advance(self, phase, fed)
        if fed[0].data['step'] == 3:
            metrics[1] = metrics[1] | {'loss': metrics[1]['loss'] * np.inf}
        return metrics

    monkeypatch.setattr(together.Threads, 'advance', poisoned)
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    failures = together.job(load(recipe), folders, stacked=False)
    assert list(failures) == [5]
    assert 'loss not finite at step 3' in failures[5]
    assert [bool(runs.read(folders[seed]).result) for seed in SEEDS] == [True, False]


def test_a_stop_during_an_evaluation_leaves_the_best_checkpoint(recipe, tmp_path, monkeypatch):
    """The step that an evaluation has saved as the best is not saved again at the end."""
    assess = together.Lane.assess

    def stopped(self, state, step, data_state):
        assess(self, state, step, data_state)
        if self.setup.seed == SEEDS[1]:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(together.Lane, 'assess', stopped)
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    together.job(load(recipe, *HELD.items()), folders, stacked=False)
    for folder in folders.values():
        saved = {file.name for file in (folder / 'checkpoints').iterdir()}
        assert {'4', 'best.json'} <= saved
        assert 'damaged' not in saved


@pytest.mark.sweep
def test_each_seed_holds_out_its_own_images(recipe, tmp_path):
    fields = HELD.items()
    folders = {seed: tmp_path / str(seed) for seed in (0, 1)}
    assert together.job(load(recipe, *fields), folders, stacked=False) == {}
    setup = set_up(load(recipe, *fields, ('seed', '1')), jax.devices()[:1])
    (tmp_path / 'separate').mkdir()
    expected = train.fit(setup, tmp_path / 'separate', ledger=TimeLedger())
    result = runs.read(folders[1]).result
    for name in ('validation/loss', 'test/loss', 'best'):
        assert result[name] == expected[name]
    assert result['validation/loss'] != runs.read(folders[0]).result['validation/loss']
    with pytest.raises(UserError, match='another one for each seed'):
        together.job(load(recipe, *fields), {0: tmp_path / 'a', 1: tmp_path / 'b'}, stacked=True)


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        (HELD | {'eval.every': '4 steps', 'eval.patience': '2'}, 'config.eval.patience ends each'),
        ({'data.train_crop': 'random_resized'}, 'its data do not fit on the device'),
        ({'profile': '1:2'}, 'config.profile is set'),
        (
            {'duration': '1 minutes', 'schedule.name': 'constant'},
            'config.duration is a time',
        ),
    ],
)
def test_other_runs_are_refused_before_anything_is_written(recipe, tmp_path, fields, said):
    with pytest.raises(UserError, match=said):
        together.job(load(recipe, *fields.items()), {0: tmp_path / 'a', 1: tmp_path / 'b'})
    assert not list(tmp_path.iterdir())
