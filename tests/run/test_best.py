"""The best checkpoint and early stopping, with values of evaluations from a list."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from compiling import FAST
from logs import logged

import cls
from cls import evaluate, programs, train, trainer
from cls.config import load as configs
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.feed import ResidentBatches
from cls.run import checkpoint_files
from cls.run.best import Selection, Standing
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import TimeLedger
from cls.run.interval import Interval
from cls.run.telemetry import Metrics, Progress
from cls.setup import abstract_state, set_up
from cls.steps import sharding as meshes
from cls.weights import pretrained

ROOT = Path(__file__).parents[2]
RUN = (
    ('duration', '40 steps'),
    ('log_every', '4 steps'),
    ('checkpoint.every', '8 steps'),
    ('checkpoint.keep', '1'),
    ('checkpoint.best', 'validation/top1'),
    ('eval.every', '5 steps'),
    ('eval.validation', '0.1'),
    ('eval.patience', '3'),
    ('ema', '0.9'),
)
# Step 15 is the best: 20 is not finite, 25 is equal, 30 is worse; the training ends there.
TOP1 = {5: 20.0, 10: 40.0, 15: 60.0, 20: math.nan, 25: 60.0, 30: 50.0, 35: 99.0, 40: 99.0}


class Killed(BaseException):
    """Ends a run without any work that a kill would prevent."""


@functools.cache
def compiled(*more):
    """Returns a setup, the shapes of a state, and the compiled steps."""
    setup = tiny.setup(*RUN, *more)
    shapes, optimizer = setup.new_state_shapes()
    where = abstract_state(shapes, setup.mesh)
    iterator = train.batches(setup)
    steps = programs.compile_train_steps(
        setup, optimizer, where, 0, iterator, compiler_options=FAST
    )
    return setup, where, steps


def run(workdir, *more, kill=None, hard=False):
    """Trains in a folder, from its newest checkpoint.

    Args:
      workdir: the run folder.
      *more: overridden fields.
      kill: ends the process at 'evaluate 15', 'save 15', 'best 15' (after the file is written), or
        'test 15'.
      hard: whether by a signal, or else by an exception.

    Returns (result, the evaluations as 'evaluate 15' or 'test 15').
    """
    setup, where, steps = compiled(*more)
    events = []

    def event(name):
        events.append(name)
        if name == kill:
            if hard:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed

    def evaluated(setup, eval_step, state, check, final=False, confusion=None):
        step = int(state.step)
        event(f'{"test" if final else "evaluate"} {step}')
        kind = setup.kind(final)
        return {
            f'{kind}/top1': TOP1.get(step, 10.0) + final,
            f'{kind}/top5': 99.0,
            f'{kind}/loss': 1 / step,
        }

    class Spied(Checkpoints):
        def save(self, step, *args):
            event(f'save {step}')
            super().save(step, *args)

        def keep_best(self, step, content):
            super().keep_best(step, content)
            event(f'best {step}')

    iterator = train.batches(setup)
    assert isinstance(iterator, ResidentBatches)
    checkpoints = Spied(workdir / 'checkpoints', setup.run.keep, record=setup.config.record())
    restored = checkpoints.restore(where)
    state = restored[0] if restored else None
    ledger = TimeLedger()
    if restored:
        iterator.set_state(restored[1])
        ledger.continue_from(restored[2], restored[2])
    else:
        state = meshes.put(setup.new_state()[0], jax.tree.map(lambda x: x.sharding, where))
    step = int(state.step)
    with pytest.MonkeyPatch.context() as patch, Preemption() as preemption:
        patch.setattr(trainer, 'evaluate_state', evaluated)
        loop = trainer.Trainer(
            setup=setup,
            ledger=ledger,
            checkpoints=checkpoints,
            metrics=Metrics(workdir, step),
            progress=Progress(step, setup.total_steps, show=False),
            preemption=preemption,
            eval_step=None,
            workdir=workdir,
            interval=Interval(restored[2].get('interval') if restored else None),
            selection=train.selection_of(setup, workdir, checkpoints, step),
        )
        try:
            result = loop.run(steps, state, iterator)
        except Killed:
            result = None
    return result, [name for name in events if not name.startswith(('save', 'best'))]


def kept(workdir):
    return sorted(checkpoint_files.steps(workdir / 'checkpoints'))


def outcome(workdir):
    """Returns the lines of the log, and the result and best checkpoint without times."""
    result = json.loads((workdir / 'result.json').read_text())
    for name in ('seconds', 'time', 'goodput', 'goodput_with_downtime', 'restarts'):
        del result[name]
    best = (workdir / 'checkpoints' / 'best.json').read_text()
    states = [pretrained.of_run(workdir, newest=newest)[0] for newest in (False, True)]
    return logged(workdir), result, best, kept(workdir), jax.tree.leaves(states)


def assert_same(one, other):
    *ours, arrays = outcome(one)
    *theirs, others = outcome(other)
    assert ours == theirs
    for x, y in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run that ends early, its result and its evaluations."""
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, *run(workdir)


