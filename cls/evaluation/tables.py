"""The values of an evaluation by name, for its file, and the printed table of its classes."""

from collections.abc import Sequence
from typing import Any

from cls.data.classes import both
from cls.evaluation.metrics import Tally

SHOWN = 20  # classes in a printed table
# Metrics of classes, and their titles.
CLASS_METRICS = (
    ('precision', 'precision'),
    ('recall', 'recall'),
    ('f1', 'F1'),
    ('auroc', 'AUROC'),
)


def values(tally: Tally, name: str, files: Sequence[str] = ()) -> dict[str, Any]:
    """Returns 'NAME/top1', ..., and the lists 'NAME/classes', .../calibration and .../mistakes.

    Args:
      tally: the metrics.
      name: the prefix of their names.
      files: files of the images; (): they are numbered.
    """
    result: dict[str, Any] = dict(tally.scalars())
    result['classes'] = tally.per_class()
    result['calibration'] = tally.calibration()
    result['mistakes'] = [
        {
            'index': int(each['index']),
            **({'image': files[each['index']]} if files else {}),
            'class': tally.named(int(each['label'])),
            'prediction': tally.named(int(each['guess'])),
            'label': int(each['label']),
            'output': int(each['guess']),
            'probability': float(each['confidence']),
        }
        for each in tally.mistakes()
    ]
    return {f'{name}/{metric}': value for metric, value in result.items()}


def class_lines(result: dict[str, Any], name: str) -> list[str]:
    """Returns the lines of a table of the classes, after one with the means over them.

    Of more than `SHOWN` classes it has those with the lowest F1.

    Args:
      result: the values of an evaluation.
      name: the prefix of the weights' metrics, as in cls.evaluate.weight_sets.
    """
    rows = result[f'{name}/classes']
    count = result[f'{name}/classes_with_images']
    means = [f'{title} {result[f"{name}/{metric}"]:.2f} %' for metric, title in CLASS_METRICS
             if f'{name}/{metric}' in result]  # fmt: skip
    lines = [f'means over {count} classes with images: {", ".join(means)}']
    shown = rows
    if len(rows) > SHOWN:
        shown = sorted(rows, key=lambda row: row['f1'])[:SHOWN]
        lines[0] += f'; those with the lowest F1, of {count}:'
    metrics = [(metric, title) for metric, title in CLASS_METRICS if metric in rows[0]]
    cells = [['class', 'images', *(title for _, title in metrics)]]
    for row in shown:
        label = both(row['class']) if isinstance(row['class'], str) else str(row['class'])
        numbers = (f'{row[metric]:.2f}' for metric, _ in metrics)
        cells.append([label, f'{row["images"]:,}', *numbers])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append('  '.join([line[0].ljust(widths[0]), *numbers]))
    return lines
