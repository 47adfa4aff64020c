"""The guard: ratios are compared with recorded ones, and the tables of README.md are written."""

import argparse
import functools
import json

import pytest

from cls.errors import UserError
from cls.tools import benchmark_growth, benchmark_record, markdown
from cls.tools.benchmark import main
from cls.tools.benchmark_record import TOLERANCE, finish, regressions

ABOUT = {
    'date': '2026-01-02',
    'machine': {'processor': 'A', 'threads': 2, 'memory_gib': 8},
    'versions': {'jax': '1', 'torch': '2'},
}


def row(train=1.0, infer=2.0, peak=0.5):
    ratios = {'train': train, 'infer': infer, 'peak': peak}
    return {key: {'ratio': ratio} for key, ratio in ratios.items()} | {'batch': 8, 'pixels': 32}


def flags(**chosen):
    return argparse.Namespace(**({'json': None, 'check': False, 'write': False} | chosen))


@pytest.fixture
def page(tmp_path, monkeypatch):
    page = tmp_path / 'README.md'
    page.write_text(
        'Before\n<!-- cls benchmark networks --write -->\n<!-- end of the table -->\nAfter\n'
    )
    monkeypatch.setattr(benchmark_record, 'PAGE', page)
    monkeypatch.setattr(benchmark_record, 'FILE', tmp_path / 'benchmark.json')
    return page


def written(**rows):
    return finish('networks', ABOUT | {'rows': rows}, flags(write=True))


def checked(**rows):
    return finish('networks', ABOUT | {'rows': rows}, flags(check=True))


def test_rows_are_recorded_and_shown_and_those_of_other_networks_stay(page):
    assert written(a=row(), b=row()) == 0
    assert written(b=row(train=0.75)) == 0
    text = page.read_text()
    assert '| `a` | 8 x 32 | 1.00 | 2.00 | 0.50 |  | 2026-01-02 |' in text
    assert '| `b` | 8 x 32 | 0.75 |' in text
    assert '2 cores of A, 8 GiB; jax 1, torch 2.' in text
    assert text.startswith('Before\n') and text.endswith('-->\nAfter\n')
    record = json.loads((page.parent / 'benchmark.json').read_text())
    assert record['networks']['b']['train'] == 0.75
    assert record['networks']['a']['date'] == '2026-01-02'


def test_equal_and_better_ratios_pass(page, capsys):
    written(a=row(), b=row())
    assert checked(a=row()) == 0
    assert checked(b=row(train=3.0, infer=9.0, peak=0.1)) == 0
    assert 'all ratios are within' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('worse', 'said'),
    [
        ({'train': 0.99 * (1 - TOLERANCE)}, 'b: the ratio of training was 1.00 and is 0.84'),
        ({'infer': 1.0}, 'b: the ratio of inference was 2.00 and is 1.00'),
        ({'peak': 0.7}, 'b: the ratio of peak memory was 0.50 and is 0.70'),
    ],
)
def test_a_worse_ratio_is_named_and_gives_code_1(page, worse, said, capsys):
    written(a=row(), b=row())
    assert checked(a=row(), b=row(**worse)) == 1
    assert capsys.readouterr().out == f'{said}\n'


def test_ratios_may_differ_by_the_tolerance():
    before = {'a': {'train': 1.0, 'peak': 1.0}}
    assert regressions(before, {'a': {'train': 0.86, 'peak': 1.14}}) == []
    assert len(regressions(before, {'a': {'train': 0.84, 'peak': 1.16}})) == 2


def test_a_network_without_a_record_is_refused(page):
    written(a=row())
    with pytest.raises(UserError, match='has no ratios of c: measure with --write first'):
        checked(a=row(), c=row())


@pytest.mark.parametrize('task', [*benchmark_record.RATIOS, 'growth'])
def test_the_readme_has_the_recorded_ratios(task):
    text = benchmark_record.PAGE.read_text()
    inner = text.partition(f'<!-- cls benchmark {task} --write -->')[2]
    inner = inner.partition(markdown.END)[0].strip()
    rows = benchmark_record._read().get(task, {})
    made = functools.partial(benchmark_record.table, task)
    made = benchmark_growth.table if task == 'growth' else made
    assert inner == (made(rows) if rows else '')


def test_a_page_that_cannot_be_renewed_leaves_the_record(page):
    written(a=row())
    before = benchmark_record.FILE.read_text()
    page.write_text('without marks\n')
    with pytest.raises(UserError, match='expected the marks'):
        written(b=row())
    assert benchmark_record.FILE.read_text() == before


def test_a_page_without_marks_is_refused_before_the_measurement(page):
    page.write_text('without marks\n')
    with pytest.raises(UserError, match='expected the marks'):
        main(['networks', 'resnet50', '--torch', '/absent', '--write'])


@pytest.mark.parametrize(
    'text', ['', '{', '[]', '{"networks": null}', '{"networks": {"a": {}}}', '{"a": {"b": 3}}']
)
def test_a_damaged_record_is_one_line(page, text):
    benchmark_record.FILE.write_text(text)
    with pytest.raises(UserError, match='is damaged: restore it') as error:
        checked(a=row())
    assert '\n' not in str(error.value)
    assert benchmark_record.FILE.read_text() == text


def test_only_the_same_measurement_is_compared(page, capsys):
    written(a=row())
    with pytest.raises(UserError, match='a is recorded with 8 x 32, and this is 1 x 32'):
        checked(a=row() | {'batch': 1})
    less = {key: value for key, value in row().items() if key != 'infer'}
    with pytest.raises(UserError, match='a: the ratio of inference is recorded and was not'):
        checked(a=less)
    with pytest.raises(UserError, match='a: the ratio of inference is not recorded'):
        regressions({'a': {'train': 1.0}}, {'a': {'train': 1.0, 'infer': 1.0}})
    other = ABOUT | {'machine': ABOUT['machine'] | {'threads': 64}, 'rows': {'a': row()}}
    assert finish('networks', other, flags(check=True)) == 0
    assert 'recorded on 2 cores of A, 8 GiB, and this is 64 cores of A' in capsys.readouterr().out


def test_the_host_s_memory_is_no_ratio_of_a_gpu(page):
    page.write_text('<!-- cls benchmark gpu --write -->\n<!-- end of the table -->\n')
    gpu = {key: row()[key] for key in ('train', 'peak', 'batch', 'pixels')} | {'device': 'G'}
    finish('gpu', ABOUT | {'rows': {'a': gpu}}, flags(write=True))
    more = gpu | {'peak': {'ratio': 9.0}}
    assert finish('gpu', ABOUT | {'rows': {'a': more}}, flags(check=True)) == 0


def test_a_loop_that_is_slower_than_its_step_is_named(page, capsys):
    page.write_text('<!-- cls benchmark loop --write -->\n<!-- end of the table -->\n')

    def loop(of_bare, **flag):
        rows = {'a': {'ratio': 1.0, 'of_bare': {'ratio': of_bare}}}
        return finish('loop', ABOUT | {'rows': rows}, flags(**flag))

    assert loop(1.0, write=True) == 0
    assert loop(0.9, check=True) == 0
    assert loop(0.5, check=True) == 1
    assert 'a: the ratio of loop / bare step was 1.00 and is 0.50' in capsys.readouterr().out
