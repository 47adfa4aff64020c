"""The files of an evaluation: the predictions of its images, and the confusion matrix."""

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from cls.data.classes import has_words, words
from cls.data.labels import SEPARATOR
from cls.evaluation.metrics import LISTED, OUTCOME, Tally
from cls.storage import paths

TOGETHER = 2**14  # records that are read at a time


class Listing:
    """The outcomes of the images of an evaluation, in a nameless file on this machine's disk.

    They may come in any order, and are read in that of the source. The file ends with the process.
    """

    def __init__(self, kept: bool = True) -> None:
        """Makes the file; unless `kept`, nothing is written to it."""
        self._file, self._kept = tempfile.TemporaryFile(), kept  # noqa: SIM115  see __exit__
        self._images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, outcomes: np.ndarray) -> None:
        """Adds (n,) OUTCOMEs, each image once."""
        if not self._kept:
            return
        outcomes = outcomes[np.argsort(outcomes['index'])]
        starts = np.flatnonzero(np.diff(outcomes['index'], prepend=-2) != 1)
        for run in np.split(outcomes, starts[1:]) if len(outcomes) else ():
            self._file.seek(int(run['index'][0]) * OUTCOME.itemsize)
            self._file.write(run.tobytes())
        self._images += len(outcomes)

    def write(
        self, path: Path, classes: int, names: Sequence[str] = (), files: Sequence[str] = ()
    ) -> None:
        """Writes a CSV file atomically: file or index, label and top five classes of each image.

        Classes of ImageNet have their names in words in further columns.

        Args:
          path: the CSV file.
          classes: the number of classes.
          names: names of the classes; (): classes are written as numbers.
          files: files of the images; (): images are written as numbers.
        """
        count = min(LISTED, classes)

        def name(label: int) -> str | int:
            return names[label] if label < len(names) else label

        worded = any(map(has_words, names))  # ImageNet's classes get a column of words
        kinds = ('class', 'name', 'probability') if worded else ('class', 'probability')
        columns = [f'{kind}{i}' for i in range(1, count + 1) for kind in kinds]
        with paths.writing(path) as file:
            # File names need not be UTF-8: their bytes are written unchanged.
            lines = io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline='')
            writer = csv.writer(lines)
            writer.writerow(['image', 'label', *(['label_name'] if worded else []), *columns])
            for i, (label, classes_of, probabilities) in enumerate(self._rows(count)):
                row: list[Any] = [files[i] if files else i, name(label)]
                row += [words(str(name(label)))] if worded else []
                for guess, probability in zip(classes_of, probabilities, strict=True):
                    own = [words(str(name(guess)))] if worded else []
                    row += [name(guess), *own, f'{probability:.6g}']
                writer.writerow(row)
            lines.detach()  # writes the rest, and does not close the file

    def _rows(self, count: int) -> Iterator[tuple[int, list[int], list[float]]]:
        """Yields label, most probable classes and their probabilities of each image, in order."""
        for start in range(0, self._images, TOGETHER):
            length = min(TOGETHER, self._images - start) * OUTCOME.itemsize
            self._file.seek(start * OUTCOME.itemsize)
            block = np.frombuffer(self._file.read(length), OUTCOME)
            yield from zip(
                block['label'].tolist(),
                block['classes'][:, :count].tolist(),
                block['probabilities'][:, :count].tolist(),
                strict=True,
            )


def write_probabilities(
    path: Path,
    labels: np.ndarray,
    probabilities: Iterable[np.ndarray],
    names: Sequence[str] = (),
    files: Sequence[str] = (),
) -> None:
    """Writes a CSV file atomically: file or index, labels, and the probability of each class.

    There is a column for each class, a class called `image` or `labels` with `_` after its name.
    Labels are written as in tables of images, `cat|dog`.

    Args:
      path: the CSV file.
      labels: (N, K), 1 for each class of an image.
      probabilities: (K,) of each image.
      names: names of the classes; (): classes are written as numbers.
      files: files of the images; (): images are written as numbers.
    """
    classes = [str(name) for name in names or range(labels.shape[1])]
    with paths.writing(path) as file:
        lines = io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline='')
        writer = csv.writer(lines)
        first = ['image', 'labels']
        taken = {*first, *classes}
        writer.writerow(
            [*first, *(_other(name, taken) if name in first else name for name in classes)]
        )
        for i, (own, values) in enumerate(zip(labels, probabilities, strict=True)):
            cell = SEPARATOR.join(classes[k] for k in np.flatnonzero(own).tolist())
            numbers = [f'{value:.6g}' for value in values.tolist()]
            writer.writerow([files[i] if files else i, cell, *numbers])
        lines.detach()  # writes the rest, and does not close the file


def _other(name: str, taken: set[str]) -> str:
    """Returns a name with `_` after it until it is not taken."""
    while name in taken:
        name += '_'
    return name


def write_confusion(path: Path, tally: Tally) -> None:
    """Writes a confusion matrix atomically, as a sparse matrix of scipy.sparse.save_npz.

    Only entries that are not 0 are stored, at most one for each image. Row and column are the class
    and the prediction. The array `names` has the names of the classes; scipy ignores it.
    """
    rows, columns, images = tally.confusion()
    file = io.BytesIO()
    np.savez(
        file,
        row=rows.astype(np.int32),
        col=columns.astype(np.int32),
        data=images,
        shape=np.array([tally.classes] * 2),
        format=np.array(b'coo'),
        names=np.array(list(tally.names), str),
    )
    paths.write_whole(path, file.getvalue())
