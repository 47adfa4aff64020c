"""Pareto fronts of score and cost."""

import numpy as np


def front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the Pareto front of (N,) costs and scores: (n, 2), both rising.

    A network is on it if no other is as cheap and as good, and better in one of the two. Equal ones
    count once.
    """
    order = np.lexsort((-scores, costs))
    costs, scores = costs[order], scores[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
    return np.stack([costs, scores], 1)[scores > before]


def within(front: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the best score up to each of (L,) costs; NaN below the cheapest network."""
    index = np.searchsorted(front[:, 0], limits, 'right')
    return np.concatenate([[np.nan], front[:, 1]])[index]


def area(front: np.ndarray, low: float, high: float, floor: float) -> float:
    """Returns the area under a front: scores over a floor, by doublings of the cost.

    Args:
      front: as `front` returns it.
      low: the cost where the area begins.
      high: the cost where it ends.
      floor: the score whose area is 0, as it is below the cheapest network.
    """
    costs = np.clip(front[:, 0], low, high)
    doublings = np.diff(np.log2(np.append(costs, high)))
    return float((np.maximum(front[:, 1] - floor, 0) * doublings).sum())
