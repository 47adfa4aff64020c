"""The report of searches: of a table over seeds, and of run folders."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cls.errors import UserError
from cls.tools import search_report

sys.path.insert(0, str(Path(__file__).parents[1] / 'search'))
import table_of  # noqa: E402

SPEC = 'configs/search/amoebanet.py:macro'


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    return table_of.write(tmp_path_factory.mktemp('tables') / 'macro.csv')


def test_the_best_so_far_is_by_fitness_and_scored_by_truth():
    nan, failed = np.nan, -np.inf
    told = [(failed, nan), (1.0, 5.0), (0.5, 9.0), (1.0, 7.0), (2.0, 3.0)]
    curve = search_report.so_far(told, 7)
    np.testing.assert_array_equal(curve, [nan, 5, 5, 5, 3, 3, 3])
    assert np.isnan(search_report.so_far([], 2)).all()


def test_numbers_are_of_differences_seed_by_seed():
    rng = np.random.default_rng(0)
    random, more = rng.normal(size=(12, 1)), rng.normal(0.5, size=(12, 1))
    more[3] = random[3]
    n = search_report.numbers_of(search_report.Curves('a', more, random))
    d = (more - random)[:, 0]
    assert n['difference'] == pytest.approx(d.sum() / 12)
    assert n['standard_error'] == pytest.approx(np.sqrt(((d - d.mean()) ** 2).sum() / 11 / 12))
    assert n['better'] == pytest.approx((d > 0).sum() / 12)
    assert n['equal'] == pytest.approx(1 / 12)
    assert n['p'] == pytest.approx(stats.wilcoxon(more[:, 0], random[:, 0]).pvalue)
    assert search_report.numbers_of(search_report.Curves('a', more, more))['p'] == 1.0


def test_a_search_is_as_its_job_has_it(table, tmp_path):
    """A seed in memory against the history that cls.main writes."""
    from cls.search import job

    job.job(table_of.config(table, ('seed', '4')), tmp_path / 'run')
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'history.jsonl').open()]
    told = [line for line in lines if 'told' in line]
    best = np.maximum.accumulate([line['fitness'] for line in told])
    where = [next(i for i, line in enumerate(told) if line['fitness'] == b) for b in best]
    truths = [told[i]['metrics']['truth'] for i in where]
    np.testing.assert_array_equal(search_report.one(table_of.config(table), 4), truths)


@pytest.mark.sweep
def test_configs_beside_random_search(table, tmp_path, capsys):
    arguments = ['--config', SPEC, SPEC.replace('macro', 'macro,random'), '--seeds', '7']
    arguments += [f'--config.search.table={table}', '--config.search.evaluations=120']
    arguments += ['--json', str(tmp_path / 'r.json'), '--plot', str(tmp_path / 'r.png')]
    assert search_report.main(arguments) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split(' | ')[1:4] == ['@50', '@100', '@120']
    assert [row.split(' | ')[0] for row in rows] == [
        '| random, as amoebanet:macro',
        '| amoebanet:macro',
        '| amoebanet:macro,random',
    ]
    evolution, random = json.loads((tmp_path / 'r.json').read_text())
    assert len(evolution['last']) == 7
    assert evolution['random_last'] == random['random_last'] == random['last']
    assert random['equal'] == 1.0
    config = search_report.load(
        SPEC, ((('search.table', str(table))), ('search.evaluations', '120')), False
    )
    assert evolution['last'][6] == search_report.one(config, 6)[-1]
    assert (tmp_path / 'r.png').read_bytes().startswith(b'\x89PNG')


def test_run_folders(tmp_path, capsys):
    told = [
        {'asked': 0, 'code': [0], 'parents': []},
        {'told': 0, 'fitness': 0.5, 'metrics': {'seconds': 3.0, 'compile_seconds': 2.0}},
        {'told': 1, 'fitness': None, 'metrics': {'error': 'ValueError: no'}},
        {'told': 2, 'fitness': 0.75, 'metrics': {'seconds': 5.0, 'compile_seconds': 4.0}},
    ]
    text = ''.join(json.dumps(event) + '\n' for event in told) + '{"told": 3'
    (tmp_path / 'history.jsonl').write_text(text)
    assert search_report.main([str(tmp_path), '--plot', str(tmp_path / 'r.png')]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header == '| run | @3 | failed | seconds of evaluations | compiling |'
    assert row == f'| {tmp_path.name} | 0.7500 | 1 | 8 | 75% |'
    assert (tmp_path / 'history.jsonl').read_text() == text  # it may be growing
    with pytest.raises(UserError, match='no run folder of a search'):
        search_report.main([str(tmp_path / 'nowhere')])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'give --config'),
        (['--config', SPEC, '--seeds', '1'], '--seeds is 1'),
        (['--config', SPEC], 'config.search.table is empty'),
        (['--config', 'configs/resnet.py'], 'is no search by a table'),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        search_report.main(arguments)
