"""The sections of a report on the classes of a run: confusion, metrics, calibration, mistakes."""

from collections.abc import Iterator
from typing import Any

from cls.data.classes import both
from cls.evaluation.tables import CLASS_METRICS
from cls.experiments.report import charts, images, matrix
from cls.experiments.report.data import Details, Evaluation
from cls.experiments.report.html import Html, joined, table, tag

AVERAGE = 'average_precision'
_PAIRS = 15  # rows of the table of the most frequent mistakes


def classes(found: Evaluation) -> Iterator[Html]:
    """Yields the confusion matrix, its most frequent mistakes and the table of classes."""
    confusion = found.confusion
    if confusion is None:
        yield from precisions(found)
        return
    triples = confusion.mistakes()
    shown = [
        [_named(confusion.names[a]), _named(confusion.names[b]), f'{n:,}']
        for a, b, n in triples[:_PAIRS]
    ]
    frequent = tag(
        'div',
        tag('h3', 'The most frequent mistakes'),
        table(['class', 'prediction', 'images'], shown, words=2),
        tag('p', f'{len(shown)} of {len(triples):,} pairs.', class_='note'),
    )
    drawn = matrix.chart(confusion)
    yield tag('div', drawn, frequent if triples else None, class_='charts')
    yield tag('h3', 'Each class')
    rows = found['classes']
    metrics = [(metric, title) for metric, title in CLASS_METRICS if metric in rows[0]]
    header = ['class', 'images', 'predicted', *(f'{title} %' for _, title in metrics)]
    lines = [
        [
            _named(row['class']),
            f'{row["images"]:,}',
            f'{row["predicted"]:,}',
            *(f'{row[metric]:.2f}' if metric in row else '–' for metric, _ in metrics),
        ]
        for row in sorted(rows, key=lambda row: row['f1'])
    ]
    yield table(header, lines, class_='tall')
    yield tag('p', 'The lowest F1 comes first; a click on a title sorts.', class_='note')


def precisions(found: Evaluation) -> Iterator[Html]:
    """Yields the average precision of each class, for images with several labels."""
    each = {name: -1.0 if value is None else value for name, value in found.get(AVERAGE).items()}
    lines = [
        [_named(name), '–' if value < 0 else f'{value:.2f}']
        for name, value in sorted(each.items(), key=lambda pair: pair[1])
    ]
    yield table(['class', 'average precision %'], lines, class_='tall')
    mean = f'mAP, the mean over classes with images, is {found["map"]:.2f} %.'
    yield tag('p', f'The lowest comes first; {mean}', class_='note')


def _named(label: Any) -> str:
    return both(label) if isinstance(label, str) else str(label)


def calibrated(found: Evaluation) -> Html:
    """Returns the reliability diagram."""
    error = tag('p', f'Expected calibration error {found["ece"]:.2f} % (15 bins).', class_='lead')
    return joined(error, charts.calibration(found['calibration'], found['images']))


def mistakes(each: Details) -> Iterator[Html]:
    """Yields the most confident mistakes, with images if there are any."""
    found = each.evaluation
    assert found is not None
    rows = found['mistakes']
    if not rows:
        yield tag('p', 'No image is predicted wrongly.', class_='lead')
        return
    yield tag(
        'p', f'The {len(rows)} wrong predictions with the largest probability.', class_='lead'
    )
    if each.mistakes:
        yield tag('div', *map(images.card, each.mistakes), class_='cards')
        method = each.mistakes[0].method
        text = f'Maps: {method}; red pixels speak for the class named below, blue ones do not.'
        yield tag('p', text, class_='note')
        return
    lines = [
        [row.get('image', row['index']), _named(row['class']), _named(row['prediction'])]
        + [f'{100 * row["probability"]:.2f}']
        for row in rows
    ]
    yield table(['image', 'class', 'prediction', 'probability %'], lines, words=3)
