"""The training loop: the same run with data from the host and with data on the devices."""

import functools
import os
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

from cls import feed, programs, train
from cls.distributed.preemption import Preemption
from cls.errors import UserError
from cls.run.checkpoint import Checkpoints
from cls.run.goodput import TimeLedger
from cls.run.interval import Interval
from cls.run.telemetry import Metrics, Progress
from cls.setup import abstract_state
from cls.steps import sharding as meshes
from cls.tools.tpu import hlo
from cls.trainer import Trainer

ROOT = Path(__file__).parents[1]
# Two sizes of images; events at different steps; two epochs end, of 90.1 steps; all kinds of state.
RUN = (
    ('duration', '200 steps'),
    ('log_every', '10 steps'),
    ('checkpoint.every', '35 steps'),
    ('eval.every', '50 steps'),
    ('progressive', "(('0 steps', 8), ('63 steps', 12))"),
    ('data.train_crop', 'pad'),
    ('data.pad', '2'),
    ('data.flip', 'true'),
    ('ema', '0.9'),
    ('optim.name', 'rmsprop'),
    ('optim.lr', '0.003'),
)


@pytest.fixture(scope='module', autouse=True)
def several_steps():
    """Calls of several steps, as on accelerators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, 'ONE_BY_ONE', ())
        yield


@functools.cache
def compiled(devices, held, *more):
    """Returns a setup, the shapes of a state, and the compiled steps."""
    setup = tiny.setup(*RUN, *more, devices=devices)
    shapes, optimizer = setup.new_state_shapes()
    where = abstract_state(shapes, setup.mesh)
    iterator = train.batches(setup) if held else train.train_batches(setup)
    steps = programs.compile_train_steps(
        setup, optimizer, where, 0, iterator, compiler_options=FAST
    )
    return setup, where, steps


class Stop(Preemption):
    """A signal that comes before the loop asks for the `calls`-th time."""

    def __init__(self, calls):
        super().__init__()
        self._left = calls

    def due(self):
        self._left -= 1
        return self._left < 0


def run(workdir, held=True, stop=10**9, broken_at=None, killed_at=None):
    """Trains in a folder, from its newest checkpoint; returns the counts of the calls."""
    setup, where, steps = compiled(1, held)
    iterator = train.batches(setup) if held else train.train_batches(setup)
    checkpoints = Checkpoints(workdir / 'checkpoints', keep=9)
    restored, interval = checkpoints.restore(where), Interval()
    if restored:
        state, interval = restored[0], Interval(restored[2]['interval'])
        iterator.set_state(restored[1])
    else:
        state = meshes.put(setup.new_state()[0], jax.tree.map(lambda x: x.sharding, where))
    calls = []

    def counted(step):
        def call(state, batch):
            before = int(state.step)
            if killed_at and before >= killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            state, metrics = step(state, batch)
            calls.append(int(state.step) - before)
            if broken_at and before < broken_at <= before + calls[-1]:
                loss = metrics['loss'].at[broken_at - before - 1].set(np.nan)
                metrics = metrics | {'loss': loss}
            return state, metrics

        return call

    ledger = TimeLedger()
    with Stop(stop) as preemption:
        trainer = Trainer(
            setup=setup,
            ledger=ledger,
            checkpoints=checkpoints,
            metrics=Metrics(workdir, int(state.step)),
            progress=Progress(int(state.step), setup.total_steps, show=False),
            preemption=preemption,
            eval_step=setup.eval_step(),
            workdir=workdir,
            interval=interval,
        )
        trainer.run({phase: counted(step) for phase, step in steps.items()}, state, iterator)
    return calls


def arrays(workdir):
    """Returns the state of the newest checkpoint and its data position."""
    _, where, _ = compiled(1, True)
    state, data, _ = Checkpoints(workdir / 'checkpoints', keep=9).restore(where)
    return jax.tree.leaves(state), data


def assert_same(one, other):
    assert logged(one) == logged(other)
    (ours, data), (theirs, position) = arrays(one), arrays(other)
    assert data == position == {'step': 200}
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run with data on the device, and the counts of its calls."""
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, run(workdir)


