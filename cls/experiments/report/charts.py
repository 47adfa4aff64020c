"""Charts in SVG: pure functions of numbers. Colors are those of the page, in light and dark."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cls.experiments.report.html import Html, joined, tag
from cls.experiments.report.scales import Point, Scale, number, padded, thinned, wants_log

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 10, 42  # margins
COLORS = 8  # classes s0 to s7 of the page


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
      name: for the legend.
      points: (x, y) in the order of x.
      color: number of its color, modulo COLORS.
      dashed: whether the line is dashed.
      band: (x, low, high) around the line; () for none.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()


def svg(*content: Any, width: float, height: float, title: str, class_: str = '') -> Html:
    """Returns an image that scales with the page, with a title for those who do not see it."""
    return tag(
        'svg',
        tag('title', title),
        *content,
        viewBox=f'0 0 {width:g} {height:g}',
        role='img',
        class_=class_ or None,
    )


def figure(title: str, *content: Any, note: Any = None) -> Html:
    """Returns a chart with its title, and a note below."""
    below = tag('p', note, class_='note') if note else None
    return tag('figure', tag('figcaption', title), *content, below)


def lines(
    title: str,
    series: Sequence[Series],
    xlabel: str = 'step',
    ylabel: str = '',
    log: bool | None = None,
    note: Any = None,
) -> Html:
    """Returns a chart of lines with axes and a legend.

    Args:
      title: of the chart.
      series: the lines, with one point or more together.
      xlabel: the title of the horizontal axis.
      ylabel: that of the vertical axis.
      log: whether the vertical axis is logarithmic; None: if the values spread widely.
      note: a text below.
    """
    values = [y for each in series for _, y in each.points]
    values += [y for each in series for _, *both in each.band for y in both]
    log = wants_log(values) if log is None else log
    xs = [x for each in series for x, _ in each.points]
    x = _horizontal(xs)
    y = padded(values, HEIGHT - BOTTOM, TOP, log)
    drawn = [_band(each, x, y) for each in series if each.band]
    drawn += [_line(each, x, y) for each in series if each.points]
    axes = joined(_grid(x, y), _labels(xlabel, ylabel + (' (log)' if log else '')))
    chart = svg(axes, *drawn, width=WIDTH, height=HEIGHT, title=title)
    return figure(title, chart, legend(series) if len(series) > 1 else None, note=note)


def _horizontal(xs: Sequence[float]) -> Scale:
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 1, high + 1
    return Scale(0.0 if 0 <= low < 0.2 * high else low, high, LEFT, WIDTH - RIGHT)


def _grid(x: Scale, y: Scale) -> Html:
    """Returns ticks, their numbers, and the lines of the grid."""
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in y.ticks:
        at = y(value)
        parts.append(tag('line', x1=LEFT, x2=right, y1=at, y2=at, class_='grid'))
        parts.append(tag('text', number(value), x=LEFT - 6, y=at + 4, class_='end'))
    for value in x.ticks:
        at = x(value)
        parts.append(tag('line', x1=at, x2=at, y1=bottom, y2=bottom + 4, class_='axis'))
        parts.append(tag('text', number(value), x=at, y=bottom + 17, class_='middle'))
    parts.append(tag('line', x1=LEFT, x2=right, y1=bottom, y2=bottom, class_='axis'))
    return joined(*parts)


def _labels(xlabel: str, ylabel: str) -> Html:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    across = tag('text', xlabel, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, class_='middle label')
    turned = f'rotate(-90 12 {middle:g})'
    up = tag('text', ylabel, x=12, y=middle, class_='middle label', transform=turned)
    return joined(across, up if ylabel else None)


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    return ' '.join(f'{x(a):.1f},{y(b):.1f}' for a, b in points)


def _line(each: Series, x: Scale, y: Scale) -> Html:
    """Returns a line; its points are marked if they are few."""
    points = thinned(each.points)
    color = f's{each.color % COLORS}'
    dashed = ' dashed' if each.dashed else ''
    line = tag('polyline', points=_path(points, x, y), class_=f'line {color}{dashed}')
    marks = []
    if len(points) <= 40:
        for a, b in points:
            text = f'{each.name}: {b:.6g} at {a:,g}'
            marks.append(
                tag('circle', tag('title', text), cx=x(a), cy=y(b), r=2.6, class_=f'mark {color}')
            )
    return joined(line, *marks)


def _band(each: Series, x: Scale, y: Scale) -> Html:
    upper = [(a, high) for a, _, high in each.band]
    lower = [(a, low) for a, low, _ in reversed(each.band)]
    points = _path([*upper, *lower], x, y)
    return tag('polygon', points=points, class_=f'band s{each.color % COLORS}')


def legend(series: Sequence[Series]) -> Html:
    """Returns the names of lines with their colors, and their last values."""
    items = []
    for each in series:
        key = tag('i', class_=f'key s{each.color % COLORS}{" dashed" if each.dashed else ""}')
        last = f' {each.points[-1][1]:.4g}' if each.points else ''
        items.append(tag('li', key, each.name, tag('b', last)))
    return tag('ul', *items, class_='legend')


@dataclasses.dataclass(frozen=True)
class Spread:
    """The results of a config over seeds.

    Attributes:
      name: of the config.
      values: the results.
      mean: their mean.
      low, high: the interval of the mean; None for one value.
    """

    name: str
    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None


def dots(title: str, spreads: Sequence[Spread], note: Any = None) -> Html:
    """Returns a chart with a row for each config: its values, their mean and its interval."""
    row, longest = 26, max(len(each.name) for each in spreads)
    left, height = min(7.5 * longest + 14, 200), row * len(spreads) + 40
    values = [v for each in spreads for v in each.values]
    room = 1.5 * (max(values) - min(values))
    ends = [end for each in spreads for end in (each.low, each.high) if end is not None]
    values += [min(max(end, min(values) - room), max(values) + room) for end in ends]
    x = padded(values, left, WIDTH - RIGHT)
    bottom, parts = height - 32, []
    for value in x.ticks:
        parts.append(tag('line', x1=x(value), x2=x(value), y1=6, y2=bottom, class_='grid'))
        parts.append(tag('text', number(value), x=x(value), y=bottom + 17, class_='middle'))
    most = int((left - 14) / 7.5)
    for i, each in enumerate(spreads):
        y, color = 6 + row * (i + 0.5), f's{i % COLORS}'
        name = each.name if len(each.name) <= most else f'{each.name[: most - 1]}…'
        parts.append(tag('text', tag('title', each.name), name, x=left - 8, y=y + 4, class_='end'))
        if each.low is not None and each.high is not None:
            span = {'x1': max(x(each.low), left), 'x2': min(x(each.high), float(WIDTH - RIGHT))}
            parts.append(tag('line', **span, y1=y, y2=y, class_=f'line {color}'))
        middle = {'x1': x(each.mean), 'x2': x(each.mean), 'y1': y - 8, 'y2': y + 8}
        parts.append(tag('line', **middle, class_=f'line {color}'))
        for value in each.values:
            text = tag('title', f'{each.name}: {value:.2f}')
            parts.append(tag('circle', text, cx=x(value), cy=y, r=4, class_=f'dot {color}'))
    chart = svg(*parts, width=WIDTH, height=height, title=title)
    return figure(title, chart, note=note)


def stacked(parts: Sequence[tuple[str, float, int]], title: str) -> Html:
    """Returns a bar of parts, each (name, size, color); those of size 0 are left out."""
    total = sum(size for _, size, _ in parts) or 1.0
    at, bars = 0.0, []
    for name, size, color in parts:
        width = 100 * size / total
        if width:
            label = tag('title', f'{name}: {width:.1f} %')
            bars.append(
                tag('rect', label, x=at, y=0, width=width, height=6, class_=f'fill s{color}')
            )
        at += width
    return tag(
        'svg',
        tag('title', title),
        *bars,
        viewBox='0 0 100 6',
        preserveAspectRatio='none',
        role='img',
        class_='bar',
    )


def calibration(bins: Sequence[dict[str, float]], images: int) -> Html:
    """Returns a reliability diagram: accuracy of the bins of confidence, and their images.

    Args:
      bins: those of `Tally.calibration`, in percent.
      images: the number of all images.
    """
    split, bottom = HEIGHT - BOTTOM - 46, HEIGHT - BOTTOM
    x = Scale(0, 100, LEFT, WIDTH - RIGHT)
    y = Scale(0, 100, split, TOP)
    below = Scale(0, max(each['images'] for each in bins), bottom, split + 10)
    parts = []
    for value in (0, 20, 40, 60, 80, 100):
        parts.append(
            tag('line', x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value), class_='grid')
        )
        parts.append(tag('text', value, x=LEFT - 6, y=y(value) + 4, class_='end'))
        parts.append(tag('text', value, x=x(value), y=bottom + 17, class_='middle'))
    for each in bins:
        left, width = x(each['above']) + 1, x(each['to']) - x(each['above']) - 2
        accuracy, confidence, count = each['accuracy'], each['confidence'], each['images']
        text = f'accuracy {accuracy:.1f} %, confidence {confidence:.1f} %, {count:,} images'
        low, high = sorted((accuracy, confidence))
        shape = {'x': left, 'width': width}
        bar = {'y': y(accuracy), 'height': split - y(accuracy), 'class_': 'fill s0'}
        gap = {'y': y(high), 'height': y(low) - y(high), 'class_': 'gap'}
        share = {'y': below(count), 'height': bottom - below(count), 'class_': 'fill muted'}
        title = tag('title', text)
        parts += [tag('rect', title, **shape, **kind) for kind in (bar, gap, share)]
    parts.append(tag('line', x1=x(0), y1=y(0), x2=x(100), y2=y(100), class_='diagonal'))
    parts.append(tag('line', x1=LEFT, x2=WIDTH - RIGHT, y1=split, y2=split, class_='axis'))
    parts.append(tag('line', x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_='axis'))
    parts.append(_labels('confidence (%)', 'accuracy (%)'))
    chart = svg(*parts, width=WIDTH, height=HEIGHT, title='calibration')
    note = (
        f'Blue: accuracy of the images in each bin of confidence. Red: its distance from the mean '
        f'confidence. Gray, below: the number of images, {images:,} in all.'
    )
    return figure('Accuracy by confidence', chart, note=note)
