"""Comparisons of runs: text, CSV, PNG, HTML, and the differing fields of configs."""

import csv
import html.parser
import io
import sys

import pytest
from test_runs import write_run, write_sweep

from cls.errors import UserError
from cls.experiments import compare, runs
from cls.experiments.report.comparison import learning_curves
from cls.tools import compare as tool

RESULTS = {
    ('0.1', 0): 92.39,
    ('0.1', 1): 93.80,
    ('0.1', 2): 79.44,
    ('0.2', 0): 94.0,
    ('0.2', 2): 90.0,
}


@pytest.fixture
def folders(tmp_path):
    return [
        write_run(tmp_path / f'{rate}-{seed}', top1, [('optim.lr', rate), ('seed', str(seed))])
        for (rate, seed), top1 in RESULTS.items()
    ]


def run(capsys, *arguments):
    assert tool.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_results_are_means_over_seeds_with_their_spread(folders, capsys):
    text = run(capsys, *folders)
    assert '| optim.lr=0.1 | 88.54 ± 7.92 (3 seeds) |' in text
    assert '| optim.lr=0.2 | 92.00 ± 2.83 (2 seeds) |' in text
    # Differences 1.61 and 10.56: 6.085 -+ 12.706 (t, one degree of freedom) x 6.3286 / sqrt(2).
    assert '(-50.78 to +62.95), p = 0.4, 2 shared seeds |' in text
    assert 'nothing can be said' not in text


def test_with_one_seed_it_says_that_nothing_can_be_said(folders, capsys):
    text = run(capsys, folders[0], folders[3])
    assert '| optim.lr=0.1 | 92.39 (1 seed) |' in text
    assert '+1.61 with one shared seed: nothing can be said' in text
    assert compare.NO_SPREAD in text


def test_many_differing_fields_are_a_table_of_their_own(tmp_path, capsys):
    fields = [('optim.lr', '0.2'), ('schedule.name', 'step'), ('schedule.milestones', '50 percent')]
    one = write_run(tmp_path / 'one', 90.0)
    other = write_run(tmp_path / 'other', 91.0, [*fields, ('optim.weight_decay', '0.25')])
    text = run(capsys, one, other)
    assert '| field | A | B |' in text
    assert '| optim.lr | 0.1 | 0.2 |' in text
    assert "| schedule.milestones | () | ('50 percent',) |" in text
    assert '| A | 90.00 (1 seed) |' in text
    assert 'optim.momentum' not in text


def test_a_sweep_and_its_unfinished_and_failed_trials(tmp_path, folders, capsys):
    write_run(tmp_path / 'killed', finished=False)
    trials = {f.name: {'optim.lr': '0.1', 'seed': '0'} for f in [*folders[:3], tmp_path / 'killed']}
    write_sweep(tmp_path, trials)
    assert '| optim.lr=0.1 | 88.54 ± 7.92 (3 seeds) |' in run(capsys, tmp_path)
    text = run(capsys, folders[0], tmp_path / 'killed')
    assert 'killed is not finished and does not count' in text
    with pytest.raises(UserError, match='no run is finished yet'):
        tool.main([str(tmp_path / 'killed')])


def test_the_csv_has_a_row_for_each_run(tmp_path, folders, capsys):
    run(capsys, *folders, '--csv', tmp_path / 'runs.csv')
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'runs.csv').read_text())))
    read = {(row['optim.lr'], int(row['seed'])): float(row['test/top1']) for row in rows}
    assert read == RESULTS


def test_curves_are_means_with_all_groups_on_one_axis(folders):
    comparison = compare.compare(runs.runs_of(folders))
    one, other = compare.curves(comparison, 'test/top1')
    assert one.steps.tolist() == [5, 10]
    assert one.values[:, 1].tolist() == [92.39, 93.80, 79.44]
    assert one.values[:, 0].tolist() == [82.39, 83.80, 69.44]
    assert other.label == 'optim.lr=0.2'
    assert compare.curve_metrics(comparison) == ['test/top1', 'train/loss']


class Page(html.parser.HTMLParser):
    """The cells of a page, and the files that it would load."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.loaded, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        references = [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]
        self.loaded += [value for value in references if not value.startswith(('#', 'data:'))]

    def handle_data(self, data):
        if self.open and self.open[-1] in ('td', 'th'):
            self.cells.append(data)


def test_the_page_and_the_picture_need_no_other_file(tmp_path, folders, capsys, monkeypatch):
    pytest.importorskip('matplotlib')
    run(capsys, *folders, '--png', tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)  # the page draws its curves itself
    run(capsys, *folders, '--html', tmp_path / 'a.html')
    text = (tmp_path / 'a.html').read_text()
    page = Page(text)
    assert '88.54 ± 7.92 (3 seeds)' in page.cells
    assert page.loaded == []
    comparison = compare.compare(runs.runs_of(folders))
    for chart in learning_curves(comparison):
        assert chart in text
    # Top-1 and the loss, of training and of the evaluations.
    assert text.count('<polyline') == 2 * 2 * len(comparison.groups)


def test_configs_are_compared_field_by_field(capsys):
    text = run(capsys, '--config', 'resnet:cifar10', '--config', 'resnet:cifar100')
    assert text.splitlines() == [
        '| field | resnet:cifar10 | resnet:cifar100 |',
        '| --- | --- | --- |',
        '| data.mean | (125.3, 123.0, 113.9) | (129.3, 124.1, 112.4) |',
        '| data.name | tfds:cifar10 | tfds:cifar100 |',
        '| data.std | (63.0, 62.1, 66.7) | (68.2, 65.4, 70.4) |',
    ]
    assert (
        run(capsys, '--config', 'resnet', '--config', 'resnet').strip() == 'the configs are equal'
    )


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'give run folders or sweep folders, or --config'),
        (['a', '--config', 'resnet'], 'give run folders or sweep folders, or --config'),
        (['--config', 'resnet'], 'expected two or more'),
        (['--config', 'resnet', '--config', 'vgg', '--csv', 'a.csv'], '--csv is for runs'),
        (['none'], 'no folder none'),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        tool.main(arguments)


def test_mistakes_are_found_before_anything_is_written(tmp_path, folders):
    runs_ = [str(folder) for folder in folders]
    with pytest.raises(UserError, match='no run has the metric .* Did you mean test/top1'):
        tool.main([*runs_, '--metric', 'test/top', '--csv', str(tmp_path / 'a.csv')])
    with pytest.raises(UserError, match='there is no folder'):
        tool.main(
            [*runs_, '--csv', str(tmp_path / 'a.csv'), '--png', str(tmp_path / 'x' / 'a.png')]
        )
    assert not (tmp_path / 'a.csv').exists()
