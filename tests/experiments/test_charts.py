"""Charts and HTML: their numbers are at the right places, and all text is escaped."""

import base64
import math
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from cls.experiments.report import charts, images, matrix, scales
from cls.experiments.report.charts import Series, Spread
from cls.experiments.report.html import Html, details, pairs, table, tag, text

RNG = np.random.default_rng(2)


def parsed(html):
    """Returns the elements of HTML that is XML too, as that of charts is."""
    return ElementTree.fromstring(f'<div>{html}</div>')


def test_every_text_is_escaped_and_html_is_not():
    evil = '<b onclick="x">&'
    element = parsed(tag('p', evil, tag('i', evil), title=evil))[0]
    assert (element.text, element[0].text, element.get('title')) == (evil, evil, evil)
    assert str(text(Html('<b>'))) == '<b>'
    for made in (table([evil], [[evil]]), pairs([(evil, evil)]), details(evil, evil)):
        assert '<b' not in made.replace('<body', '')
        assert ''.join(parsed(made).itertext()).count(evil) == 2


def test_characters_that_no_page_can_have_are_replaced():
    assert text('a\x00b\udcffc\nd') == 'a�b�c\nd'
    text('a\udcff').encode()


def test_attributes_are_named_as_in_html():
    made = tag('details', open_=True, class_='a', data_kind=3, title=None, hidden=False)
    assert made == '<details open class="a" data-kind="3"></details>'
    assert tag('img', width=1 / 3) == '<img width="0.33">'


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.03, 0.31, [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (64000, 128000, [80000, 100000, 120000]),
    ],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert scales.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize('seed', range(20))
def test_any_scale_has_ticks_inside(seed):
    rng = np.random.default_rng(seed)
    low = 10.0 ** rng.uniform(-6, 6)
    high = low * (1 + 10.0 ** rng.uniform(-3, 4))
    for log in (False, True):
        scale = scales.padded([low, high], 0, 100, log)
        assert 1 <= len(scale.ticks) <= 12
        for value in scale.ticks:
            assert -1e-6 <= scale(value) <= 100 + 1e-6
        assert 0 <= scale(low) < scale(high) <= 100


def test_a_logarithmic_scale_is_linear_in_powers():
    scale = scales.Scale(0.01, 100, 0, 400, log=True)
    assert [scale(10.0**e) for e in range(-2, 3)] == pytest.approx([0, 100, 200, 300, 400])
    assert scales.wants_log([0.01, 2]) and not scales.wants_log([0.1, 2])
    assert not scales.wants_log([0, 1000])


def test_numbers_and_times_are_short():
    shown = [scales.number(x) for x in (0, 0.05, 1e-6, 500, 12000, 3.5e6, 2e9)]
    assert shown == ['0', '0.05', '1e-6', '500', '12k', '3.5M', '2G']
    times = [scales.duration(x) for x in (0.31, 59.9, 250, 3600, 12000, 180000)]
    assert times == ['0.3 s', '59.9 s', '4 min 10 s', '1 h', '3 h 20 min', '2 d 2 h']


def test_thinned_lines_keep_their_ends_and_extremes():
    points = list(enumerate(RNG.normal(size=10_000).tolist()))
    thin = scales.thinned(points)
    assert len(thin) <= 400
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert max(y for _, y in thin) == max(y for _, y in points)
    assert min(y for _, y in thin) == min(y for _, y in points)
    assert scales.thinned(points[:400]) == points[:400]


def test_a_line_goes_through_its_points_and_ticks():
    points = [(0, 0.0), (50, 60.0), (100, 100.0)]
    root = parsed(charts.lines('t', [Series('a', points), Series('b', [(100, 40.0)], 1)]))
    marks = [(float(c.get('cx')), float(c.get('cy'))) for c in root.iter('circle')]
    left, middle, right, other = marks
    assert (left[0], right[0]) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert middle[0] == (left[0] + right[0]) / 2
    assert (left[1] - middle[1]) / (left[1] - right[1]) == pytest.approx(0.6, abs=0.01)
    texts = {t.text: t for t in root.iter('text')}
    at = float(texts['100'].get('y')) - 4  # of the vertical axis or the horizontal one
    assert at == pytest.approx(right[1], abs=0.1) or float(texts['100'].get('x')) == right[0]
    assert [li[0].tail for li in root.iter('li')] == ['a', 'b']
    assert other[0] == right[0]


