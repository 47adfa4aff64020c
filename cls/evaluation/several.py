"""Metrics of images with several labels, from the predictions of any protocol.

The scores of all images are kept: a class is ranked over all of them. A score is the log-odds of
the mean probability, log(p / (1 - p)); for a single view it is the logit.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from cls.evaluation.average import sigmoids
from cls.evaluation.measure import gathered
from cls.evaluation.metrics import Predictions
from cls.evaluation.ranking import average_precisions, mean_average_precision
from cls.steps.multi_label import topk_hits


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The scores and labels of all images of a source, in its order.

    Attributes:
      scores: (N, K) float32, log-odds.
      labels: (N, K) uint8, 1 for each class of an image.
      losses: (N,) float64, the mean binary cross-entropy of the classes of an image, in nats.
    """

    scores: np.ndarray
    labels: np.ndarray
    losses: np.ndarray

    def values(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Returns top1, top5, map (percent), loss (nats), images, and average_precision by class.

        An image counts for top1 and top5 if any of its classes is among the most probable ones. The
        average precision is None for a class without images. Classes without names are numbered.
        """
        each = average_precisions(self.scores, self.labels)
        scores, labels = jnp.asarray(self.scores), jnp.asarray(self.labels)
        hits = {f'top{k}': np.asarray(topk_hits(scores, labels, k)) for k in (1, 5)}
        return {
            **{name: 100 * float(values.mean()) for name, values in hits.items()},
            'loss': float(self.losses.mean()),
            'map': mean_average_precision(each),
            'images': len(self.scores),
            'average_precision': {
                names[k] if names else str(k): None if np.isnan(value) else 100 * float(value)
                for k, value in enumerate(each)
            },
        }

    def probabilities(self, row: int) -> np.ndarray:
        """Returns the (K,) float64 probabilities of an image, each of its own."""
        return sigmoids(self.scores[row : row + 1])[0, : self.scores.shape[1]]


def rank(parts: Iterable[Predictions], images: int) -> Ranking:
    """Returns the scores and labels of all images, on every process.

    Args:
      parts: the predictions for this process's share of the images, as many parts on each process;
        their probabilities are those of `average.sigmoids`.
      images: the number of images of the source.
    """
    rows = np.concatenate([gathered(_records(part)) for part in parts])
    if len(rows) != images:
        raise AssertionError(f'{len(rows)} of {images} images were evaluated')
    rows = rows[np.argsort(rows['index'])]
    return Ranking(rows['scores'], rows['labels'], rows['loss'])


def _records(part: Predictions) -> np.ndarray:
    """Returns a record for each image: index, scores, labels and loss."""
    present, absent = np.split(part.probabilities, 2, axis=1)
    classes = present.shape[1]
    fields = [
        ('index', np.int32),
        ('scores', np.float32, (classes,)),
        ('labels', np.uint8, (classes,)),
        ('loss', np.float64),
    ]
    records = np.zeros(len(present), fields)
    records['index'], records['labels'] = part.index, part.labels
    with np.errstate(divide='ignore', invalid='ignore'):  # a probability of 0, or a NaN
        logs = np.log(present), np.log(absent)
        records['scores'] = logs[0] - logs[1]
        records['loss'] = -np.where(part.labels > 0, *logs).mean(1)
    return records
