"""Scores on ImageNet's other test sets: pure functions of logits, and of errors.

A `cls.data.sources.Source` says how it is to be scored: `subset`, the classes that compete, and
`label_sets`, of each example the classes that are right.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
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


def competing(logits: jax.Array, subset: Sequence[int]) -> jax.Array:
    """Returns (N, K) float32 logits with -inf for all classes but those of a subset; (): all."""
    logits = logits.astype(jnp.float32)
    if not subset:
        return logits
    kept = np.zeros(logits.shape[-1], bool)
    kept[list(subset)] = True
    return jnp.where(kept, logits, -jnp.inf)


def targets(label_sets: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """Returns (N, num_classes) bool: which classes are right for each example."""
    right = np.zeros((len(label_sets), num_classes), bool)
    for row, labels in zip(right, label_sets, strict=True):
        row[list(labels)] = True
    return right


def any_correct(logits: jax.Array, right: jax.Array, k: int) -> jax.Array:
    """Returns whether one of an example's right classes is among the k largest logits, (N,) bool.

    With one right class it is `losses.topk_correct`, as pessimistic where logits are equal: a right
    class counts only if fewer than k wrong ones reach its logit. For k = 1 it is the ReaL accuracy
    (Beyer et al. 2020, section 3.2), which leaves out examples without a right class; here they are
    wrong.

    Args:
      logits: (N, K), any floating-point type.
      right: (N, K) bool.
      k: at least 1.
    """
    logits = logits.astype(jnp.float32)
    own = jnp.max(jnp.where(right, logits, -jnp.inf), axis=-1, keepdims=True)
    rivals = jnp.sum((logits >= own) & ~right, axis=-1)
    # A net that has no finite logit for what is right has not told it.
    decided = jnp.isfinite(own[:, 0]) & ~jnp.isnan(logits).any(axis=-1)
    return decided & (rivals < k)


def corruption_errors(errors: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Returns CE in percent of each corruption all of whose severities are there.

    CE is the sum of a net's errors over the severities, divided by the sum of AlexNet's (Hendrycks
    and Dietterich 2019, section 4).

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
    found = corruption_errors(errors)
    return float(np.mean(list(found.values()))) if len(found) == len(ALEXNET_ERRORS) else None
