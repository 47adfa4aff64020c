"""Metrics of probabilities and labels, in float64 NumPy; cls.steps.losses has those of a step.

An evaluation keeps no probabilities. `outcomes` has a few numbers for each image, and a `Tally`
adds them up: integers, and sums that do not depend on the order of the images. Its memory grows
with the classes and with the pairs of class and prediction that occur, at most one for each image.

Of a class, with the images of the class that are predicted as it (hits): precision is hits of its
predictions, recall is hits of its images, and F1 is their harmonic mean, 2 hits / (predictions +
images). The prediction is the class of the largest probability, the first of equal ones. As in
scikit-learn, precision is 0 for a class that is never predicted, and means over classes (macro
averages) weight all classes equally. They are over the classes with images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cls.data.classes import has_words, words
from cls.errors import UserError
from cls.evaluation.auroc import ScoreCounts

BINS = 15
MISTAKES = 24  # the most confident wrong predictions that are kept
LISTED = 5  # classes of each image in a file of predictions
# The outcome of an image: index in the source, label, prediction, classes that reach the label's
# probability, this probability, the largest one, and the most probable classes.
OUTCOME = np.dtype(
    [
        ('index', np.int32),
        ('label', np.int32),
        ('guess', np.int32),
        ('reached', np.int32),
        ('own', np.float64),
        ('confidence', np.float64),
        ('classes', np.int32, LISTED),
        ('probabilities', np.float64, LISTED),
    ]
)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier for some images.

    For images with several labels, `probabilities` are (n, 2 K), see `average.sigmoids`, and
    `labels` (n, K) uint8. cls.evaluation.several has their metrics.
    """

    probabilities: np.ndarray  # (n, K) float64, rows sum to 1
    labels: np.ndarray  # (n,) int32
    index: np.ndarray  # (n,) int32, the images in their source


def outcomes(predictions: Predictions, listed: bool = False) -> np.ndarray:
    """Returns the (n,) OUTCOMEs of images.

    `reached` is the number of classes with at least the label's probability, itself included: ties
    count against the label, as in cls.steps.losses.topk_correct. It exceeds the number of classes
    if any probability is NaN, or the label is not one of the classes.

    Args:
      predictions: the predictions of n images.
      listed: whether to list the most probable classes.
    """
    probabilities, labels = predictions.probabilities, predictions.labels
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    found = np.zeros(len(labels), OUTCOME)
    found['index'], found['label'] = predictions.index, labels
    found['guess'] = probabilities.argmax(1)  # the first of equal ones
    found['confidence'] = probabilities.max(1)
    found['own'] = probabilities[rows, np.clip(labels, 0, classes - 1)]
    found['reached'] = (probabilities >= found['own'][:, None]).sum(1)
    wrong = np.isnan(probabilities).any(1) | (labels < 0) | (labels >= classes)
    found['reached'][wrong] = classes + 1
    if listed and len(labels):
        count = min(LISTED, classes)
        found['classes'][:, :count] = [most_probable(row, count) for row in probabilities]
        best = np.take_along_axis(probabilities, found['classes'][:, :count], 1)
        found['probabilities'][:, :count] = best
    return found


