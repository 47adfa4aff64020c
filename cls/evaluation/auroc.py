"""The area under the ROC curve (AUROC) of each class against the rest, from counts in bins.

It is the fraction of the pairs of an image of the class and another image such that the former has
the larger probability of the class; equal ones count one half (Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747). Only the order of the probabilities matters, so
the bins may have any widths; they have about the same relative width near 0 and near 1. Two
probabilities of a bin count as equal: the area differs from the exact one by at most half of the
fraction of pairs that share a bin. This bound is known, and reported.

Memory is that of the bins, whatever the number of images: at most 2 x 16 MiB up to 2**18 classes.
"""

import functools

import numpy as np

BINS = 2**14  # for each class, fewer for more than CELLS / BINS classes
CELLS = 2**22  # bins of all classes
LEAST = 16  # bins of a class
_SCALE = 11.0  # half of the bins are for the _SCALE powers of 2 below 1/2
_PRECISION = 9  # bits after the leading one that a bin depends on
_SHIFT = 52 - _PRECISION
_ONE = 1023 << _PRECISION  # the shifted bits of 1.0


class ScoreCounts:
    """The number of images by class, and by bin of the class's probability.

    Attributes:
      of_all: (classes, bins) int32, all images.
      of_class: (classes, bins) int32, the images with the class as label.
    """

    def __init__(self, classes: int) -> None:
        """Starts without images."""
        self._bins = min(BINS, max(CELLS // classes // 2 * 2, LEAST))
        self.of_all = np.zeros((classes, self._bins), np.int32)
        self.of_class = np.zeros((classes, self._bins), np.int32)

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.of_class.sum(dtype=np.int64))

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Adds images; those with a label that is not one of the classes count only as others.

        Args:
          probabilities: (n, classes) float64. NaN is in the first bin.
          labels: (n,) int32.
        """
        classes = len(self.of_all)
        cells = bins_of(probabilities, self._bins) + np.arange(classes) * self._bins
        one = np.int32(1)  # with a Python integer it takes 20 times as long
        np.add.at(self.of_all.reshape(-1), cells.reshape(-1), one)
        rows = np.flatnonzero((labels >= 0) & (labels < classes))
        np.add.at(self.of_class.reshape(-1), cells[rows, labels[rows]], one)

    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (areas, bounds of their errors) of all classes, (classes,) in [0, 1].

        They are NaN for a class without images, or without images of other classes.
        """
        areas, errors = np.full((2, len(self.of_all)), np.nan)
        for number in np.flatnonzero(self.of_class.any(1)).tolist():
            own = self.of_class[number].astype(np.int64)
            rest = self.of_all[number] - own
            pairs = int(own.sum()) * int(rest.sum())
            if pairs:
                below = int((own * (rest.cumsum() - rest)).sum())
                ties = int((own * rest).sum())
                areas[number], errors[number] = (below + ties / 2) / pairs, ties / 2 / pairs
        return areas, errors


def bins_of(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Returns the bins of probabilities, int64 in [0, count), in the same order.

    The first half of the bins is for those up to 1/2, by their distance from 0, the others are
    sorted by their distance from 1. NaN is in the first bin.

    Args:
      probabilities: any shape, float64.
      count: the number of bins, even.
    """
    # The bits of a positive float64 are in the order of the numbers: no logarithm is needed.
    distances = np.fmax(np.minimum(probabilities, 1 - probabilities), 0)
    steps = _ONE - (distances.view(np.int64) >> _SHIFT)
    below = _half_bins(count // 2)[steps]
    return np.where(probabilities > 0.5, count - 1 - below, below)


@functools.cache
def _half_bins(count: int) -> np.ndarray:
    """Returns the bin in [0, count) of each number of steps below 1; the last are the smallest.

    The bins are fine near 1/2, and coarser for smaller numbers.
    """
    octaves = np.maximum(np.arange(_ONE + 1) / 2**_PRECISION - 1, 0)  # below 1/2
    parts = octaves / (_SCALE + octaves)
    bins = (parts / parts[-1] * count).astype(np.int64)
    return count - 1 - np.minimum(bins, count - 1)
