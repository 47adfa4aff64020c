"""The report of searches: in tables over seeds, and in run folders."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cls.errors import UserError
from cls.search import comparison
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
    curve = comparison.so_far(told, 7)
    np.testing.assert_array_equal(curve, [nan, 5, 5, 5, 3, 3, 3])
    assert np.isnan(comparison.so_far([], 2)).all()


def test_numbers_are_of_differences_seed_by_seed():
    rng = np.random.default_rng(0)
    random, more = rng.normal(size=(12, 1)), rng.normal(0.5, size=(12, 1))
    more[3] = random[3]
    n = comparison.numbers_of(comparison.Curves('a', more, random))
    d = (more - random)[:, 0]
    assert n['difference'] == pytest.approx(d.sum() / 12)
    assert n['standard_error'] == pytest.approx(np.sqrt(((d - d.mean()) ** 2).sum() / 11 / 12))
    assert n['better'] == pytest.approx((d > 0).sum() / 12)
    assert n['equal'] == pytest.approx(1 / 12)
    assert n['p'] == pytest.approx(stats.wilcoxon(more[:, 0], random[:, 0]).pvalue)
    assert comparison.numbers_of(comparison.Curves('a', more, more))['p'] == 1.0


def test_a_search_in_memory_equals_its_job(table, tmp_path):
    """The history of a search in memory is the one that the job writes."""
    from cls.search import job

    job.job(table_of.config(table, ('seed', '4')), tmp_path / 'run')
    lines = [json.loads(line) for line in (tmp_path / 'run' / 'history.jsonl').open()]
    told = [line for line in lines if 'told' in line]
    best = np.maximum.accumulate([line['fitness'] for line in told])
    where = [next(i for i, line in enumerate(told) if line['fitness'] == b) for b in best]
    truths = [told[i]['metrics']['truth'] for i in where]
    np.testing.assert_array_equal(comparison.best_of_search(table_of.config(table), 4), truths)


@pytest.mark.sweep
def test_configs_against_random_search(table, tmp_path, capsys):
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
    config = comparison.load(
        SPEC, ((('search.table', str(table))), ('search.evaluations', '120')), False
    )
    assert evolution['last'][6] == comparison.best_of_search(config, 6)[-1]
    assert (tmp_path / 'r.png').read_bytes().startswith(b'\x89PNG')


FRONTS = 'configs/search/proxylessnas.py:mnasnet_table'


@pytest.fixture(scope='module')
def latencies(tmp_path_factory):
    """A sample whose accuracies and latencies grow with expansions and windows."""
    rng = np.random.default_rng(0)
    lines = ['e,k,l,se,val_top1,latency_vck190']
    for _ in range(60):
        e, k, n = rng.choice((1, 4, 6), 7), rng.choice((3, 5), 7), rng.integers(1, 4, 7)
        digits = [''.join(map(str, row)) for row in (e, k, n, rng.integers(0, 2, 7))]
        accuracy, latency = 40 + e.sum() ** 0.5 + 2 * n.sum() ** 0.5, (e * n * k).sum() / 40
        lines.append(','.join([*digits, f'{accuracy:.4f}', f'{latency:.4f}']))
    file = tmp_path_factory.mktemp('tables') / 'latencies.csv'
    file.write_text('\n'.join(lines) + '\n')
    return file


def of_latencies(file, spec=FRONTS):
    return comparison.load(
        spec, (('search.table', str(file)), ('search.evaluations', '30')), False
    ).copy_and_resolve_references()


def test_a_front_is_of_all_exponents(latencies):
    config, metrics = of_latencies(latencies), []
    for exponent in (-0.05, -0.5):
        config.search.objective.alpha = config.search.objective.beta = exponent
        metrics += [r.metrics for r in comparison.results_of(config, 3)]
    assert len(metrics) == 60
    pairs = {(m['latency'], m['accuracy']) for m in metrics}
    best = {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in pairs)}
    found = comparison.front_of(of_latencies(latencies), 3, (-0.05, -0.5))
    assert {*map(tuple, found)} == best

    random = of_latencies(latencies, FRONTS + ',random')
    found = comparison.front_of(random, 3, (-0.05, -0.5))
    random.search.evaluations = 60
    pairs = {
        (r.metrics['latency'], r.metrics['accuracy']) for r in comparison.results_of(random, 3)
    }
    best = {p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in pairs)}
    assert {*map(tuple, found)} == best


def test_areas_are_between_the_same_corners():
    one = [np.array([[1.0, 10.0], [4.0, 12.0]]), np.array([[2.0, 11.0], [8.0, 13.0]])]
    other = [np.array([[2.0, 10.0]]), np.array([[4.0, 14.0]])]
    (n,) = comparison.front_numbers([comparison.Fronts('a', 4.0, one, other)])
    # From cost 1 to 8 over a floor of 10: doublings 1 to 2, 2 to 4, 4 to 8.
    assert n['last'] == pytest.approx([2.0, 2.0])
    assert n['random_last'] == pytest.approx([0.0, 4.0])
    assert n['at'] == pytest.approx([10.5, 10.5, 11.5, 11.5, 12.5])  # at 2, 3, 4, 6, 8
    assert n['random_at'] == [None, None, 12.0, 12.0, 12.0]
    rows = comparison.fronts_table([n])
    assert rows[1] == ['random, as a', '-', '-', *['12.000'] * 3, '2.000', '', '', '']
    assert rows[2][:7] == ['a', '10.500', '10.500', '11.500', '11.500', '12.500', '2.000']
    assert rows[2][7:9] == ['+0.000 ± 2.000', '50% (0%)']


@pytest.mark.sweep
def test_fronts_of_configs_against_random_search(latencies, tmp_path, capsys):
    arguments = ['--config', FRONTS, FRONTS + ',random', '--seeds', '6', '--fronts', '-.05', '-.5']
    arguments += [f'--config.search.table={latencies}', '--config.search.evaluations=30']
    arguments += ['--json', str(tmp_path / 'f.json'), '--plot', str(tmp_path / 'f.png')]
    assert search_report.main(arguments) == 0
    rows = [row.split(' | ')[0] for row in capsys.readouterr().out.splitlines()]
    names = ['search', 'random, as proxylessnas:mnasnet_table']
    names += [f'proxylessnas:mnasnet_table{more}' for more in ('', ',random')]
    assert [rows[0], *rows[2:]] == [f'| {name}' for name in names]
    ours, random = json.loads((tmp_path / 'f.json').read_text())
    assert len(ours['last']) == 6
    assert random['last'] == random['random_last'] == ours['random_last'] != ours['last']
    assert (tmp_path / 'f.png').read_bytes().startswith(b'\x89PNG')


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
    names = 'run | evaluations | best | failed | seconds of evaluations | compiling'
    assert header == f'| {names} |'
    assert row == f'| {tmp_path.name} | 3 | 0.7500 | 1 | 8 | 75% |'
    assert (tmp_path / 'history.jsonl').read_text() == text  # a search may still write
    with pytest.raises(UserError, match='not the run folder of a search'):
        search_report.main([str(tmp_path / 'nowhere')])
    (tmp_path / 'history.jsonl').write_text('')
    with pytest.raises(UserError, match='no evaluations yet'):
        search_report.main([str(tmp_path)])


def supernet_run(folder, seed, truth, skips, kind='validation'):
    folder.mkdir()
    config = {'seed': seed, 'search': {'supernet': {'name': 'darts'}}}
    (folder / 'config.json').write_text(json.dumps(config))
    result = {'genotype': '013033', 'truth': truth, 'truth_best': 94.5, f'{kind}/top1': 40.0}
    (folder / 'result.json').write_text(json.dumps(result | {'seconds': 12.3}))
    lines = [
        {'step': 5, 'train/alpha_entropy': 1.6, 'train/none': 0.2, 'train/skips_normal': 0.0},
        {'step': 5, f'{kind}/top1': 30.0},
        {'step': 9, 'train/alpha_entropy': 0.8, 'train/none': 0.5, 'train/skips_normal': skips},
        {'step': 9, f'{kind}/top1': 40.0},
    ]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(folder)


def test_folders_of_supernets(tmp_path, capsys):
    runs = [
        supernet_run(tmp_path / name, *more)
        for name, *more in (
            ('a', 3, 90, 1),
            ('b', 4, 92, 2, 'test'),  # as in older run folders
        )
    ]
    assert search_report.main([*runs, '--plot', str(tmp_path / 'r.png')]) == 0
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:5] == ['run', 'seed', 'derived', 'truth', 'best of the table']
    assert ' '.join(rows[2]) == 'a 3 013033 90.00 94.50 40.00 1 0.500 0.800 12'
    assert rows[4][0] == 'mean of 2'
    assert rows[4][3:7] == ['91.00 ± 1.41', '', '40.00 ± 0.00', '1.5 ± 0.7']
    (tmp_path / 'history.jsonl').write_text('')
    with pytest.raises(UserError, match='one kind of runs'):
        search_report.main([*runs, str(tmp_path)])
    (tmp_path / 'b' / 'result.json').unlink()
    with pytest.raises(UserError, match='expected a finished run'):
        search_report.main(runs)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'give --config'),
        (['--config', SPEC, '--seeds', '1'], '--seeds is 1'),
        (['--config', SPEC], 'config.search.table is empty'),
        (['--config', 'configs/resnet.py'], 'is not a search by a table'),
        (['folder', '--fronts', '-0.1'], '--fronts is for --config'),
        (
            ['--fronts', '-0.1', '--config', SPEC, '--config.search.table=TABLE'],
            'objective accuracy',
        ),
    ],
)
def test_mistakes_are_one_line(arguments, said, table):
    with pytest.raises(UserError, match=said):
        search_report.main([argument.replace('TABLE', str(table)) for argument in arguments])
