"""The learning curves of a comparison in a file of a picture, by matplotlib.

Those of pages are drawn by `cls.experiments.report.charts`.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError, require
from cls.experiments.compare import Comparison, curve_metrics, curves
from cls.storage import paths

_MOST_LINES = 20  # curves of a figure: more colors are too similar


def draw(comparison: Comparison, metrics: Sequence[str] = ()) -> Any:
    """Returns the figure of the learning curves: a plot for each metric, all groups on one axis.

    A curve is the mean over seeds, its band from the lowest to the highest run.

    Raises UserError if matplotlib is not installed, and without a curve.
    """
    require('matplotlib', 'sweep')
    from matplotlib.figure import Figure

    metrics = list(metrics) or curve_metrics(comparison)
    drawn = [(metric, [*curves(comparison, metric)][:_MOST_LINES]) for metric in metrics]
    drawn = [(metric, lines) for metric, lines in drawn if lines]
    if not drawn:
        raise UserError('no run has a learning curve: expected lines in metrics.jsonl.')
    figure = Figure((7, 3.5 * len(drawn)), layout='constrained')
    all_axes = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for axes, (metric, lines) in zip(all_axes, drawn, strict=True):
        axes.set(xlabel='step', ylabel=metric)
        for line in lines:
            mean = line.values.mean(0)
            (artist,) = axes.plot(line.steps, mean, label=line.label, marker=_marker(line.steps))
            if len(line.values) > 1:
                low, high = line.values.min(0), line.values.max(0)
                axes.fill_between(
                    line.steps, low, high, color=artist.get_color(), alpha=0.2, linewidth=0
                )
        axes.legend(fontsize='small')
    return figure


def _marker(steps: np.ndarray) -> str:
    return '.' if len(steps) < 20 else ''


def save(figure: Any, file: Path) -> None:
    """Writes a figure by the suffix of the file, as PNG or SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    kind = 'svg' if file.suffix.lower() == '.svg' else 'png'
    FigureCanvasAgg(figure).print_figure(content, dpi=120, format=kind)
    paths.write_whole(file, content.getvalue())
