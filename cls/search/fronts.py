"""Trade-off fronts: of the nets that cost no more, the best."""

import numpy as np


def front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns (n, 2) costs and scores, both rising: of all (N,) the nets that none makes needless.

    That is, than which no other is as cheap and as good, and better in one of the two. Of equal
    ones one counts.
    """
    order = np.lexsort((-scores, costs))
    costs, scores = costs[order], scores[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
    return np.stack([costs, scores], 1)[scores > before]


def within(front: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the best score at no more than each of (L,) costs; NaN where nothing is so cheap."""
    place = np.searchsorted(front[:, 0], limits, 'right')
    return np.concatenate([[np.nan], front[:, 1]])[place]


def area(front: np.ndarray, low: float, high: float, floor: float) -> float:
    """Returns the area under a front: scores over a floor, by doublings of the cost.

    Args:
      front: as `front` returns it.
      low: the cost where it begins.
      high: the cost where it ends.
      floor: the score that counts nothing, as does a cost at which there is no net.
    """
    costs = np.clip(front[:, 0], low, high)
    doublings = np.diff(np.log2(np.append(costs, high)))
    return float((np.maximum(front[:, 1] - floor, 0) * doublings).sum())
