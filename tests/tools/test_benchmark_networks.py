"""The comparison with PyTorch, against a stand-in of known speed; speeds are not tested."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from cls.errors import UserError
from cls.tools import benchmark_networks, benchmark_start, benchmark_turns
from cls.tools.benchmark import main
from cls.tools.benchmark_networks import Case, case_of
from cls.tools.benchmark_worker import Training

SIDE = """
import sys

layout = (sys.argv[5:] or ['ours'])[0]
print('ready {"params": 269722, "device": "H100", "versions": {"%s": "0"}}' % layout, flush=True)
for line in sys.stdin:
    work, skip, count = line.split()
    print(int(count) * seconds(work, layout), flush=True)
"""
OURS = 'seconds = lambda work, layout: 0.0005\n'
# A millisecond for a training step with channels last and for inference otherwise, else two.
PEER = """
seconds = lambda work, layout: 0.001 if (layout == 'channels_last') == (work == 'train') else 0.002
"""


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """Stand-ins for our process and PyTorch's, of known speed."""
    (tmp_path / 'networks_with_torch.py').write_text(PEER + SIDE)
    monkeypatch.setattr(benchmark_networks, 'PEERS', tmp_path)
    monkeypatch.setattr(benchmark_networks, 'SERVE', OURS + SIDE.replace('sys.argv[5:]', '[]'))
    return tmp_path


def test_a_network_is_compared_with_the_faster_format_of_its_peer(sides, tmp_path, capsys):
    report = tmp_path / 'report.json'
    case = ['resnet20_cifar', '--rounds=2', f'--torch={sys.executable}', f'--json={report}']
    assert main(['networks', *case]) == 0
    result = json.loads(report.read_text())
    row = result['rows']['resnet20_cifar']
    assert (row['train']['format'], row['infer']['format']) == ('channels_last', 'contiguous')
    for work in ('train', 'infer'):
        assert row[work]['peer'] == pytest.approx(128 / 0.001)
        assert row[work]['ratio'] == pytest.approx(2)
        assert result['summary'][work]['geometric_mean'] == row[work]['ratio']
    assert row['peak']['ratio'] == pytest.approx(
        row['peak']['ours'] / row['peak']['peer'], abs=0.001
    )
    assert {'cold', 'warm', 'peer'} <= row['start'].keys()
    assert {'ours', 'channels_last', 'cls'} <= result['versions'].keys()
    assert 'ratio 2.00' in capsys.readouterr().out


def test_our_side_trains_and_infers():
    training = Training(tiny.setup())
    training.compile()
    before = jax.device_get(training.state)
    training.steps(3)
    assert int(training.state.step) == 3
    assert np.any(before.params['head']['kernel'] != training.state.params['head']['kernel'])
    training.inference()(2)


WITHOUT = """
import sys

for name in ('array_record', 'grain', 'simplejpeg', 'tensorflow_datasets', 'timm', 'torch'):
    sys.modules[name] = None
from cls.setup import set_up
from cls.tools import benchmark
from cls.tools.benchmark_worker import config_of, first_batch

setup = set_up(config_of('resnet20_cifar', 8, 8))
print(first_batch(setup)['image'].shape, setup.new_state_shapes()[0].step.shape)
"""


def test_steps_are_measured_without_the_packages_for_input():
    done = subprocess.run([sys.executable, '-c', WITHOUT], capture_output=True, text=True)
    assert done.stdout == '(8, 8, 8, 3) ()\n', done.stderr


def test_a_process_is_stopped_between_its_turns(tmp_path):
    program = "import json; print('ready {}', flush=True); input(); print(1.5, flush=True); input()"
    with benchmark_turns.process([sys.executable, '-c', program]) as side:
        status = Path(f'/proc/{side.pid}/status')
        assert side.timed('work', 1, 1) == 1.5
        while 'State:\tT' not in status.read_text():
            time.sleep(0.01)
        assert 2**20 < side.peak() < 2**30
    with pytest.raises(FileNotFoundError):
        status.read_text()


KILLED = """
import sys
from cls.tools.benchmark_turns import process

with process([sys.executable, '-c', sys.argv[1]]) as side:
    print(side.pid, flush=True)
    input()
"""
ANSWERS = 'from cls.tools.peers.answering import answer; answer({})'


