"""The confusion matrix as a chart, and its most frequent mistakes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cls.data.classes import words
from cls.experiments.report.charts import figure, svg
from cls.experiments.report.html import Html, joined, tag

MOST = 30  # classes of a chart
_LONGEST = 18  # letters of a name at an axis


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix.

    Attributes:
      rows, columns, images: class, prediction, and number of images of each pair, (M,).
      names: the names of all classes.
    """

    rows: np.ndarray
    columns: np.ndarray
    images: np.ndarray
    names: Sequence[str]

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Returns (class, prediction, images) of the pairs that differ, the most frequent first."""
        wrong = self.rows != self.columns
        triples = zip(self.rows[wrong], self.columns[wrong], self.images[wrong], strict=True)
        return sorted(
            ((int(a), int(b), int(n)) for a, b, n in triples), key=lambda x: (-x[2], x[:2])
        )

    def shown(self) -> list[int]:
        """Returns the classes of the chart, ascending: all, or those most often confused."""
        if len(self.names) <= MOST:
            return list(range(len(self.names)))
        classes: dict[int, None] = {}
        for row, column, _ in self.mistakes():
            if len(classes | {row: None, column: None}) > MOST:
                break
            classes |= {row: None, column: None}
        return sorted(classes)

    def dense(self, classes: Sequence[int]) -> np.ndarray:
        """Returns the (n, n) images of some classes."""
        place = {label: i for i, label in enumerate(classes)}
        result = np.zeros((len(classes), len(classes)), np.int64)
        for row, column, images in zip(self.rows, self.columns, self.images, strict=True):
            if int(row) in place and int(column) in place:
                result[place[int(row)], place[int(column)]] = images
        return result


def chart(confusion: Confusion) -> Html:
    """Returns the matrix: a row for each class, a column for each prediction."""
    classes = confusion.shown()
    if not classes:
        return tag('p', 'No image is confused with another class.')
    cells, names = confusion.dense(classes), [_cut(words(confusion.names[i])) for i in classes]
    totals = np.zeros(len(confusion.names), np.int64)
    np.add.at(totals, confusion.rows, confusion.images)
    size = 46 if len(classes) <= 6 else max(16, 360 // len(classes))
    room = 7.5 * max(map(len, names)) + 12
    width, height = room + size * len(classes) + 14, room + size * len(classes) + 22
    parts = [_names(names, size, room)]
    fractions = cells / np.maximum(totals[classes], 1)[:, None]
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, fractions)
    strength = np.where(wrong, wrong / (wrong.max() or 1), fractions)
    for i, j in np.ndindex(cells.shape):
        text = (
            f'{names[i]} predicted as {names[j]}: {cells[i, j]:,} ({100 * fractions[i, j]:.1f} %)'
        )
        at = room + size * j, room + size * i
        color = 's0' if i == j else 's1'
        parts.append(_cell(int(cells[i, j]), float(strength[i, j]), color, at, size, text))
    across = room + size * len(classes) / 2
    parts.append(tag('text', 'prediction', x=across, y=height - 6, class_='middle label'))
    drawn = svg(*parts, width=width, height=height, title='confusion matrix', class_='matrix')
    note = (
        'A row for each class. Blue: the fraction of its images that is right; orange: mistakes, '
        'relative to the most frequent one.'
    )
    if len(classes) < len(confusion.names):
        note += (
            f' {len(classes)} of {len(confusion.names):,} classes: those of the most frequent '
            'mistakes.'
        )
    style = f'min-width:{min(width, 22 * len(classes) + room):.0f}px;max-width:{1.4 * width:.0f}px'
    return figure(
        'Confusion matrix', tag('div', tag('div', drawn, style=style), class_='scroll'), note=note
    )


def _names(names: Sequence[str], size: float, room: float) -> Html:
    parts = []
    for i, name in enumerate(names):
        at = room + size * (i + 0.5)
        parts.append(tag('text', name, x=room - 6, y=at + 4, class_='end'))
        turned = f'rotate(-90 {at + 4:.1f} {room - 6:.1f})'
        parts.append(tag('text', name, x=at + 4, y=room - 6, transform=turned))
    return joined(*parts)


def _cell(
    images: int, strength: float, color: str, at: tuple[float, float], size: float, text: str
) -> Html:
    """Returns a cell, with its number if there is room.

    Args:
      images: its number.
      strength: of its color, 0 to 1.
      color: the class of its color.
      at: (x, y) of its corner.
      size: height and width.
      text: shown at the pointer.
    """
    (x, y), title = at, tag('title', text)
    opacity = 0.12 + 0.88 * strength**0.6
    box = {'x': x + 0.5, 'y': y + 0.5, 'width': size - 1.0, 'height': size - 1.0}
    parts = [tag('rect', title, **box, class_='empty')]
    if images:
        parts.append(tag('rect', title, **box, class_=f'fill {color}', fill_opacity=opacity))
    if images and size >= 16 and len(str(images)) * 7 < size + 4:
        over = ' over' if opacity > 0.55 else ''
        middle = {'x': x + size / 2, 'y': y + size / 2 + 4}
        parts.append(tag('text', images, **middle, class_=f'middle number{over}'))
    return joined(*parts)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f'{name[: _LONGEST - 1]}…'