def test_the_best_weights_are_tested_once_after_an_early_end(whole):
    workdir, result, evaluations = whole
    assert evaluations == [f'evaluate {step}' for step in range(5, 31, 5)] + ['test 15']
    assert kept(workdir) == [15, 30]
    assert result['best'] == {'step': 15, 'metric': 'validation/top1', 'value': 60.0}
    assert (result['validation/top1'], result['test/top1'], result['step']) == (60, 61, 30)
    assert result['stopped'] == (
        'no better validation/top1 in 3 evaluations (the best, 60, is of step 15)'
    )
    assert result['evaluated'] == (
        'validation figures are of 145 images (0.1 of each class held out of train); the 355 '
        "images of split 'test' were evaluated once, after the training, on the weights of step "
        '15, the best by validation/top1.'
    )
    lines = [line for line in logged(workdir) if 'validation/top1' in line]
    assert [line['step'] for line in lines] == list(range(5, 31, 5))
    assert not any('test/top1' in line for line in logged(workdir))


@pytest.mark.parametrize(
    'kill',
    ['save 15', 'best 15', 'save 16', 'save 30', 'test 15'],  # the last: all but the result is done
)
def test_a_run_that_is_interrupted_anywhere_ends_the_same(whole, tmp_path, kill):
    result, _ = run(tmp_path, kill=kill)
    assert result is None
    run(tmp_path)
    assert_same(whole[0], tmp_path)