def test_a_chart_takes_one_point_and_equal_values():
    for points in ([(7, 3.0)], [(1, 0.0), (2, 0.0)], [(1, -5.0), (2, -5.0)]):
        text = charts.lines('t', [Series('a', points)])
        assert 'nan' not in text and 'inf' not in text
        assert len(list(parsed(text).iter('circle'))) == len(points)


def test_the_parts_of_a_bar_sum_to_its_width():
    root = parsed(charts.stacked([('a', 1.0, 0), ('b', 0.0, 1), ('c', 3.0, 2)], 't'))
    bars = [(float(r.get('x')), float(r.get('width'))) for r in root.iter('rect')]
    assert bars == [(0, 25), (25, 75)]


def test_calibration_bars_have_the_heights_of_their_numbers():
    bins = [
        {'above': 0.0, 'to': 50.0, 'images': 3, 'accuracy': 20.0, 'confidence': 40.0},
        {'above': 50.0, 'to': 100.0, 'images': 6, 'accuracy': 90.0, 'confidence': 80.0},
    ]
    root = parsed(charts.calibration(bins, 9))
    rects = {kind: [] for kind in ('fill s0', 'gap', 'fill muted')}
    for rect in root.iter('rect'):
        rects[rect.get('class')].append(float(rect.get('height')))
    first, second = rects['fill s0']
    assert second / first == pytest.approx(4.5, rel=0.01)
    assert rects['gap'][0] / first == pytest.approx(1, rel=0.01)  # 20 of 20 points
    assert rects['gap'][1] / first == pytest.approx(0.5, rel=0.01)
    assert rects['fill muted'][1] / rects['fill muted'][0] == pytest.approx(2, rel=0.01)


def test_intervals_far_beyond_the_seeds_are_cut_at_the_axis():
    spreads = [Spread('a', [90.0, 91.0], 90.5, 84.1, 96.9), Spread('b', [92.0], 92.0, None, None)]
    root = parsed(charts.dots('t', spreads))
    assert len(list(root.iter('circle'))) == 3
    lines = [e for e in root.iter('line') if e.get('class', '').startswith('line')]
    assert len(lines) == 3
    for line in lines:
        assert all(0 <= float(line.get(end)) <= charts.WIDTH for end in ('x1', 'x2'))


def confusion(dense, names=None):
    rows, columns = np.nonzero(dense)
    names = names or [f'c{i}' for i in range(len(dense))]
    return matrix.Confusion(rows, columns, dense[rows, columns], names)


def test_the_matrix_has_the_number_of_each_pair():
    dense = np.array([[5, 2, 0], [0, 7, 0], [1, 0, 3]])
    root = parsed(matrix.chart(confusion(dense)))
    numbers = [e.text for e in root.iter('text') if 'number' in e.get('class', '')]
    assert numbers == ['5', '2', '7', '1', '3']
    titles = [e.text for e in root.iter('title')]
    assert 'c0 predicted as c1: 2 (28.6 %)' in titles
    assert confusion(dense).mistakes() == [(0, 1, 2), (2, 0, 1)]


def test_of_many_classes_those_of_the_most_frequent_mistakes_are_shown():
    dense = np.diag(np.full(100, 50))
    for i in range(40):
        dense[2 * i, 2 * i + 1] = 40 - i
    found = confusion(dense)
    assert found.shown() == list(range(matrix.MOST))
    chart = matrix.chart(found)
    assert '30 of 100 classes' in chart
    assert len(re.findall(r'>50</text>', chart)) == 30
    assert matrix.chart(confusion(np.diag(np.full(100, 50)))).startswith('<p>No image')


@pytest.mark.parametrize(('size', 'kind'), [(8, 'png'), (96, 'jpeg')])
@pytest.mark.parametrize('channels', [1, 3, 5])
def test_images_are_in_the_page(size, kind, channels):
    pixels = np.broadcast_to(RNG.integers(256, size=(1, 1, channels)), (size, size, channels))
    pixels = pixels.astype(np.uint8)
    made = images.embedded(pixels, 'x')
    content = base64.b64decode(re.search(rf'data:image/{kind};base64,([^"]+)', made)[1])
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    read = read[..., ::-1] if channels == 3 else read[..., None]
    shown = pixels if channels == 3 else pixels[..., :1]
    assert np.abs(read.astype(int) - shown).max() <= (0 if kind == 'png' else 4)
    assert not math.isnan(read.mean())
