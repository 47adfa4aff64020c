"""Figures of a search: its progress, and its best genotype as a graph."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cls.run import metric_names
from cls.search.graphs import Edge, graphs
from cls.search.history import Result
from cls.search.searcher import FAILED
from cls.storage import paths

_COLORS = {'in': '#dceefb', 'out': '#fde9d9', '': '#f2f2f2'}


def curve(results: Sequence[Result], file: Path) -> None:
    """Draws each trial's fitness and the best so far against evaluations."""
    fitness = np.array([np.nan if r.fitness == FAILED else r.fitness for r in results])
    figure = Figure((6, 3.5), layout='constrained')
    axes = figure.add_subplot(xlabel='evaluations', ylabel='fitness')
    numbers = np.arange(1, len(fitness) + 1)
    axes.plot(numbers, fitness, '.', color='0.7', label='trials')
    axes.step(numbers, np.fmax.accumulate(fitness), where='post', label='best so far')
    axes.legend(loc='lower right')
    save(figure, file)


def course(logged: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws a supernet's top-1 and the entropy of its architecture against steps.

    Args:
      logged: lines of metrics.jsonl.
      file: the file to write.
    """
    figure = Figure((6, 5), layout='constrained')
    accuracies = [f'{kind}/top1' for kind in metric_names.KINDS]
    accuracies = [name for name in accuracies if any(name in line for line in logged)]
    parts = {'top-1 (%)': ('train/top1', *accuracies), 'entropy (nats)': ('train/alpha_entropy',)}
    for axes, (label, names) in zip(figure.subplots(2, sharex=True), parts.items(), strict=True):
        axes.set(xlabel='steps', ylabel=label)
        for name in names:
            points = [(line['step'], line[name]) for line in logged if name in line]
            axes.plot(*np.array(points, float).reshape(-1, 2).T, marker='.', label=name)
        axes.legend()
    save(figure, file)


def draw(genotype: Any, file: Path) -> None:
    """Draws a genotype: a graph for each cell, stage or motif of it."""
    parts = dict(graphs(genotype))
    rows = {name: _layers(edges) for name, edges in parts.items()}
    height = sum(1.1 * max(map(len, layers)) + 0.6 for layers in rows.values())
    width = 1.7 * max(map(len, rows.values())) + 1
    figure = Figure((min(width, 60), min(height, 60)), layout='constrained')
    ratios = [1.1 * max(map(len, layers)) + 0.6 for layers in rows.values()]
    grid = figure.subplots(len(parts), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, (name, edges) in zip(grid, parts.items(), strict=True):
        axes.set_title(name, loc='left', fontsize=10)
        axes.axis('off')
        _draw(axes, edges, rows[name])
    save(figure, file)


def _layers(edges: Sequence[Edge]) -> list[list[str]]:
    """Returns the nodes by the length of the longest path to them from a node without inputs."""
    nodes = list(dict.fromkeys(name for edge in edges for name in edge[:2]))
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for source, node, _op in edges:
            depth[node] = max(depth[node], depth[source] + 1)
    return [[n for n in nodes if depth[n] == level] for level in range(max(depth.values()) + 1)]


def _draw(axes: Any, edges: Sequence[Edge], layers: Sequence[Sequence[str]]) -> None:
    positions = {
        name: (x, (len(layer) - 1) / 2 - y + 0.12 * (x % 2))  # not all in one row
        for x, layer in enumerate(layers)
        for y, name in enumerate(layer)
    }
    seen: dict[tuple[str, str], int] = {}
    into: dict[str, int] = {}
    for source, node, op in edges:
        twice = seen[source, node] = seen.get((source, node), -1) + 1
        (x, y), (u, v) = positions[source], positions[node]
        bend = (0.15 if u - x > 1 else 0.0) + 0.3 * twice
        arrow = {'arrowstyle': '->', 'color': '0.4', 'shrinkA': 12, 'shrinkB': 12}
        arrow['connectionstyle'] = f'arc3,rad={bend}'
        axes.annotate('', (u, v), (x, y), arrowprops=arrow)
        # Names of edges that cross in the middle are near the heads of their arrows, to stay apart.
        into[node] = into.get(node, 0) + bool(op)
        t = 0.86 - 0.22 * into[node]
        at = x + t * (u - x), y + t * (v - y) - 2 * t * (1 - t) * bend * (u - x)
        box = {'boxstyle': 'round,pad=0.1', 'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8}
        if op:
            axes.text(*at, op, fontsize=7, ha='center', va='center', color='tab:blue', bbox=box)
    for name, (x, y) in positions.items():
        color = _COLORS.get(name.split(' ')[0], _COLORS[''])
        box = {'boxstyle': 'round', 'facecolor': color, 'edgecolor': '0.5'}
        axes.text(x, y, name, fontsize=8, ha='center', va='center', bbox=box)
    heights = [y for _, y in positions.values()]
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(min(heights) - 0.7, max(heights) + 0.7)


def save(figure: Figure, file: Path) -> None:
    """Writes a figure by its suffix, as PNG or SVG; the matplotlib state of a notebook stays."""
    content = io.BytesIO()
    kind = 'svg' if file.suffix.lower() == '.svg' else 'png'
    FigureCanvasAgg(figure).print_figure(content, dpi=120, format=kind)
    paths.write_whole(file, content.getvalue())
