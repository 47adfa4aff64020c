"""The comparison of training loops, against a stand-in of known speed."""

import json
import sys

import pytest
import tiny

from cls.errors import UserError
from cls.tools import benchmark_loop
from cls.tools.benchmark import main
from cls.tools.benchmark_worker import Training

SIDE = """
import sys

own = (sys.argv[6:] or ['ours'])[0]
print('ready {"versions": {"%s": "0"}}' % own, flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    print(int(count) * seconds(work), flush=True)
"""
OURS = "seconds = lambda work: {'loop': 0.05, 'bare': 0.04}[work]\n"
# Slower with channels last and with workers.
PEER = """
import sys
layout, workers = sys.argv[6:]
seconds = lambda work: 0.1 + 0.1 * (layout == 'channels_last') + 0.1 * int(workers)
"""


def test_the_loop_is_compared_with_the_fastest_of_the_peer(tmp_path, monkeypatch, capsys):
    (tmp_path / 'loop_with_torch.py').write_text(PEER + SIDE)
    monkeypatch.setattr(benchmark_loop, 'PEERS', tmp_path)
    monkeypatch.setattr(benchmark_loop, 'SERVE', OURS + SIDE.replace('sys.argv[6:]', '[]'))
    report = tmp_path / 'report.json'
    case = ['resnet20_cifar', '--rounds=2', f'--torch={sys.executable}', f'--json={report}']
    assert main(['loop', *case]) == 0
    row = json.loads(report.read_text())['rows']['resnet20_cifar']
    assert (row['format'], row['workers']) == ('contiguous', 0)
    assert row['peer'] == pytest.approx(128 / 0.1)
    assert row['ratio'] == pytest.approx(2)
    assert row['of_bare']['ratio'] == pytest.approx(0.8)
    assert 'loop / bare step 0.800' in capsys.readouterr().out


def test_the_loop_of_the_trainer_is_timed_between_its_logs():
    training = Training(tiny.setup(('checkpoint.every', '1000 steps')))
    training.compile()
    for steps in (1, 4):
        before = int(training.state.step)
        assert 0 < benchmark_loop.run_loop(training, steps) < 60
        assert int(training.state.step) >= before + steps


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="'resnet19': expected resnet20_cifar or wrn16_4_cifar"):
        main(['loop', 'resnet19', '--torch=python'])
