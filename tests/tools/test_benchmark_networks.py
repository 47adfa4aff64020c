"""The comparison with PyTorch, against a stand-in of known speed; speeds are not tested."""

import json
import sys

import pytest

from cls.errors import UserError
from cls.tools import benchmark_networks, benchmark_turns
from cls.tools.benchmark import main
from cls.tools.benchmark_networks import Case, case_of

# Takes a millisecond for each training step with channels last, two otherwise.
PEER = """
import sys

layout = sys.argv[5]
print('ready {"params": 269722, "versions": {"torch": "0"}}', flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    print(int(count) * (0.001 if (layout == 'channels_last') == (work == 'train') else 0.002))
    sys.stdout.flush()
"""


def test_a_network_is_compared_with_the_faster_format_of_its_peer(tmp_path, monkeypatch, capsys):
    (tmp_path / 'networks_with_torch.py').write_text(PEER)
    monkeypatch.setattr(benchmark_turns, 'PEERS', tmp_path)
    effort = benchmark_networks.Effort(rounds=2, seconds=0.01, starts=False)
    monkeypatch.setattr(benchmark_networks, 'QUICK', effort)
    report = tmp_path / 'report.json'
    case = ['resnet20_cifar:8x8', '--quick', f'--torch={sys.executable}', f'--json={report}']
    assert main(['networks', *case]) == 0
    result = json.loads(report.read_text())
    row = result['networks']['resnet20_cifar']
    assert (row['train']['format'], row['infer']['format']) == ('channels_last', 'contiguous')
    for work in ('train', 'infer'):
        assert row[work]['peer'] == pytest.approx(8 / 0.001)
        assert row[work]['ratio'] == pytest.approx(row[work]['ours'] / 8000, abs=0.002)
        assert result['summary'][work]['geometric_mean'] == row[work]['ratio']
    assert 50 * 2**20 < row['peak']['ours'] < 2**33
    assert {'jax', 'torch', 'cls'} <= result['versions'].keys()
    assert 'ratio' in capsys.readouterr().out


def test_the_cases():
    assert case_of('resnet50') == Case('resnet50', 16, 160)
    assert case_of('resnet18:4x64') == Case('resnet18', 4, 64)
    assert case_of('resnet18:4x64').reference == 'torchvision:resnet18'


@pytest.mark.parametrize(
    ('case', 'said'),
    [
        ('resnet18', 'expected resnet18:BATCHxPIXELS'),
        ('resnet18:4', 'expected resnet18:BATCHxPIXELS'),
        ('resnet51:4x64', 'resnet50'),
        ('shufflenetv2_50:4x64', 'has no reference in PyTorch'),
    ],
)
def test_mistaken_cases(case, said):
    with pytest.raises(UserError, match=said):
        case_of(case)


def test_another_network_of_the_peer_is_refused(tmp_path, monkeypatch):
    (tmp_path / 'networks_with_torch.py').write_text(PEER.replace('269722', '3'))
    monkeypatch.setattr(benchmark_turns, 'PEERS', tmp_path)
    with pytest.raises(UserError, match='expected the same network'):
        benchmark_networks._check_same(
            benchmark_turns.Process(0, 0, {'params': 4}, None),
            benchmark_turns.Process(0, 0, {'params': 3}, None),
            Case('resnet50', 1, 32),
        )


def test_the_summary_names_the_smallest_ratio():
    summary = benchmark_turns.summary({'a': 0.5, 'b': 2.0})
    assert summary == {'geometric_mean': 1.0, 'minimum': 0.5, 'of': 'a'}
