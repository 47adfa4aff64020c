"""The thread of a service: failures, what was logged before, and the end."""

import json
import logging
import threading

import numpy as np
import pytest

from cls.errors import UserError
from cls.run.loggers import opening, service
from cls.run.loggers import spec as specs
from cls.run.loggers.base import Logger
from cls.run.loggers.service import Service
from cls.run.loggers.spec import LogSpec


class Remembering(Logger):
    """Keeps its entries; the first `failures` attempts fail."""

    def __init__(self, failures=0, id='a1'):
        self.failures, self.id, self.entries, self.closed = failures, id, [], None

    def write(self, step, values):
        if self.failures:
            self.failures -= 1
            raise ConnectionError('no network\n(details)')
        self.entries.append((step, dict(values)))

    def histograms(self, step, histograms):
        self.entries.append((step, 'histograms'))

    def close(self, failed=False):
        self.closed = failed


def test_entries_come_in_order_and_the_end_is_known():
    logger = Remembering()
    logs = Service('wandb', logger, {})
    for step in range(1, 50):
        logs.write(step, {'loss': 1 / step})
    logs.histograms(7, {})
    logs.close(failed=True)
    assert [entry[0] for entry in logger.entries] == [*range(1, 50), 7]
    assert logger.closed is True
    assert logs.shows('histograms')
    assert not logs.shows('images')


def test_an_outage_is_one_warning_and_nothing_is_lost(monkeypatch, caplog):
    monkeypatch.setattr(service, 'AGAIN', 0.01)
    logger = Remembering(failures=5)
    logs = Service('mlflow', logger, {})
    for step in (1, 2, 3):
        logs.write(step, {'loss': 0.5})
    while len(logger.entries) < 3:
        threading.Event().wait(0.01)
    logs.close()
    assert [step for step, _ in logger.entries] == [1, 2, 3]
    (record,) = caplog.records
    assert record.getMessage() == (
        'config.log.to mlflow: ConnectionError: no network (details); trying again, and the '
        'training goes on.'
    )


def test_entries_that_cannot_be_sent_are_counted_at_the_end(monkeypatch, caplog):
    logger = Remembering(failures=10**9)
    logs = Service('mlflow', logger, {})
    for step in (1, 2, 3):
        logs.write(step, {'loss': 0.5})
    logs.close()
    assert logger.closed is False
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert '3 entries could not be sent' in caplog.records[1].getMessage()


def test_a_service_that_hangs_holds_up_neither_the_training_nor_its_end(monkeypatch, caplog):
    monkeypatch.setattr(service, 'PATIENCE', 0.05)
    monkeypatch.setattr(service, 'MOST', 5)
    release, logger = threading.Event(), Remembering()
    logger.write = lambda step, values: release.wait()
    logs = Service('wandb', logger, {})
    for step in range(20):
        logs.write(step, {'loss': 0.5})
    logs.close()
    assert '20 entries could not be sent' in caplog.records[0].getMessage()
    release.set()


def test_what_a_killed_process_logged_is_not_sent_again():
    kept = []
    logger = Remembering()
    logs = Service(
        'wandb', logger, {'train/loss': 38, 'test/top1': 16, 'histograms': 33}, kept.append
    )
    logs.write(32, {'test/top1': 50.0})  # it was killed before this evaluation
    logs.histograms(33, {})
    logs.write(38, {'train/loss': 0.5, 'test/loss': 2.0})
    logs.write(39, {'train/loss': 0.4})
    logs.histograms(41, {})
    logs.close()
    assert logger.entries == [
        (32, {'test/top1': 50.0}),
        (38, {'test/loss': 2.0}),
        (39, {'train/loss': 0.4}),
        (41, 'histograms'),
    ]
    assert [record['histograms'] for record in kept] == [41]


