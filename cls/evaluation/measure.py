"""The metrics of predictions that several processes make, part by part."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from cls.data.sources import Source
from cls.evaluation import metrics, robustness
from cls.evaluation.files import Listing
from cls.evaluation.metrics import Predictions, Tally

BLOCK = 2**18  # counts that are gathered together: memory for one block of each process


def measure(
    parts: Iterable[Predictions],
    source: Source,
    classes: int,
    listing: Listing | None = None,
    names: Sequence[str] = (),
) -> Tally:
    """Returns the metrics of predictions, on every process, as the test set scores them.

    Args:
      parts: the predictions for this process's share of the images, as many parts on each process.
      source: the test set, see cls.evaluation.robustness.
      classes: the number of classes.
      listing: gets the outcomes of all images; None: they are not listed.
      names: names of the classes; (): they are numbered.

    Raises UserError for an image with a label beyond the model's outputs.
    """
    tally = Tally(classes, names)
    for part in parts:
        part = scored(part, source)
        outcomes = gathered(metrics.outcomes(part, listing is not None))
        tally.add(outcomes)
        tally.scores.add(part.probabilities, part.labels)
        if listing is not None:
            listing.add(outcomes)
    for counts in (tally.scores.of_all, tally.scores.of_class):
        sum_over_processes(counts)
    if tally.images != len(source):
        raise AssertionError(f'{tally.images} of {len(source)} images were evaluated')
    return tally


def gathered(outcomes: np.ndarray) -> np.ndarray:
    """Returns the (n,) outcomes of all processes, on every process."""
    if jax.process_count() == 1:
        return outcomes
    counts = multihost_utils.process_allgather(np.int32(len(outcomes)))
    padded = np.zeros(1 << int(counts.max()).bit_length(), outcomes.dtype)  # few shapes: programs
    padded[: len(outcomes)] = outcomes
    # JAX has no float64 here: the bytes are sent.
    rows = multihost_utils.process_allgather(padded.view(np.uint8).reshape(len(padded), -1))
    rows = np.concatenate([part[:count] for part, count in zip(rows, counts, strict=True)])
    return rows.reshape(-1).view(outcomes.dtype)


def sum_over_processes(counts: np.ndarray) -> None:
    """Replaces integers by their sums over all processes, on every process.

    Args:
      counts: an int32 array of the same shape on each process, contiguous.
    """
    flat = counts.reshape(-1)
    for start in range(0, flat.size if jax.process_count() > 1 else 0, BLOCK):
        part = flat[start : start + BLOCK]
        part[:] = multihost_utils.process_allgather(part).sum(0)


def scored(predictions: Predictions, source: Source) -> Predictions:
    """Returns predictions as a test set scores them, see cls.evaluation.robustness."""
    index = predictions.index
    sets = [source.label_sets[i] for i in index.tolist()] if source.label_sets else ()
    pair = predictions.probabilities, predictions.labels
    return Predictions(*robustness.scored(*pair, source.subset, sets), index)
