"""Metrics of probabilities and labels, in float64 NumPy; cls.steps.losses has those of a step."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.storage import paths

BINS = 15


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for images, in the order of their source."""

    probabilities: np.ndarray  # (N, K) float64, rows sum to 1
    labels: np.ndarray  # (N,) int32


def topk_correct(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Returns (N,) bool: whether fewer than k other classes reach the label's probability.

    Ties count against the label, as in cls.steps.losses.topk_correct; a row with a NaN is wrong.
    """
    own = probabilities[np.arange(len(labels)), labels]
    reached = (probabilities >= own[:, None]).sum(1)  # the label itself is one
    return (reached <= k) & ~np.isnan(probabilities).any(1)


def loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean negative logarithm of the labels' probabilities, in nats."""
    with np.errstate(divide='ignore'):  # a probability of 0 is a loss of infinity
        return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns (K, K) int64, the number of images of class [row] with the prediction [column].

    The prediction is the class of the largest probability, the first of equal ones.
    """
    classes = probabilities.shape[1]
    pairs = labels.astype(np.int64) * classes + probabilities.argmax(1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Returns the expected calibration error in percent (Guo et al. 2017, 1706.04599, section 3).

    The largest probabilities are sorted into bins of equal width, ((m - 1) / bins, m / bins]; the
    error is the mean of |accuracy - mean probability|, weighted by the images in each bin.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, correct - confidence, minlength=bins)
    return 100 * float(np.abs(gaps).sum() / len(labels))


def scalars(predictions: Predictions) -> dict[str, float | int]:
    """Returns top1, top5, ece (percent), loss (nats) and images."""
    pair = predictions.probabilities, predictions.labels
    return {
        'top1': 100 * float(topk_correct(*pair, 1).mean()),
        'top5': 100 * float(topk_correct(*pair, 5).mean()),
        'loss': loss(*pair),
        'ece': calibration_error(*pair),
        'images': len(predictions.labels),
    }


def per_class(predictions: Predictions, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns for each class {'class': name or number, 'images', 'top1': percent}.

    Classes without images are left out.
    """
    correct = topk_correct(predictions.probabilities, predictions.labels, 1)
    classes = predictions.probabilities.shape[1]
    images = np.bincount(predictions.labels, minlength=classes)
    hits = np.bincount(predictions.labels, correct, minlength=classes)
    return [
        {
            'class': names[i] if i < len(names) else i,
            'images': int(images[i]),
            'top1': 100 * hits[i] / images[i],
        }
        for i in np.flatnonzero(images).tolist()
    ]


def write_predictions(
    path: Path, predictions: Predictions, names: Sequence[str] = (), files: Sequence[str] = ()
) -> None:
    """Writes a CSV file atomically: file or index, label and top five classes of each image.

    Args:
      path: the CSV file.
      predictions: the predictions to write.
      names: names of the classes; (): classes are written as numbers.
      files: files of the images; (): images are written as numbers.
    """
    count = min(5, predictions.probabilities.shape[1])

    def name(label: int) -> str | int:
        return names[label] if label < len(names) else int(label)

    file = io.StringIO()
    writer = csv.writer(file)
    columns = [f'{kind}{i}' for i in range(1, count + 1) for kind in ('class', 'probability')]
    writer.writerow(['image', 'label', *columns])
    pairs = zip(predictions.labels, predictions.probabilities, strict=True)
    for i, (label, probabilities) in enumerate(pairs):
        row = [files[i] if files else i, name(label)]
        for guess in np.argsort(-probabilities, kind='stable')[:count]:
            row += [name(guess), f'{probabilities[guess]:.6g}']
        writer.writerow(row)
    # File names need not be UTF-8: their bytes are written unchanged.
    paths.write_whole(path, file.getvalue().encode(errors='surrogateescape'))


def write_confusion(path: Path, matrix: np.ndarray) -> None:
    """Writes a confusion matrix as a .npy file, atomically."""
    file = io.BytesIO()
    np.save(file, matrix)
    paths.write_whole(path, file.getvalue())