def test_the_epoch_of_an_evaluation_is_sent_once():
    logger = Remembering()
    logs = Service('mlflow', logger, {}, earlier=[{'step': 1, 'epoch': 0.5}, {'step': 2, 'x': 1.0}])
    logs.write(2, {'epoch': 1.0, 'train/loss': 0.5})
    logs.write(2, {'epoch': 1.0, 'test/top1': 50.0})
    logs.write(2, {'epoch': 1.0})
    logs.write(3, {'epoch': 1.5, 'train/loss': 0.5})
    logs.close()
    assert logger.entries == [
        (1, {'epoch': 0.5}),
        (2, {'x': 1.0}),
        (2, {'epoch': 1.0, 'train/loss': 0.5}),
        (2, {'test/top1': 50.0}),
        (3, {'epoch': 1.5, 'train/loss': 0.5}),
    ]


class Module:
    """The module of a service."""

    def __init__(self, error=None):
        self.error, self.opened = error, []

    def open_logger(self, place):
        if self.error:
            raise self.error
        self.opened.append(Remembering(id=place.id or f'new{len(self.opened)}'))
        return self.opened[-1]


@pytest.fixture
def module(monkeypatch):
    module = Module()
    monkeypatch.setattr(specs, 'module', lambda name: module)
    return module


def opened(tmp_path, steps=(), step=0):
    """Opens the service of a run with lines for `steps` that continues after `step`."""
    rows = [{'step': each, 'train/loss': each / 100} for each in steps]
    spec = LogSpec(('wandb',), 'p')
    (logs,) = opening.services(spec, tmp_path, step, {'seed': 0}, rows) or [None]
    return logs


def test_a_run_that_continues_has_its_id_and_all_that_was_logged(module, tmp_path):
    opened(tmp_path).close()
    opened(tmp_path, range(1, 39), step=32).close()
    again = opened(tmp_path, range(1, 36), step=32)  # killed earlier than the one before
    for step in (35, 38, 39):
        again.write(step, {'train/loss': 0.5})
    again.close()
    assert [logger.id for logger in module.opened] == ['new0'] * 3
    assert [step for step, _ in module.opened[-1].entries] == [39]
    assert json.loads((tmp_path / 'loggers.json').read_text()) == {
        'wandb': {'id': 'new0', 'logged': {'step': 38, 'train/loss': 38}}
    }


def test_a_logger_that_is_added_later_gets_the_lines_before(module, tmp_path):
    logs = opened(tmp_path, (30, 32, 34), step=32)
    logs.write(33, {'train/loss': 0.5})
    logs.close()
    assert [step for step, _ in module.opened[0].entries] == [30, 32, 33]


def test_a_service_that_lost_its_last_entries_gets_them_again(module, tmp_path, monkeypatch):
    opened(tmp_path).close()
    monkeypatch.setattr(Remembering, 'last_step', 30)
    logs = opened(tmp_path, (30, 31, 32, 33, 34), step=32)
    logs.write(33, {'train/loss': 0.5})
    logs.close()
    assert [step for step, _ in module.opened[-1].entries] == [31, 32, 33]


@pytest.mark.parametrize('content', ['', '[1]', '{"wandb": 3}', '{"wandb": {"id": "a"}}'])
def test_a_damaged_record_is_a_new_run(content, module, tmp_path, caplog):
    (tmp_path / 'loggers.json').write_text(content)
    opened(tmp_path).close()
    assert 'is damaged' in caplog.text
    assert json.loads((tmp_path / 'loggers.json').read_text())['wandb']['id'] == 'new0'


def test_a_new_run_that_cannot_be_opened_is_an_error_and_a_continued_one_a_warning(
    module, tmp_path, caplog
):
    module.error = RuntimeError('no API key\nconfigured.')
    with pytest.raises(UserError, match=r'^config.log.to wandb: no API key configured. Fix it, or'):
        opened(tmp_path)
    module.error = None
    opened(tmp_path).close()
    module.error = RuntimeError('no network')
    assert opened(tmp_path, step=5) is None
    assert 'wandb: no network; nothing more is logged there' in caplog.text


def test_numpy_values_are_taken(module, tmp_path):
    logs = opened(tmp_path)
    logs.write(1, {'loss': np.float32(0.5)})
    logs.close()
    assert module.opened[0].entries == [(1, {'loss': 0.5})]
