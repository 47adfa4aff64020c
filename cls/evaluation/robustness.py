"""Scores on ImageNet's other test sets: pure functions of probabilities, and of errors.

A `cls.data.sources.Source` defines its own scoring: `subset`, the classes that compete, and
`label_sets`, the correct classes of each example. `scored` changes predictions so that the usual
accuracy, loss and so on are those of the test set.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
# The 15 corruptions of ImageNet-C and AlexNet's top-1 error on each, the mean over its severities:
# Hendrycks and Dietterich 2019 (arXiv 1903.12261), the figures of github.com/hendrycks/robustness.
ALEXNET_ERRORS = {
    'gaussian_noise': 0.886428,
    'shot_noise': 0.894468,
    'impulse_noise': 0.922640,
    'defocus_blur': 0.819880,
    'glass_blur': 0.826268,
    'motion_blur': 0.785948,
    'zoom_blur': 0.798360,
    'snow': 0.866816,
    'frost': 0.826572,
    'fog': 0.819324,
    'brightness': 0.564592,
    'contrast': 0.853204,
    'elastic_transform': 0.646056,
    'pixelate': 0.717840,
    'jpeg_compression': 0.606500,
}


def scored(
    probabilities: np.ndarray,
    labels: np.ndarray,
    subset: Sequence[int] = (),
    label_sets: Sequence[Sequence[int]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (probabilities, labels) for the metrics of a test set.

    Args:
      probabilities: (N, K) float64, of all classes.
      labels: (N,) int32.
      subset: `Source.subset`.
      label_sets: `Source.label_sets`.
    """
    probabilities = restricted(probabilities, subset)
    return probabilities, resolved(probabilities, labels, label_sets)


def restricted(probabilities: np.ndarray, subset: Sequence[int]) -> np.ndarray:
    """Returns (N, K) probabilities given that the class is one of a subset; (): unchanged.

    It is the softmax of the logits of the subset only, as in the code of ImageNet-A and -R.
    """
    if not subset:
        return probabilities
    kept = np.zeros_like(probabilities)
    kept[:, list(subset)] = probabilities[:, list(subset)]
    with np.errstate(invalid='ignore'):  # NaN where all of them are 0: no answer is correct
        return kept / kept.sum(1, keepdims=True)


def resolved(
    probabilities: np.ndarray, labels: np.ndarray, label_sets: Sequence[Sequence[int]]
) -> np.ndarray:
    """Returns (N,) int32, the most probable of each example's correct classes; (): the labels.

    A prediction then equals the label if, and only if, it is among the correct classes: top-1 is
    the ReaL accuracy (Beyer et al. 2020, section 3.2).
    """
    if not label_sets:
        return labels
    pairs = zip(probabilities, label_sets, strict=True)
    return np.array([own[int(row[list(own)].argmax())] for row, own in pairs], np.int32)


def corruption_errors(errors: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Returns CE in percent of each corruption with errors at all severities.

    CE is the sum of a network's errors over the severities, divided by the sum of AlexNet's
    (Hendrycks and Dietterich 2019, section 4).

    Args:
      errors: (corruption, severity) -> top-1 error in [0, 1].
    """
    return {
        name: 100 * float(np.mean([errors[name, severity] for severity in SEVERITIES])) / alexnet
        for name, alexnet in ALEXNET_ERRORS.items()
        if all((name, severity) in errors for severity in SEVERITIES)
    }


def mean_corruption_error(errors: Mapping[tuple[str, int], float]) -> float | None:
    """Returns mCE in percent, the mean CE of the 15 corruptions; None unless all 75 are there."""
    ces = corruption_errors(errors)
    return float(np.mean(list(ces.values()))) if len(ces) == len(ALEXNET_ERRORS) else None
