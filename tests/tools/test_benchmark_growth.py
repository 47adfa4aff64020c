"""The measurement of growth: its arithmetic on a stand-in, and the works at their smallest."""

import dataclasses
import json

import pytest

from cls.errors import UserError
from cls.tools import benchmark_growth, benchmark_record, growth_case
from cls.tools.benchmark import main

# Takes a time that is quadratic in its size, memory that is proportional to it, and more memory for
# its preparation.
SIDE = """
import sys

size = int(sys.argv[2])
data = bytearray(2**28)
del data
print('ready {}', flush=True)
for line in sys.stdin:
    data = bytearray(2**20 * size)
    print(size**2, flush=True)
"""


def test_the_exponents_of_a_quadratic_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_growth, 'SERVE', SIDE)
    report, page = tmp_path / 'report.json', tmp_path / 'README.md'
    page.write_text(
        '# Growth\n\n<!-- cls benchmark growth --write -->\n<!-- end of the table -->\n'
    )
    monkeypatch.setattr(benchmark_record, 'FILE', tmp_path / 'benchmark.json')
    monkeypatch.setattr(benchmark_record, 'PAGE', page)
    small = dataclasses.replace(benchmark_growth.CASES['images'], base=2)
    monkeypatch.setitem(benchmark_growth.CASES, 'images', small)
    assert main(['growth', 'images', f'--json={report}', '--write']) == 0
    assert 'exponents: time 2.00, memory ' in capsys.readouterr().out
    rows = json.loads(report.read_text())['rows']['images']
    assert [row['size'] for row in rows] == [2, 20, 200]
    assert [row['seconds'] for row in rows] == [4, 400, 40_000]
    assert benchmark_growth.exponent(rows[0], rows[2], 'seconds') == pytest.approx(2)
    assert rows[2]['bytes'] == pytest.approx(200 * 2**20, rel=0.05)
    row = '| `images`: open a folder of images | 2 / 20 / 200 | 4 / 4e+02 / 4e+04 | '
    assert row in page.read_text()
    assert ' | 2.00 / 1.' in page.read_text()
    assert ' | exponent 1.2 | missed: 2 exponent | ' in page.read_text()


LARGER = {
    'evaluated': 1,
    'depth': 1,
    'weights': 684_000,
    'resumed': 684_000,
    'imported': 1_250_000,
    'views': 12,
}


@pytest.mark.parametrize('name', sorted(benchmark_growth.CASES.keys() - LARGER.keys()))
def test_a_work_can_be_repeated(name, tmp_path):
    work = benchmark_growth.CASES[name].prepare(10, tmp_path)
    work()
    work()


@pytest.mark.sweep
@pytest.mark.parametrize(('name', 'size'), LARGER.items())
def test_a_larger_work_can_be_repeated(name, size, tmp_path):
    work = benchmark_growth.CASES[name].prepare(size, tmp_path)
    work()
    work()


def test_a_target_names_each_limit_that_is_exceeded():
    target = growth_case.Target(exponent=1.2, seconds=2, mib=1, each=3)
    assert str(target) == 'exponent 1.2, 2 s, 1 MiB, 3 bytes each'
    assert target.missed(2**19, 2.0, 2**20, 1.2) == ''
    assert (
        target.missed(100, 2.5, 2**21, 1.3)
        == '1.3 exponent, 2.5 seconds, 2 MiB, 2.1e+04 bytes each'
    )
    assert growth_case.Target(exponent=0, each=5).missed(1, 1e9, 4, 9.0) == ''


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['image'], "'image': expected images, "),
        (['--base=-1'], 'base is -1: expected'),
        (['--base=1', 'workers'], 'base is 1: expected 10 or more'),
        (['--base=20', 'views', 'images'], 'the sizes of views are fixed'),
        (['--base=20', 'images', '--write'], 'not for --write'),
        (['--json=/absent/file', 'images'], 'there is no folder /absent'),
    ],
)
def test_mistaken_arguments(arguments, said):
    with pytest.raises(UserError, match=said):
        main(['growth', *arguments])


def test_exponents_of_short_times_are_of_what_was_measured(monkeypatch):
    monkeypatch.setattr(benchmark_growth, 'SERVE', SIDE.replace('size**2', 'size * 4.1e-6'))
    rows = benchmark_growth.measure('images', 2)
    assert benchmark_growth.exponents(rows)[0] == '1.00'
