"""Runs whose length is a time end after it, over all restarts, and refuse what needs steps."""

import pytest
import tiny
from test_best import kept, run

from cls import train
from cls.config import durations
from cls.config import load as configs
from cls.errors import UserError
from cls.run.best import Selection
from cls.run.goodput import TimeLedger
from cls.setup import former_length, set_up
from cls.trainer import Trainer

TIME = (
    ('duration', '0.1 minutes'),  # 6 seconds
    ('schedule.name', 'constant'),
    ('schedule.warmup', '0 steps'),
    ('checkpoint.every', '3 steps'),
)


def trainer(setup, ledger):
    parts = dict.fromkeys(('checkpoints', 'metrics', 'progress', 'preemption', 'eval_step'))
    return Trainer(setup=setup, ledger=ledger, workdir=None, selection=Selection(), **parts)


def test_only_the_time_of_kept_steps_and_their_data_counts():
    setup = tiny.setup(*TIME)
    assert (setup.time_limit, setup.length) == (6, '0.1 minutes')
    assert setup.steps('2 epochs') == 180
    for at_checkpoint, over in ((4.9, False), (5.1, True)):
        ledger = TimeLedger()
        newest = {'step': 20.0, 'data': 1.0, 'eval': 50.0, 'compile': 100.0}
        ledger.continue_from(newest | {'step': at_checkpoint}, newest)  # the rest is rework
        loop = trainer(setup, ledger)
        assert loop._time_is_over(20) == over
        assert loop.stopped == ('0.1 minutes of training are over' if over else '')
        assert loop._seconds_left(20, 1.0) == pytest.approx(0.1 * (not over), abs=0.09)


def test_a_run_ends_at_a_log_event_and_is_finished(tmp_path):
    short = (*TIME, ('duration', '0.00001 minutes'), ('eval.patience', '0'))
    result, evaluations = run(tmp_path, *short)
    assert evaluations == ['evaluate 4', 'test 4']
    assert result['stopped'] == '0.00001 minutes of training are over'
    assert (result['step'], kept(tmp_path)) == (4, [4])
    assert run(tmp_path, *short)[1] == evaluations  # as after a kill before result.json


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'duration': '0 minutes'}, 'expected more than 0 minutes'),
        ({'checkpoint.every': '10 percent'}, "checkpoint.every is '10 percent': expected epochs,"),
        ({'progressive': "(('0 steps', 8), ('5 percent', 9))"}, "'5 percent'.: expected epochs,"),
        ({'schedule.per': 'epoch'}, "schedule.per is 'epoch', which lists them: expected 'step'"),
        ({'schedule.name': 'cosine'}, "name is 'cosine', which ends with the run: expected one of"),
    ],
)
def test_all_that_needs_the_number_of_steps_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        tiny.setup(*TIME, *fields.items())


def test_a_network_that_changes_over_the_run_is_refused():
    """AmoebaNet's drop path grows."""
    with pytest.raises(UserError, match='amoebanet.* changes over the run: expected epochs'):
        set_up(configs.load('configs/amoebanet.py', TIME))


def test_only_the_length_of_a_run_is_a_time():
    with pytest.raises(
        UserError, match="every is '5 minutes': expected a number and one of epochs"
    ):
        configs.load('configs/resnet.py', [('eval.every', '5 minutes')])
    with pytest.raises(UserError, match='is a time, and the number of steps is needed here'):
        durations.steps('1 minute', batch=1, examples=1)
    assert durations.minutes('1.5 minutes') == 1.5
    assert durations.minutes('30 epochs') is None


def test_a_new_length_is_said_without_a_schedule():
    setup = tiny.setup(*TIME)
    saved = configs.to_json(configs.load('configs/resnet.py', (*tiny.FIELDS,)))
    assert former_length(setup, saved) is None
    assert train.lengthened(setup, saved, 3) == (
        "config.duration was '8 steps' and is '0.1 minutes'"
    )
