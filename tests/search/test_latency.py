"""Measured latencies of models."""

import pytest

from cls.recipes.search import mnasnet
from cls.search import registry
from cls.search.evaluators import latency
from cls.search.searcher import Trial


def test_the_median_leaves_out_the_first_calls_and_is_in_milliseconds():
    durations = iter([9.0, 9.0, 9.0, 0.002, 0.5, 0.003])
    now = [0.0]

    def call():
        now[0] += next(durations)

    assert latency.median(call, 3, lambda: now[0]) == pytest.approx(3.0)


@pytest.mark.sweep
def test_a_trained_model_is_measured():
    config = mnasnet.get_config()
    config.proxy.duration = '2 steps'
    config.proxy.schedule.warmup = '0 steps'
    config.proxy.log_every = '1 steps'
    space = registry.create('space', config.search.space)
    fields = {'name': 'train_latency', 'quick': True, 'passes': 5}
    metrics = registry.create('evaluator', fields, space, config)(
        Trial(0, (0,) * len(space.counts))
    )
    assert 0 < metrics['latency'] < 1000
    assert {'accuracy', 'params', 'macs'} < metrics.keys()
