"""The mean of probabilities over the views of an image, and over several models.

Images are complete at different times. Only those with some of their views, or with the predictions
of some models, are in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cls.errors import UserError
from cls.evaluation.metrics import Predictions


class Part(NamedTuple):
    """The images of this process that are complete after a batch."""

    predictions: Predictions
    done: float  # the part of all views that the batches had until now, the same on every process


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the (n, K) softmax in float64: no probability comes to 0, or to that of another."""
    result = logits.astype(np.float64)
    result -= result.max(1, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(1, keepdims=True)
    return result


def sigmoids(logits: np.ndarray) -> np.ndarray:
    """Returns (n, 2 K) float64: the probability of each of K classes, then that of its absence.

    Either may be close to 0, where 1 minus it would be rounded to 1.
    """
    logits = logits.astype(np.float64)
    with np.errstate(over='ignore'):  # 1 / infinity is the limit
        return 1 / (1 + np.exp(np.concatenate([-logits, logits], axis=1)))


class MeanOfViews:
    """The mean of the probabilities over the views of each image."""

    def __init__(
        self, views: int, probabilities: Callable[[np.ndarray], np.ndarray] = softmax
    ) -> None:
        """Starts without images.

        Args:
          views: of an image, without mirror images.
          probabilities: of (n, K) logits, as `softmax` or `sigmoids`.
        """
        self._views, self._probabilities = views, probabilities
        self._begun: dict[int, tuple[np.ndarray, int]] = {}  # image -> (sum, number of views)

    @property
    def begun(self) -> int:
        """The number of images that lack some of their views."""
        return len(self._begun)

    def add(self, logits: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Predictions:
        """Adds views; returns the images that are complete.

        Args:
          logits: (m, n, K), those of the views and, if m is 2, of their mirror images.
          labels: (n,), or (n, K) for images with several labels.
          index: (n,), the images; the views of an image follow one another.
        """
        starts = np.flatnonzero(np.diff(index, prepend=-1))
        labels, index, seen = labels[starts], index[starts], np.diff(starts, append=len(index))
        before = {}
        for row, image in enumerate(index.tolist()):
            if image in self._begun:
                before[row], views = self._begun.pop(image)
                seen[row] += views
        total = self._sums(logits, starts, before)
        done = seen == self._views
        for row in np.flatnonzero(~done).tolist():
            self._begun[int(index[row])] = total[row].copy(), int(seen[row])
        if not done.all():
            total, labels, index = total[done], labels[done], index[done]
        total /= len(logits) * self._views
        return Predictions(total, labels, index)

    def _sums(
        self, logits: np.ndarray, starts: np.ndarray, before: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """Returns the sums of probabilities from each start to the next, added to `before`.

        Those of the mirror images are added last.
        """
        total = self._probabilities(logits[0, :0])
        for number, of_views in enumerate(logits if len(starts) else ()):
            part = self._probabilities(of_views)
            if len(starts) < len(part):
                part = np.add.reduceat(part, starts)
            if number:
                total += part
                continue
            total = part
            for row, earlier in before.items():
                total[row] += earlier
        return total


def together(members: Sequence[Iterator[Part]], names: Sequence[str]) -> Iterator[Predictions]:
    """Yields the mean over the predictions of several models, of the same images on each process.

    The models take turns: the next batch is that of the one with the fewest images, in the same
    order on every process.

    Args:
      members: the predictions of each model.
      names: names of the models, for errors.

    Raises UserError if the models have different classes, or labels of an image.
    """
    arrived: dict[int, tuple[int, list[np.ndarray | None]]] = {}  # image -> (label, softmaxes)
    done: dict[int, float] = dict.fromkeys(range(len(members)), 0)
    classes: dict[int, int] = {}
    while done:
        member = min(done, key=lambda number: done[number])
        part = next(members[member], None)
        if part is None:
            del done[member]
            continue
        done[member], one = part.done, part.predictions
        classes[member] = one.probabilities.shape[1]
        _check_classes(classes, names)
        complete = []
        triples = zip(one.index.tolist(), one.labels.tolist(), one.probabilities, strict=True)
        for image, label, probabilities in triples:
            wanted, softmaxes = arrived.setdefault(image, (label, [None] * len(members)))
            if label != wanted:
                raise other_images(names[member], names[0])
            softmaxes[member] = probabilities
            if all(each is not None for each in softmaxes):
                complete.append((image, *arrived.pop(image)))
        yield _mean(complete, classes[member])


def other_images(name: str, first: str) -> UserError:
    """Returns the error of a model whose images are not those of the first."""
    return UserError(f'{name} is evaluated on other images than {first}: expected the same.')


def _check_classes(classes: dict[int, int], names: Sequence[str]) -> None:
    first = min(classes)
    for member, count in classes.items():
        if count != classes[first]:
            raise UserError(
                f'{names[member]} has {count} classes, {names[first]} has {classes[first]}: '
                'expected runs of the same classes.'
            )


def _mean(complete: list[tuple[int, int, list[np.ndarray]]], classes: int) -> Predictions:
    total = np.zeros((len(complete), classes))
    for row, (_, _, softmaxes) in enumerate(complete):
        for probabilities in softmaxes:  # in the order of the models
            total[row] += probabilities
        total[row] /= len(softmaxes)
    images, labels = ([each[i] for each in complete] for i in range(2))
    return Predictions(total, np.array(labels, np.int32), np.array(images, np.int32))
