"""The area under the ROC curve (AUROC) of each class against the rest, from counts in bins.

It is the fraction of the pairs of an image of the class and another image such that the former has
the larger probability of the class; equal ones count one half (Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747). Only the order of the probabilities matters, so
their logits are squashed into bins that are fine near 0 and 1 too. Two probabilities of a bin count
as equal: the area differs from the exact one by at most half of the fraction of pairs that share a
bin. This bound is known, and reported.

Memory is that of the bins, whatever the number of images: at most 2 x 16 MiB up to 2**18 classes.
"""

import numpy as np

BINS = 2**16  # for each class, fewer for more than CELLS / BINS classes
CELLS = 2**22  # bins of all classes
LEAST = 16  # bins of a class
_SCALE = 8.0  # the logit at half of the way from the middle bin to the last one


class ScoreCounts:
    """The number of images by class, and by bin of the class's probability.

    Attributes:
      of_all: (classes, bins) int32, all images.
      of_class: (classes, bins) int32, the images with the class as label.
    """

    def __init__(self, classes: int) -> None:
        """Starts without images."""
        self._bins = min(BINS, max(CELLS // classes, LEAST))
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
        np.add.at(self.of_all.reshape(-1), cells.reshape(-1), 1)
        rows = np.flatnonzero((labels >= 0) & (labels < classes))
        np.add.at(self.of_class.reshape(-1), cells[rows, labels[rows]], 1)

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
    """Returns the bins of probabilities, int64 in [0, count), in the same order."""
    with np.errstate(divide='ignore', invalid='ignore'):
        logits = np.log(probabilities / (1 - probabilities))
    # The logits of float64 are within -745 and 37, but for those of 0 and 1.
    logits = np.clip(np.nan_to_num(logits, nan=-np.inf), -800, 800)
    squashed = logits / (_SCALE + np.abs(logits))
    return ((squashed + 1) * (count / 2)).astype(np.int64)
