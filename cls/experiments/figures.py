"""Figures and the page of a comparison."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError, require
from cls.experiments.compare import Comparison, curve_metrics, curves
from cls.storage import paths

_MOST_LINES = 20  # curves of a figure: more colors are too similar
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 64rem; }}
body {{ padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #8886; padding: .25rem .75rem; text-align: left; }}
td {{ font-variant-numeric: tabular-nums; }}
figure {{ background: #fff; border-radius: .5rem; margin: 1rem 0; }}
svg {{ height: auto; max-width: 100%; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


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


def content(figure: Any, kind: str) -> bytes:
    """Returns a figure as the content of a file, 'png' or 'svg'."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    result = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(result, dpi=120, format=kind)
    return result.getvalue()


def save(figure: Any, file: Path) -> None:
    """Writes a figure by the suffix of the file, as PNG or SVG."""
    paths.write_whole(file, content(figure, 'svg' if file.suffix.lower() == '.svg' else 'png'))


def page(title: str, tables: Sequence[tuple[str, Sequence[Sequence[str]]]], figure: Any) -> str:
    """Returns a page that needs no other file.

    Args:
      title: its title.
      tables: (heading, rows with a header).
      figure: a figure of matplotlib; None: none.
    """
    parts = []
    for heading, rows in tables:
        parts.append(f'<h2>{html.escape(heading)}</h2>')
        header, *body = rows
        lines = [_row(header, 'th'), *(_row(row, 'td') for row in body)]
        parts.append('<table>\n' + '\n'.join(lines) + '\n</table>')
    if figure is not None:
        svg = content(figure, 'svg').decode()
        parts.append(f'<h2>learning curves</h2>\n<figure>{svg[svg.index("<svg") :]}</figure>')
    return _PAGE.format(title=html.escape(title), body='\n'.join(parts))


def _row(cells: Sequence[str], tag: str) -> str:
    return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells) + '</tr>'
