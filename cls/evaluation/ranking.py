"""Average precision of rankings, for images with several labels."""

import numpy as np


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the average precision of each class, (K,) float64 in 0..1; NaN without positives.

    It is the sum of the precisions at each image of the class, in the order of falling scores,
    divided by their number; images of equal scores enter together. That is scikit-learn's
    average_precision_score, without interpolation (PASCAL VOC 2007 has another one).

    Args:
      scores: (N, K), any order-preserving scores.
      labels: (N, K), 1 for each class of an image, else 0.
    """
    result = np.full(scores.shape[1], np.nan)
    for k, (score, label) in enumerate(zip(scores.T, labels.T, strict=True)):
        order = np.argsort(-score, kind='stable')
        hits, positives = np.cumsum(label[order], dtype=np.int64), int(label.sum())
        if not positives:
            continue
        falling = score[order]
        # The last ones of equal scores.
        last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(score) - 1)
        gained = np.diff(hits[last], prepend=0)
        result[k] = (gained * hits[last] / (last + 1)).sum() / positives
    return result


def mean_average_precision(precisions: np.ndarray) -> float:
    """Returns the mean over the classes with positives in percent; NaN if there are none."""
    known = precisions[~np.isnan(precisions)]
    return 100 * float(known.mean()) if len(known) else float('nan')
