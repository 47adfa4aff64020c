"""The account of a run's time, by closed forms: tests/test_run.py kills real runs."""

import json
import threading
import types

import jax
import pytest

from cls.config import load as configs
from cls.config.runs import run_config
from cls.run import goodput as ledger
from cls.run.goodput import (
    BUCKETS,
    TimeLedger,
    continued,
    goodput,
    load_record,
    running,
    total,
    written,
)
from cls.run.workdir import open_run
from cls.trainer import lazy_jit


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only by hand: `perf_counter` from 100, `time` 1,000 ahead of it."""
    now = types.SimpleNamespace(value=100.0, ahead=1000.0)
    fake = types.SimpleNamespace(perf_counter=lambda: now.value, time=lambda: now.value + now.ahead)
    monkeypatch.setattr(ledger, 'time', fake)
    return now


def spend(spent, clock, **seconds):
    for bucket, value in seconds.items():
        with spent.spend(bucket):
            clock.value += value


def nonzero(record):
    return {name: value for name, value in record.items() if value and name in BUCKETS}


def test_every_moment_has_one_bucket(clock):
    spent = TimeLedger(began=97.0)
    clock.value += 1
    spent.switch('other')
    with spent.spend('eval'):
        clock.value += 2
        with spent.spend('compile'):
            clock.value += 30
        clock.value += 0.5
    clock.value += 0.25
    with pytest.raises(KeyError), spent.spend('step'):
        clock.value += 4
        raise KeyError
    with spent.spend('data'):  # it counts while it lasts
        clock.value += 8
        found = spent.seconds
    assert nonzero(found) == {
        'start': 4, 'compile': 30, 'data': 8, 'step': 4, 'eval': 2.5, 'other': 0.25
    }  # fmt: skip
    assert total(found) == clock.value - 97
    assert goodput(found) == goodput(found, downtime=True) == 4 / 48.75


def test_a_first_process_has_nothing_before_it(clock):
    spent = TimeLedger()
    spent.continue_from({}, {})
    assert (spent.restarts, total(spent.seconds)) == (0, 0)
    assert goodput(spent.seconds) == 0


def test_killed_twice_after_the_same_checkpoint(clock):
    """Rework follows the checkpoint; downtime is from the last record to the next start."""
    first = TimeLedger()
    spend(first, clock, start=5, compile=20, step=10, data=1, eval=2, checkpoint=3)
    checkpoint = first.record()
    spend(first, clock, checkpoint=0.5, step=7, data=0.5, eval=1.5)
    newest = first.record()
    clock.value += 60  # unknown

    second = TimeLedger(began=clock.value - 2)
    second.continue_from(newest, newest)  # before the checkpoint is read
    assert nonzero(second.seconds) == {
        'start': 7, 'compile': 20, 'step': 17, 'data': 1.5, 'eval': 3.5, 'checkpoint': 3.5,
        'downtime': 58,
    }  # fmt: skip
    second.continue_from(checkpoint, newest)
    spend(second, clock, compile=4, step=3)
    assert nonzero(second.seconds) == {
        'start': 7, 'compile': 24, 'step': 13, 'data': 1, 'eval': 2, 'checkpoint': 3.5,
        'rework': 9, 'downtime': 58,
    }  # fmt: skip
    newest = second.record()
    clock.value += 30

    third = TimeLedger()
    third.continue_from(checkpoint, newest)
    spend(third, clock, start=1, compile=4, step=20)
    assert nonzero(third.seconds) == {
        'start': 8, 'compile': 28, 'step': 30, 'data': 1, 'eval': 2, 'checkpoint': 3.5,
        'rework': 12, 'downtime': 88,
    }  # fmt: skip
    assert third.restarts == 2
    assert total(third.seconds) == clock.value - 100  # the wall clock, from the first start
    report = third.report()
    assert report['time'] == {name: round(value, 2) for name, value in third.seconds.items()}
    assert report['seconds'] == running(third.seconds) == 84.5
    assert report['goodput'] == round(100 * 30 / 84.5, 2)
    assert report['goodput_with_downtime'] == round(100 * 30 / 172.5, 2)
    assert 'rework 12.0 s; restarts: 2, 88.0 s of downtime (goodput with that 17.4 %)' in str(third)


def test_stopped_after_saving_nothing_is_lost(clock):
    first = TimeLedger()
    spend(first, clock, start=1, step=10)
    checkpoint = first.record()
    spend(first, clock, checkpoint=2, other=1)
    found = continued(checkpoint, first.record(), clock.value + 1000 + 4)
    assert nonzero(found) == {'start': 1, 'step': 10, 'checkpoint': 2, 'other': 1, 'downtime': 4}
    assert found['restarts'] == 1


def test_killed_before_the_first_checkpoint_all_steps_are_lost(clock):
    first = TimeLedger()
    spend(first, clock, start=1, compile=30, step=10, data=1)
    found = continued({}, first.record(), clock.value + 1000)
    assert nonzero(found) == {'start': 1, 'compile': 30, 'rework': 11}


def test_a_clock_that_was_set_back_takes_no_time_away(clock):
    first = TimeLedger()
    spend(first, clock, step=10)
    newest = first.record()
    clock.ahead = 500.0
    clock.value += 20
    second = TimeLedger()
    second.continue_from(newest, newest)
    assert nonzero(second.seconds) == {'step': 10}


@pytest.mark.parametrize('newest', [{}, {'step': 3.0, 'at': 1050.0, 'restarts': 7}])
def test_a_checkpoint_that_is_newer_than_the_file_is_believed(newest):
    """A run folder that was copied without time.json, or with an old one."""
    checkpoint = {'step': 50.0, 'start': 2.0, 'rework': 1.0, 'at': 2000.0, 'restarts': 4}
    found = continued(checkpoint, newest, 2010.0)
    assert nonzero(found) == {'step': 50, 'start': 2, 'rework': 1, 'downtime': 10}
    assert found['restarts'] == 5


def test_an_account_without_a_date_has_no_time_down():
    assert nonzero(continued({'step': 5.0}, {}, 2000.0)) == {'step': 5}


def test_the_file_is_up_to_date_at_every_event_and_at_the_end(tmp_path, clock):
    spent, path = TimeLedger(), tmp_path / 'time.json'
    with written(spent, path):
        wait_until(lambda: path.exists())
        spend(spent, clock, step=5)
        spent.due.set()
        wait_until(lambda: load_record(path)['step'] == 5)
        spend(spent, clock, step=1)
    assert load_record(path) == spent.record()
    assert load_record(path)['at'] == 1106
    assert [file.name for file in tmp_path.iterdir()] == ['time.json']
    assert not [thread for thread in threading.enumerate() if thread.name == 'account']
    with written(spent, tmp_path / 'other.json', leader=False):
        pass
    assert not (tmp_path / 'other.json').exists()


def wait_until(true):
    for _ in range(1000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError('it never came')


def test_a_file_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog):
    with written(TimeLedger(), tmp_path / 'missing' / 'time.json'):
        pass
    assert 'cannot be written' in caplog.text


@pytest.mark.parametrize('text', ['', '[1]', '{"step": "long"}', '{"step": null}'])
def test_a_file_that_cannot_be_read_is_told(text, tmp_path, caplog):
    (tmp_path / 'time.json').write_text(text)
    assert load_record(tmp_path / 'time.json') == {}
    assert 'cannot be read' in caplog.text
    assert load_record(tmp_path / 'none.json') == {}


def test_a_run_that_replaces_one_that_never_began_has_its_own_account(tmp_path):
    one = configs.load('configs/resnet.py')
    other = configs.load('configs/resnet.py', [('seed', '1')])
    found = []
    for config in (one, one, other):
        with open_run(tmp_path, run_config(config)):
            known = (tmp_path / 'time.json').exists()
            (tmp_path / 'time.json').write_text(json.dumps({'compile': 60.0}))
        found.append(known)
    assert found == [False, True, False]


def test_compiling_an_evaluation_has_its_own_time():
    spent, calls = TimeLedger(), []

    @jax.jit
    def double(variables, batch):
        calls.append(1)  # when it is traced
        return 2 * variables + batch

    step = lazy_jit(lambda *x: double.lower(*x).compile(), spent)
    with spent.spend('eval'):
        assert step(3.0, 1.0) == 7
        compiling = spent.seconds['compile']
        assert step(4.0, 1.0) == 9
    assert compiling == spent.seconds['compile'] > 0
    assert len(calls) == 1