def most_probable(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` classes of the largest (K,) probabilities, the first of equal ones first.

    They are those of a stable sort, NaN last, without sorting all classes.
    """
    descending = -probabilities
    last = np.partition(descending, count - 1)[count - 1]  # NaN is larger than any number
    if np.isnan(last):
        return np.argsort(descending, kind='stable')[:count]
    able = np.flatnonzero(descending <= last)
    return able[np.argsort(descending[able], kind='stable')[:count]]


class ExactSum:
    """The sum of float64 numbers, rounded once: their order makes no difference."""

    _UNIT = 1074  # every float64 is a multiple of 2**-1074

    def __init__(self) -> None:
        """Starts at 0."""
        self._units, self._special = 0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Adds (n,) numbers."""
        finite = np.isfinite(values)
        self._special += float(values[~finite].sum())
        for value in values[finite].tolist():
            numerator, denominator = value.as_integer_ratio()
            self._units += numerator << (self._UNIT + 1 - denominator.bit_length())

    def __float__(self) -> float:
        return self._special or self._units / 2**self._UNIT


class PairCounts:
    """The number of images for each pair of classes that occurs."""

    BUFFER = 2**16  # pairs that are not counted yet

    def __init__(self) -> None:
        """Starts without images."""
        self._pairs, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._new: list[np.ndarray] = []
        self._waiting = 0

    def add(self, pairs: np.ndarray) -> None:
        """Adds (n,) int64, a number for each pair."""
        self._new.append(pairs)
        self._waiting += len(pairs)
        if self._waiting >= max(self.BUFFER, len(self._pairs)):  # so each is moved a few times
            self._count()

    def counted(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the different pairs, ascending, and their numbers of images."""
        self._count()
        return self._pairs, self._counts

    def _count(self) -> None:
        if self._new:
            pairs, counts = np.unique(np.concatenate(self._new), return_counts=True)
            self._new, self._waiting = [], 0
            before = self._counts
            both = np.concatenate([self._pairs, pairs])
            self._pairs, where = np.unique(both, return_inverse=True)
            self._counts = np.zeros(len(self._pairs), np.int64)
            np.add.at(self._counts, where, np.concatenate([before, counts]))


class Tally:
    """The metrics of the images that were added.

    Attributes:
      classes: the number of classes.
      names: names of the classes; (): they are numbered.
      scores: the counts for AUROC. They are added separately; without them there is no AUROC.
    """

    def __init__(self, classes: int, names: Sequence[str] = ()) -> None:
        """Starts without images."""
        self.classes, self.names, self.scores = classes, names, ScoreCounts(classes)
        self._images, self._hits = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self._top5 = 0
        self._loss = ExactSum()
        self._gaps = [ExactSum() for _ in range(BINS)]
        self._in_bins, self._hits_of_bins = np.zeros((2, BINS), np.int64)
        self._pairs = PairCounts()
        self._mistakes = np.zeros(0, OUTCOME)

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self._images.sum())

    def add(self, outcomes: np.ndarray) -> None:
        """Adds (n,) OUTCOMEs. Raises UserError for a label that is not one of the classes."""
        labels = outcomes['label']
        wrong = outcomes[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            first = wrong[wrong['index'].argmin()]
            raise UserError(
                f'Example {first["index"]} has the label {first["label"]}: expected 0 to '
                f'{self.classes - 1}. Check config.data.num_classes, and that the split has labels.'
            )
        correct = outcomes['reached'] <= 1
        np.add.at(self._images, labels, 1)
        np.add.at(self._hits, labels[correct], 1)
        self._top5 += int((outcomes['reached'] <= min(5, self.classes)).sum())
        with np.errstate(divide='ignore'):  # a probability of 0 is a loss of infinity
            self._loss.add(-np.log(outcomes['own']))
        confidence, guess = outcomes['confidence'], outcomes['guess']
        known = ~np.isnan(confidence)
        right = known & (guess == labels)
        gaps = right - confidence
        # Not a number is in the first bin.
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS).astype(int) - 1, 0, BINS - 1)
        for number in np.unique(bins).tolist():
            self._gaps[number].add(gaps[bins == number])
        np.add.at(self._in_bins, bins, 1)
        np.add.at(self._hits_of_bins, bins, right)
        self._pairs.add((labels.astype(np.int64) * self.classes + guess)[known])
        self._mistakes = _most_confident(
            np.concatenate([self._mistakes, outcomes[~right]]), MISTAKES
        )

    def scalars(self) -> dict[str, float | int]:
        """Returns top1, top5, ece (percent), loss (nats), images, and means over classes (percent).

        The expected calibration error is that of Guo et al. 2017, 1706.04599, section 3. The
        largest probabilities are sorted into bins of equal width, ((m - 1) / bins, m / bins]; the
        error is the mean of |accuracy - mean probability|, weighted by the images in each bin.

        The means are precision, recall, f1, auroc with the bound of its error `auroc_error`, and
        `classes_with_images`, their number; see the module, and cls.evaluation.auroc.
        """
        images = self.images
        result: dict[str, float | int] = {
            'top1': 100 * (int(self._hits.sum()) / images),
            'top5': 100 * (self._top5 / images),
            'loss': float(self._loss) / images,
            'ece': 100 * float(np.abs([float(gap) for gap in self._gaps]).sum() / images),
            'images': images,
        }
        occur = self._images > 0
        for name, values in self._of_classes().items():
            values = values[occur & ~np.isnan(values)]
            if name != 'predicted' and len(values):
                result[name] = float(values.mean())
        return result | {'classes_with_images': int(occur.sum())}

    def named(self, label: int) -> str | int:
        """Returns the name of a class, or its number if it has none."""
        return self.names[label] if label < len(self.names) else label

    def per_class(self) -> list[dict[str, Any]]:
        """Returns for each class {'class': name or number, 'images', 'top1': percent, ...}.

        The others are 'predicted', the number of images with this prediction, and the values of
        `scalars` for the class; without auroc if no other class has images. Classes without images
        are left out. Those of ImageNet also have their 'name' in words.
        """
        values = self._of_classes()
        return [
            {
                'class': self.named(i),
                **({'name': words(self.names[i])} if has_words(str(self.named(i))) else {}),
                'images': int(self._images[i]),
                'top1': 100 * float(self._hits[i]) / int(self._images[i]),
                **{name: x[i].item() for name, x in values.items() if not np.isnan(x[i])},
            }
            for i in np.flatnonzero(self._images).tolist()
        ]

    def _of_classes(self) -> dict[str, np.ndarray]:
        """Returns (classes,) values by name: counts of predictions, and percent."""
        rows, columns, counts = self.confusion()
        hits, predicted = np.zeros((2, self.classes), np.int64)
        np.add.at(predicted, columns, counts)
        diagonal = rows == columns
        hits[rows[diagonal]] = counts[diagonal]
        values = {
            'precision': hits / np.maximum(predicted, 1),
            'recall': hits / np.maximum(self._images, 1),
            'f1': 2 * hits / np.maximum(predicted + self._images, 1),
        }
        if self.scores.images == self.images:
            values['auroc'], values['auroc_error'] = self.scores.areas()
        return {'predicted': predicted} | {name: 100 * x for name, x in values.items()}

    def calibration(self) -> list[dict[str, float | int]]:
        """Returns the bins of the calibration error, without empty ones.

        Each is {'above', 'to': limits of the largest probability, 'images', 'accuracy',
        'confidence': mean largest probability}, in percent.
        """
        bins = []
        for number in np.flatnonzero(self._in_bins).tolist():
            images, hits = int(self._in_bins[number]), int(self._hits_of_bins[number])
            bins.append(
                {
                    'above': 100 * number / BINS,
                    'to': 100 * (number + 1) / BINS,
                    'images': images,
                    'accuracy': 100 * hits / images,
                    'confidence': 100 * (hits - float(self._gaps[number])) / images,
                }
            )
        return bins

    def mistakes(self) -> np.ndarray:
        """Returns the OUTCOMEs of the most confident wrong predictions, at most MISTAKES.

        The most confident comes first, of equal ones the first image.
        """
        return self._mistakes

    def confusion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the entries of the confusion matrix that are not 0, row by row.

        They are (class (M,), prediction (M,), images (M,)). The prediction is the class of the
        largest probability, the first of equal ones. An image with a probability that is not a
        number has no prediction.
        """
        pairs, counts = self._pairs.counted()
        return pairs // self.classes, pairs % self.classes, counts


def _most_confident(outcomes: np.ndarray, count: int) -> np.ndarray:
    order = np.lexsort((outcomes['index'], -outcomes['confidence']))
    return outcomes[order[:count]]