def test_a_run_that_is_killed_after_its_best_checkpoint_ends_the_same(whole, tmp_path):
    script = (
        'import sys, pathlib; sys.path[:0] = ["tests", "tests/run"]; import test_best; '
        'test_best.run(pathlib.Path(sys.argv[1]), kill="evaluate 20", hard=True)'
    )
    process = subprocess.run([sys.executable, '-c', script, tmp_path], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    assert kept(tmp_path) in ([15], [15, 16])  # that of step 16 may have been written
    run(tmp_path)
    assert_same(whole[0], tmp_path)


def test_with_more_patience_a_run_goes_on(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    result, evaluations = run(tmp_path / 'run', ('eval.patience', '4'))
    assert evaluations == ['evaluate 30', 'evaluate 35', 'evaluate 40', 'test 35']
    assert (result['best']['step'], result['step']) == (35, 40)
    assert 'stopped' not in result
    assert kept(tmp_path / 'run') == [35, 40]


def test_a_run_without_an_end_in_sight_trains_to_its_length(tmp_path):
    """The best by loss, which falls: it is the last one."""
    result, _ = run(tmp_path, ('eval.patience', '0'), ('checkpoint.best', 'validation/loss'))
    assert (result['best']['step'], result['step'], result['test/top1']) == (40, 40, 100)
    assert kept(tmp_path) == [40]


def test_a_best_checkpoint_that_is_gone_is_said(whole, tmp_path, capsys, caplog):
    workdir = tmp_path / 'run'
    shutil.copytree(whole[0], workdir)
    shutil.rmtree(workdir / 'checkpoints' / '15')
    (workdir / 'result.json').unlink()
    result, evaluations = run(workdir)
    assert evaluations == ['evaluate 30', 'test 30']
    assert 'best' not in result and result['validation/top1'] == 50
    assert pretrained.of_run(workdir)[1].startswith('step 30, not the best by')
    assert 'taking checkpoint 30 of' in caplog.text
    assert '15 is missing, the best one' in caplog.text


def test_a_run_folder_is_used_with_its_best_weights(whole):
    workdir, _, _ = whole
    variables, text = pretrained.of_run(workdir)
    assert text == 'step 15, the best by validation/top1 (60); the newest is of step 30'
    assert pretrained.of_run(workdir, newest=True)[1].startswith('step 30, not the best')
    setup, where, _ = compiled()
    states = [
        checkpoint.restore_newest(workdir / 'checkpoints', where, choose)
        for checkpoint in [sys.modules['cls.run.checkpoint']]
        for choose in (checkpoint_files.best_or_newest, checkpoint_files.newest_step)
    ]
    assert [int(state.step) for state in states] == [15, 30]
    jax.tree.map(np.testing.assert_array_equal, variables, dict(states[0].ema))


def test_only_finite_and_better_values_are_the_best():
    def course(metric, values):
        standing, best = Standing(metric), []
        for step, value in enumerate(values):
            standing = standing.after(step, {metric: value})
            best.append((standing.step, standing.since))
        assert Standing.read(metric, json.loads(json.dumps(standing.record()))) == standing
        return best

    nan, inf = math.nan, math.inf
    assert course('validation/top1', [nan, 2.0, inf, 2.0, 3.0]) == [
        *((None, 1), (1, 0), (1, 1), (1, 2), (4, 0))
    ]
    assert course('validation_ema/loss', [inf, 2.0, -inf, 3.0, 1.0]) == [
        *((None, 1), (1, 0), (1, 1), (1, 2), (4, 0))
    ]
    assert Standing.read('validation/loss', Standing('validation/top1', 3).record()).step is None


def test_without_a_finite_value_patience_ends_too():
    selection = Selection(None, Standing('validation/top1'), 2)
    assert selection.observe(1, {'validation/top1': 1.0}, print) == ''  # nothing is chosen
    reasons, selection = [], Selection(Fake(), Standing('validation/top1'), 2)
    for step in (1, 2):
        reasons.append(selection.observe(step, {'validation/top1': math.nan}, print))
    assert reasons == [
        '',
        'no better validation/top1 in 2 evaluations (none had a finite value)',
    ]


class Fake:
    best = None


def test_the_best_checkpoint_stays_next_to_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, record={})
    for step in range(1, 7):
        checkpoints.save(step, {'step': np.int32(step)}, {}, {}, {'metric': '', 'since': step})
        if step in (1, 3):
            checkpoints.keep_best(step, {'step': step, 'metric': 'm', 'value': 0.5})
    checkpoints.wait()
    assert sorted(checkpoint_files.steps(tmp_path)) == [3, 5, 6]
    assert checkpoint_files.best_or_newest(tmp_path) == (3, '')
    assert checkpoint_files.record_of(tmp_path / '5')['standing'] == {'metric': '', 'since': 5}
    assert not checkpoint_files.damage(tmp_path / '5')
    (tmp_path / '3' / 'run.json').write_text('{}')
    assert checkpoint_files.best_or_newest(tmp_path) == (
        6,
        '3 is damaged (run.json has changed since it was written), the best one',
    )
    (tmp_path / 'best.json').write_text('{"step": "3"}')
    assert checkpoint_files.best_or_newest(tmp_path) == (6, '')
    checkpoints.best = None  # as in a run that goes on without a best one
    checkpoints.save(7, {'step': np.int32(7)}, {}, {})
    checkpoints.close()
    assert sorted(checkpoint_files.steps(tmp_path)) == [6, 7]
    assert not (tmp_path / 'best.json').exists()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'checkpoint.best': 'test/top1'}, 'the test split, which must not choose weights'),
        ({'eval.patience': '3'}, 'patience is 3, without a metric: expected config.checkpoint'),
        (
            {'checkpoint.best': 'validation_ema/top1', 'eval.validation': '0.1'},
            'expected one of validation/top1, validation/top5, validation/loss. Did you mean',
        ),
        (
            {'checkpoint.best': 'validation/map', 'eval.validation': '0.1'},
            'expected one of validation/top1, validation/top5, validation/loss.',
        ),
        (
            {'checkpoint.best': 'validation/loss', 'eval.validation': '0.1'},
            'nothing is evaluated before the end: expected config.eval.every',
        ),
    ],
)
def test_a_metric_that_cannot_choose_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('configs/resnet.py', tuple(fields.items())), jax.devices()[:1])


def test_the_average_of_weights_can_choose():
    setup = tiny.setup(*RUN, ('checkpoint.best', 'validation_ema/loss'))
    assert setup.run.best == 'validation_ema/loss'


@pytest.mark.sweep
def test_cls_load_and_cls_evaluate_take_the_best_weights(tmp_path):
    """A whole run of a small model, by its command's job."""
    fields = (
        *(('duration', '12 steps'), ('eval.every', '4 steps'), ('eval.validation', '0.5')),
        *(('checkpoint.best', 'validation/top1'), ('checkpoint.keep', '1'), ('batch', '16')),
        *(('model.stage_sizes', '(1, 1, 1)'), ('model.widths', '(4, 4, 4)')),
        *(('model.bn_group', '0'), ('schedule.warmup', '0 steps'), ('optim.lr', '0.02')),
    )
    config = configs.load('configs/resnet.py', fields)
    result = train.job(config, tmp_path / 'run')
    step = result['best']['step']
    again = evaluate.job(config, tmp_path / 'run', tmp_path / 'out')
    assert again['step'] == step
    assert again['test/top1'] == result['test/top1']
    model = cls.load(tmp_path / 'run')
    assert model.source.startswith(f'{tmp_path / "run"}, step {step}, the best by validation/top1')
    newest = cls.load(tmp_path / 'run', weights='newest')
    assert f'step {max(kept(tmp_path / "run"))}' in newest.source