def test_several_steps_in_a_call_end_at_each_event(whole):
    workdir, calls = whole
    ends = set(np.cumsum(calls).tolist())
    events = {*range(10, 201, 10), *range(35, 201, 35), *range(50, 201, 50), 63, 200}
    assert events <= ends
    assert max(calls) == 10
    lines = logged(workdir)
    assert [x['step'] for x in lines if 'train/loss' in x] == [*range(10, 201, 10)]
    assert [x['step'] for x in lines if 'test/top1' in x] == [50, 100, 150, 200]
    assert sorted(int(x.name) for x in (workdir / 'checkpoints').iterdir()) == [
        *range(35, 200, 35),
        200,
    ]


def test_a_run_with_data_of_the_host_is_the_same_to_the_bit(whole, tmp_path):
    assert set(run(tmp_path, held=False)) == {1}
    assert_same(whole[0], tmp_path)


def test_a_run_can_change_between_host_and_device(whole, tmp_path):
    """It stops twice, not at an event of the loop, and continues in the other way."""
    run(tmp_path, held=False, stop=47)
    assert arrays(tmp_path)[1] == {'step': 47}
    run(tmp_path, stop=80)  # an evaluation asks too, once for each batch
    step = arrays(tmp_path)[1]['step']
    assert 55 < step < 200
    run(tmp_path, held=False)
    assert_same(whole[0], tmp_path)


def test_a_run_that_is_killed_between_its_events_continues_to_the_bit(whole, tmp_path):
    script = (
        'import sys, pathlib; sys.path.append("tests"); import test_trainer as t; '
        't.feed.ONE_BY_ONE = (); '
        't.run(pathlib.Path(sys.argv[1]), killed_at=84)'
    )
    process = subprocess.run([sys.executable, '-c', script, tmp_path], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    assert logged(tmp_path)[-1]['step'] in (70, 80)
    assert max(int(x.name) for x in (tmp_path / 'checkpoints').glob('[0-9]*')) < 84
    run(tmp_path)
    assert_same(whole[0], tmp_path)


def test_a_loss_that_is_not_finite_is_reported_at_its_step(tmp_path):
    with pytest.raises(UserError, match='^loss not finite at step 44; .*/35. Lower'):
        run(tmp_path, broken_at=44)
    assert logged(tmp_path)[-1]['step'] == 40
    assert max(int(x.name) for x in (tmp_path / 'checkpoints').iterdir()) == 35


def test_few_metrics_wait_on_the_devices_and_the_logs_are_the_same(whole, tmp_path, monkeypatch):
    """Up to ten calls come between two events; four may wait to be fetched while one runs."""
    waiting = []
    fetch = Trainer._fetch

    def spy(self, pending, upto):
        waiting.append(len(pending))
        return fetch(self, pending, upto)

    monkeypatch.setattr(Trainer, '_fetch', spy)
    run(tmp_path / 'many', held=False)
    assert max(waiting) > 5
    waiting.clear()
    monkeypatch.setattr('cls.trainer.MOST_PENDING', 4)
    run(tmp_path / 'few', held=False)
    assert max(waiting) == 5
    assert_same(whole[0], tmp_path / 'few')


def test_on_many_devices_the_data_are_on_each_and_nothing_more_is_sent():
    """Batch and crop need no communication; images of a shard of the batch are on its device."""
    sent = []
    for held in (False, True):
        _, _, steps = compiled(8, held, ('mesh.fsdp', '2'), ('progressive', '()'))
        (program,) = (step.as_text() for step in steps.values())
        sent.append(sorted((x.kind, x.bytes, x.group) for x in hlo.collectives(program)))
    assert sent[0] == sent[1] != []


def test_the_number_of_steps_follows_the_time_of_a_step():
    now = 0.0
    pace, step = feed.Pace(64, lambda: now), 0
    seen = []
    for seconds in [5.0] + 30 * [0.01] + 70 * [0.1]:
        step += pace.steps
        now += seconds * pace.steps
        pace.completed(step)
        seen.append(pace.steps)
    assert seen[0] == 1  # the first call is not measured: it may load a program
    assert set(seen[1:31]) == {25}  # 0.25 s
    assert seen[-1] == 2
    slow = feed.Pace(64, lambda: now)
    for step in range(1, 9):
        now += 3.0
        slow.completed(step)
        assert slow.steps == 1
