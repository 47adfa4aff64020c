"""Means over the steps between two log events."""

import json

import numpy as np

from cls.run.interval import Interval

LOSS = np.random.default_rng(0).normal(size=100).astype(np.float32)


def added(sizes, interval=None):
    """Returns an interval to which the losses were added in parts of these sizes."""
    interval = interval or Interval()
    for part in np.split(LOSS[: sum(sizes)], np.cumsum(sizes)[:-1]):
        interval.add({'loss': part})
    return interval


def test_the_mean_is_of_all_steps_and_the_next_interval_starts_without_them():
    interval = added([60, 40])
    steps, means = interval.take()
    assert steps == 100
    np.testing.assert_allclose(means['loss'], LOSS.astype(np.float64).mean(), rtol=1e-12)
    interval.add({'loss': np.float32([3, 5])})
    assert interval.take() == (2, {'loss': 4.0})


def test_the_sums_do_not_depend_on_the_steps_in_a_call():
    """NumPy's own sum does: it adds pairs."""
    assert {added(s).take()[1]['loss'] for s in ([100], [1] * 100, [3, 64, 33])} == {
        added([50, 50]).take()[1]['loss']
    }


def test_an_interval_continues_from_its_record_to_the_bit():
    record = json.loads(json.dumps(added([37]).record()))
    continued = Interval(record)
    continued.add({'loss': LOSS[37:]})
    assert continued.take() == added([100]).take()
    assert Interval(None).record() == {'steps': 0, 'sums': {}}
