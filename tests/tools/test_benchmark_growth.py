"""The measurement of growth: its arithmetic on a stand-in, and the works at their smallest."""

import json

import pytest

from cls.errors import UserError
from cls.tools import benchmark_growth
from cls.tools.benchmark import main

# Takes a time that is quadratic in its size, and memory that is proportional to it.
SIDE = """
import sys

size = int(sys.argv[2])
print('ready {}', flush=True)
for line in sys.stdin:
    data = bytearray(2**20 * size)
    print(size**2, flush=True)
"""


def test_the_exponents_of_a_quadratic_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_growth, 'SERVE', SIDE)
    report = tmp_path / 'report.json'
    assert main(['growth', 'images', '--base=2', f'--json={report}']) == 0
    assert 'exponents: time 2.00, memory ' in capsys.readouterr().out
    rows = json.loads(report.read_text())['rows']['images']
    assert [row['size'] for row in rows] == [2, 20, 200]
    assert [row['seconds'] for row in rows] == [4, 400, 40_000]
    assert benchmark_growth.exponent(rows[0], rows[2], 'seconds') == pytest.approx(2)
    assert rows[2]['bytes'] == pytest.approx(200 * 2**20, rel=0.05)


@pytest.mark.parametrize('name', ['images', 'classes', 'rows', 'steps', 'trials', 'processes'])
def test_a_work_can_be_repeated(name, tmp_path):
    work = benchmark_growth.CASES[name].prepare(10, tmp_path)
    work()
    work()


@pytest.mark.sweep
@pytest.mark.parametrize('name', ['evaluated', 'depth'])
def test_a_work_that_compiles_can_be_repeated(name, tmp_path):
    work = benchmark_growth.CASES[name].prepare(1, tmp_path)
    work()
    work()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [(['image'], "'image': expected images, "), (['--base=-1'], 'base is -1')],
)
def test_mistaken_arguments(arguments, said):
    with pytest.raises(UserError, match=said):
        main(['growth', *arguments])
