"""The job of a search: to the end, killed, stopped, continued, and its mistakes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import table_of
from signalled import defaults

from cls.config import runs
from cls.errors import UserError
from cls.jobs import default_workdir
from cls.main import main
from cls.search import job

ROOT = Path(__file__).parents[2]
LONG = 800  # evaluations that take a while: each line is written to the disk


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    return table_of.write(tmp_path_factory.mktemp('tables') / 'macro.csv')


def command(table, workdir, evaluations=60):
    return [
        '--config=configs/search/amoebanet.py:macro',
        f'--config.search.table={table}',
        f'--config.search.evaluations={evaluations}',
        f'--workdir={workdir}',
    ]


def interrupted(table, workdir, number):
    """Sends a signal to a search in its own process; returns the process and its lines."""
    program = [sys.executable, '-m', 'cls.main', *command(table, workdir, LONG)]
    with (workdir.parent / 'log').open('w') as log:
        process = subprocess.Popen(
            program, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, preexec_fn=defaults
        )
    history = workdir / 'history.jsonl'
    while not history.exists() or history.read_bytes().count(b'\n') < LONG // 3:
        assert process.poll() is None, (workdir.parent / 'log').read_text()
        time.sleep(0.01)
    process.send_signal(number)
    process.wait()
    return process.returncode, history.read_bytes().count(b'\n')


@pytest.fixture(scope='module')
def whole(table, tmp_path_factory):
    """The history of a long undisturbed search."""
    workdir = tmp_path_factory.mktemp('whole') / 'run'
    assert main(command(table, workdir, LONG)) == 0
    return (workdir / 'history.jsonl').read_bytes()


@pytest.mark.parametrize(
    ('number', 'code'),
    [
        (signal.SIGKILL, -9),
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.sweep),
    ],
)
def test_the_same_command_ends_in_the_same_history(table, whole, tmp_path, number, code, capsys):
    workdir = tmp_path / 'run'
    found, lines = interrupted(table, workdir, number)
    assert found == code
    assert lines < 2 * LONG  # the search was not at its end
    assert not (workdir / 'result.json').exists()
    with (workdir / 'history.jsonl').open('a') as file:
        file.write('{"told": 1')  # as if killed during a write
    told = sum(
        'told' in json.loads(line)
        for line in (workdir / 'history.jsonl').open()
        if line[-1:] == '\n'
    )
    assert main(command(table, workdir, LONG)) == 0
    assert f'continuing after {told} of {LONG} evaluations\n' in capsys.readouterr().out
    assert (workdir / 'history.jsonl').read_bytes() == whole
    assert json.loads((workdir / 'result.json').read_text())['restarts'] == 1


def test_what_a_search_leaves_behind(table, tmp_path, capsys):
    workdir = tmp_path / 'run'
    assert main(command(table, workdir)) == 0
    printed = capsys.readouterr().out
    result = json.loads((workdir / 'result.json').read_text())
    events = [json.loads(line) for line in (workdir / 'history.jsonl').open()]
    told = [event for event in events if 'told' in event]
    assert [event['told'] for event in told] == [*range(60)]
    best = max(told, key=lambda event: event['fitness'])
    assert (result['trial'], result['fitness']) == (best['told'], best['fitness'])
    assert result['metrics'] == best['metrics']
    assert result['metrics']['truth'] == pytest.approx(table_of.truth(result['genotype']), abs=1e-4)
    assert result['genotype'] == ''.join(map(str, result['code']))
    assert (result['evaluations'], result['failed'], result['compile_seconds']) == (60, 0, 0)
    assert result['restarts'] == 0
    asked = [event for event in events if 'asked' in event]
    assert all(event['genotype'] == ''.join(map(str, event['code'])) for event in asked)
    codes = {tuple(event['code']) for event in asked}
    assert 2 < result['distinct'] <= len(codes)
    assert f'60/60 evaluations: best {best["fitness"]:.4f} (trial {best["told"]})' in printed
    for name in ('curve.png', 'cell.png'):
        assert (workdir / name).read_bytes().startswith(b'\x89PNG')
    assert not (workdir / 'genotype.json').exists()  # a name builds nothing
    again = io.StringIO()
    with contextlib.redirect_stdout(again):
        main(command(table, workdir))
    first, last = again.getvalue().splitlines(keepends=True)
    assert 'nothing was evaluated' in first
    assert last == printed.splitlines(keepends=True)[-1]


def test_random_search_takes_the_place_of_an_arm(table):
    config = table_of.configs.load(
        'configs/search/amoebanet.py:macro,random', [('search.table', str(table))]
    )
    assert config.search.searcher.to_dict() == {'name': 'random'}
    assert config.search.space.name == 'nasbench_macro'


def test_the_number_of_workers_is_no_other_search(table):
    spec = 'configs/search/amoebanet.py:macro'
    one, more, other = (
        default_workdir(spec, table_of.config(table, field))
        for field in (
            ('search.workers', '1'),
            ('search.workers', '7'),
            ('search.searcher.sample', '6'),
        )
    )
    assert one == more != other
    assert one.name.startswith('search-amoebanet-')


@pytest.mark.parametrize(
    ('field', 'said'),
    [
        (('search.table', ''), 'config.search.table is empty: .*columns arch, acc0, acc1, acc2'),
        (('search.table', 'none.csv'), "no table 'none.csv'.*columns arch, acc0.*README"),
        (('search.columns.truth', 'means'), 'no column means. Did you mean mean'),
        (('search.space.name', 'nasbench'), 'config.search.space.name .* Did you mean'),
        (('search.searcher.name', 'evolutoin'), 'config.search.searcher.name .*evolution'),
        (('search.objective.name', 'acc'), 'config.search.objective.name .*accuracy'),
        (('search.evaluator.name', 'tables'), 'config.search.evaluator.name .*table'),
        (('search.evaluator.name', 'train'), 'no proxy to train'),
        (('search.engine', 'process'), 'config.search.engine .*processes'),
        (('search.evaluations', '0'), 'config.search.evaluations is 0: expected a number in'),
        (('search.max_concurrent', '0'), 'config.search.max_concurrent is 0: expected a number in'),
        (('seed', '-1'), 'config.seed is -1'),
    ],
)
def test_mistakes_are_one_line(table, tmp_path, field, said):
    with pytest.raises(UserError, match=said) as error:
        job.job(table_of.config(table, field), tmp_path / 'run')
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run' / 'history.jsonl').exists()


def test_all_mistakes_are_reported_together(table, tmp_path):
    fields = [('search.objective.name', 'acuracy'), ('search.searcher.sample', '-3')]
    config = table_of.config(table, *fields, ('search.columns.truth', 'maen'))
    with pytest.raises(UserError) as error:
        job.job(config, tmp_path / 'run')
    expected = ('Did you mean accuracy', 'sample is -3', 'has no column maen')
    assert [part for part in expected if part not in str(error.value)] == []
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_another_search_is_left_alone(table, tmp_path):
    job.job(table_of.config(table), tmp_path / 'run')
    with pytest.raises(UserError, match='search.searcher.sample'):
        job.job(table_of.config(table, ('search.searcher.sample', '6')), tmp_path / 'run')
    with pytest.raises(UserError, match='of a search, which keeps no weights'):
        main(['--job=evaluate', f'--workdir={tmp_path / "run"}'])
    with pytest.raises(UserError, match='of a search, which keeps no weights'):
        main(['--job=evaluate', '--workdir', *[str(tmp_path / 'run')] * 2])


def test_several_processes_are_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr('jax.process_count', lambda: 2)
    with pytest.raises(UserError, match='a search is one process, not 2'):
        job.job(table_of.config(table), tmp_path / 'run')


def test_a_search_in_which_all_fails_says_why(table, tmp_path, monkeypatch):
    def fails(self, trial):
        raise ValueError('no such thing')

    monkeypatch.setattr('cls.search.evaluators.table.Table.__call__', fails)
    with pytest.raises(UserError, match='none of the 60 trials .*ValueError: no such thing'):
        job.job(table_of.config(table), tmp_path / 'run')
    lines = (tmp_path / 'run' / 'history.jsonl').read_text().splitlines()
    assert json.loads(lines[-1]) == {
        'told': 59,
        'fitness': None,
        'metrics': {'error': 'ValueError: no such thing'},
    }


def test_one_process_at_a_time(table, tmp_path):
    config = table_of.config(table)
    with (
        job.open_run(tmp_path / 'run', runs.run_config(config)),
        pytest.raises(UserError, match='another process is running'),
    ):
        job.job(config, tmp_path / 'run')
    assert os.listdir(tmp_path / 'run')


@pytest.mark.sweep
def test_trials_are_trained_and_the_best_can_be(tmp_path, capsys):
    workdir = tmp_path / 'run'
    arguments = [
        '--config=configs/search/amoebanet.py',
        '--config.search.evaluations=2',
        '--config.search.engine=local',
        '--config.search.searcher.population=2',
        '--config.search.space.nodes=1',
        '--config.proxy.duration=18 steps',
        '--config.proxy.schedule.warmup=100 percent',
        '--config.proxy.batch=64',
        f'--workdir={workdir}',
    ]
    assert main(arguments) == 0
    result = json.loads((workdir / 'result.json').read_text())
    assert result['fitness'] == result['metrics']['accuracy'] > 0.1
    assert result['metrics']['params'] > 0
    assert 0 < result['compile_seconds'] < result['seconds']
    assert (workdir / 'cell.png').read_bytes().startswith(b'\x89PNG')
    how = capsys.readouterr().out.splitlines()[-1].partition('--config ')[2].split()
    assert how[0] == 'configs/amoebanet.py'
    name, _, file = how[1].partition('=')
    assert name == '--config.model.genotype'
    model = table_of.configs.load(how[0], [('model.genotype', file)]).model
    assert model.genotype.to_dict() == table_of.configs._tuples(result['genotype'])
