"""The benchmark of checkpoints: it runs and prints its measurements, which are not tested."""

import re
import shutil
import sys

import pytest

from cls.errors import UserError
from cls.tools import benchmark_weights
from cls.tools.benchmark import main

PEER = """
import sys
import numpy as np
from safetensors.numpy import save_file
from answering import answer, resident
from cls.weights import index
if sys.argv[3:]:
    of = index.tensors('squeezenet1_1')
    shapes = {k: [1000 if n < 0 else n for n in shape] for k, shape in of.all.items()}
    save_file({k: np.zeros(shape, np.float32) for k, shape in shapes.items()}, sys.argv[2])
    print(len(shapes))
else:
    answer({'load': lambda count: None}, resident=resident())
"""


def test_recognition_and_import_are_measured_next_to_a_peer(monkeypatch, tmp_path, capsys):
    shutil.copy(benchmark_weights.PEERS / 'answering.py', tmp_path)
    (tmp_path / benchmark_weights.PEER).write_text(PEER)
    monkeypatch.setattr(benchmark_weights, 'PEERS', tmp_path)
    monkeypatch.setenv('PYTHONPATH', '.')
    arguments = ['weights', 'squeezenet1_1', '--torch', sys.executable, '--rounds', '1']
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'squeezenet1_1, 52 tensors, 5 MiB'
    kinds = ('recognition', 'import', 'timm, load_state_dict')
    for line, kind in zip(lines[1:], kinds, strict=True):
        assert re.fullmatch(rf'  {kind}: \d+\.\d\d s, memory \d+\.\d\d x the file', line)


def test_a_variant_without_a_package_is_refused():
    with pytest.raises(UserError, match='resnet20_cifar has no reference in a package'):
        main(['weights', 'resnet20_cifar', '--torch', sys.executable])
