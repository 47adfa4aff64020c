"""Comparisons, reports and searches of runs whose images have several labels: by mAP."""

import json

from test_report import Page
from test_runs import write_run

from cls.experiments import compare, runs, study
from cls.experiments.report import class_sections, data, sections
from cls.experiments.report.comparison import best
from cls.experiments.report.html import joined


def write(folder, average, top1, seed=0):
    """Writes the folder of a run with that mAP and top-1."""
    write_run(folder, top1, [('seed', str(seed))])
    for name in ('result.json', 'metrics.jsonl'):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        lines = [line | {'test/map': average} if 'test/top1' in line else line for line in lines]
        (folder / name).write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return runs.read_run(folder)


def test_runs_are_compared_by_average_precision(tmp_path):
    both = [write(tmp_path / 'a', 70.0, 90.0), write(tmp_path / 'b', 80.0, 85.0, seed=1)]
    comparison = compare.compare(both)
    assert compare.chosen_metrics(comparison) == ['test/map']
    assert compare.curve_metrics(comparison) == ['test/map', 'train/loss']
    assert best(comparison) == (both[1], 'test/map')
    assert [study.score(run.result or {}, 'test') for run in both] == [70.0, 80.0]
    assert study.evaluations(tmp_path / 'a', 'test') == [70.0, 70.0]


def test_a_report_has_the_average_precision_of_each_class(tmp_path):
    run = write(tmp_path / 'run', 62.5, 90.0)
    each = {'zero': 75.0, 'one': 50.0, 'two': None}
    values = {'test/top1': 90.0, 'test/top5': 100.0, 'test/loss': 0.5, 'test/map': 62.5}
    values |= {'test/average_precision': each, 'test/images': 20, 'step': 10}
    (tmp_path / 'run' / 'evaluation.json').write_text(json.dumps(values))
    found = data._read(tmp_path / 'run', 'evaluation')
    assert found is not None and found.confusion is None
    page = Page(str(joined(*class_sections.classes(found))))
    assert page.rows[1:] == [['two', '–'], ['one', '50.00'], ['zero', '75.00']]
    details = data.Details(run, {}, 10, 20, (), found, (), ())
    titles = [title for title, _ in sections.of_run(details, None)]
    assert 'Classes' in titles and not {'Calibration', 'Mistakes'} & {*titles}
    results = Page(str(joined(*sections.results(details))))
    assert results.rows == [
        ['weights', 'mAP %', 'top-1 %', 'top-5 %', 'loss'],
        ['test', '62.50', '90.00', '100.00', '0.5000'],
    ]
    assert '62.50 %' in str(sections.header(details))
