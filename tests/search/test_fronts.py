"""Fronts of cost and score."""

import numpy as np
import pytest

from cls.search import fronts


@pytest.fixture(params=range(5))
def nets(request):
    """Costs and scores with ties."""
    rng = np.random.default_rng(request.param)
    return rng.integers(1, 9, 40) / 2, rng.integers(0, 9, 40) / 4


def test_a_front_has_the_points_that_no_other_dominates(nets):
    costs, scores = nets
    expected = {
        (c, s)
        for c, s in zip(*nets, strict=True)
        if not any((costs <= c) & (scores >= s) & ((costs < c) | (scores > s)))
    }
    found = fronts.front(costs, scores)
    assert {*map(tuple, found)} == expected
    assert len(found) == len(expected)


def test_the_best_within_a_cost(nets):
    costs, scores = nets
    limits = np.array([0.25, 0.5, 1.7, 3, 9])
    expected = [max(scores[costs <= limit], default=np.nan) for limit in limits]
    np.testing.assert_array_equal(fronts.within(fronts.front(*nets), limits), expected)


def test_the_area_is_the_integral_over_doublings(nets):
    front = fronts.front(*nets)
    low, high, floor = 0.75, 3.25, 0.3
    steps = 200_000
    doublings = np.log2(low) + (np.arange(steps) + 0.5) / steps * np.log2(high / low)
    heights = np.maximum(np.nan_to_num(fronts.within(front, 2**doublings), nan=0) - floor, 0)
    integral = heights.mean() * np.log2(high / low)
    assert fronts.area(front, low, high, floor) == pytest.approx(integral, abs=1e-3)