def test_no_stopped_process_stays_when_the_benchmark_is_killed():
    command = [sys.executable, '-c', KILLED, ANSWERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        stopped = Path(f'/proc/{int(parent.stdout.readline())}')
        assert stopped.exists()
        parent.kill()
    deadline = time.monotonic() + 20
    with contextlib.suppress(FileNotFoundError):
        while ') Z ' not in (stopped / 'stat').read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_network_starts_with_an_empty_and_a_filled_cache(tmp_path, monkeypatch, capsys):
    """The stand-in compiles for 2 s if its cache is empty; the times are its own."""
    program = """
import json, os, pathlib, sys

entry = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'], 'program')
parts = {'set-up': 0.0, 'compilation': 0.0 if entry.exists() else 2.0}
entry.touch()
print('ready', json.dumps({'parts': parts}), flush=True)
input()
"""
    monkeypatch.setattr(benchmark_start, 'SERVE', program)
    report = tmp_path / 'report.json'
    assert main(['start', 'resnet18:2x64', f'--json={report}']) == 0
    row = json.loads(report.read_text())['rows']['resnet18']
    assert [row[kind]['parts']['compilation'] for kind in ('cold', 'warm')] == [2.0, 0.0]
    assert 2**20 < row['warm']['peak'] < 2**30
    assert 'compilation 2.0' in capsys.readouterr().out


def test_the_cases():
    sizes = {'resnet50': (16, 160)}
    resnet50 = Case('resnet50', 16, 160, 'torchvision:resnet50')
    assert case_of('resnet50', sizes, {}) == resnet50
    assert case_of('resnet18:4x64', {}, {}) == Case('resnet18', 4, 64, 'torchvision:resnet18')
    assert case_of('resnet50', sizes, {'resnet50': 'plain:resnet50'}).reference == 'plain:resnet50'


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
        case_of(case, {}, {})


def test_another_network_of_the_peer_is_refused(sides):
    with pytest.raises(UserError, match='269,722.*expected the same network'):
        (sides / 'networks_with_torch.py').write_text(PEER + SIDE.replace('269722', '3'))
        main(['networks', 'resnet20_cifar', '--quick', f'--torch={sys.executable}'])


def test_the_summary_names_the_smallest_ratio():
    summary = benchmark_turns.summary({'a': 0.5, 'b': 2.0})
    assert summary == {'geometric_mean': 1.0, 'minimum': 0.5, 'of': 'a'}


def test_a_peak_is_that_of_the_board():
    case = Case('resnet18', 8, 64, '')
    rates = {'ours': 1e5, 'peer': 5e4}
    for device in ('NVIDIA RTX A1000', 'NVIDIA L40', 'NVIDIA H100 NVL', 'cpu'):
        assert benchmark_networks._of_peak(case, device, rates) == {'device': device}
    of_peak = [
        benchmark_networks._of_peak(case, device, rates)['of_peak']['ours']
        for device in ('NVIDIA H100 80GB HBM3', 'NVIDIA H100 PCIe')
    ]
    assert of_peak[1] / of_peak[0] == pytest.approx(989 / 756, rel=0.01)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['resnet18:2x8', 'resnet18:4x8'], 'resnet18: expected each network once'),
        (['resnet50', '--quick', '--write'], 'not for --write'),
        (['resnet50:2x32', '--check'], 'resnet50 is recorded with 16 x 160, and this is 2 x 32'),
    ],
)
def test_measurements_that_could_not_be_told_apart_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        main(['networks', *arguments, '--torch', '/absent'])


PARENT = """
import subprocess, sys
busy = 'import os\\nwhile sum(os.times()[:2]) < 0.5: pass'
subprocess.run([sys.executable, '-c', busy], check=True)
print('ready {}', flush=True)
input()
"""


def test_the_work_of_children_that_have_ended_counts():
    with benchmark_turns.process([sys.executable, '-c', PARENT]) as side:
        own = sum(map(int, Path(f'/proc/{side.pid}/stat').read_text().split()[13:15]))
        own /= os.sysconf('SC_CLK_TCK')
        assert benchmark_turns.used_by({side.pid}) >= own + 0.45


def test_a_side_that_has_ended_is_one_line():
    """As one that was killed for want of memory."""
    program = (
        "import sys; sys.stderr.write('x\\nno memory'); print('ready {}', flush=True); input()"
    )
    with benchmark_turns.process([sys.executable, '-c', program]) as side:
        os.killpg(side.pid, signal.SIGKILL)
        side.channel.wait()
        with pytest.raises(UserError, match='ended with: no memory'):
            side.timed('work', 0, 1)
