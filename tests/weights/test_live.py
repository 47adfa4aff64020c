"""Published networks against the packages that define them, with random weights.

  CLS_ORACLE=VENV/bin/python ./launch/test.sh -m live tests/weights/test_live.py

The variable names a Python with the packages of golden/requirements.txt. Each row goes through
recognition and `fit`; its logits have to agree to 1e-4 of their spread with those of the package in
double precision, or to thrice the package's own rounding, of 1e-3 at most: deep networks amplify
rounding, and other differences as much. Where it is more, ours is computed in double precision too,
and has to agree to 1e-6. Rows with the names of the variant's reference are
left out: golden rows have the same networks. `-k` selects rows, as 'timm'.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import jit
from inference import float64

from cls import models, weights

sys.path.append(str(Path(__file__).parent))
import published_weights as published

pytestmark = pytest.mark.live
ORACLE = Path(__file__).resolve().parents[1] / 'golden' / 'oracle.py'
LARGEST = 150e6  # parameters
# Sides of the images; strides divide those of the rest unevenly.
SIZES = {
    'inception': 107,
    'xception': 75,
    'polynet': 107,
    'nasnet_': 64,
    'nasnet': 43,
    'pnasnet': 75,
    'darts': 64,
    'vgg': 224,
}


@pytest.fixture(scope='module')
def ask():
    """A function that sends a request to the oracle."""
    python = os.environ.get('CLS_ORACLE')
    if not python:
        pytest.skip('CLS_ORACLE names no Python with PyTorch and the packages')
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    with subprocess.Popen([python, str(ORACLE)], **pipes) as process:

        def send(**request):
            process.stdin.write(json.dumps(request) + '\n')
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer == 'done\n', answer

        yield send
        process.stdin.close()


@pytest.mark.parametrize('row', published.distinct(published.rows()), ids=str)
def test_logits(row, ask, tmp_path):
    """The recognized variant computes what the package computes."""
    outcome = published.outcome(row)
    if outcome.kind != 'fit':
        pytest.skip(outcome.text)
    match = outcome.match
    variant = models.variant(match.variant)
    if variant.params > LARGEST or not row.classes:
        pytest.skip('too large, or without a classifier')
    if (variant.reference or '') == f'{row.package}:{row.network}' and not match.fields:
        pytest.skip('its golden row is of the same network')
    small = variant.input_size < 64
    size = next((size for part, size in SIZES.items() if part in row.network), 72)
    size = variant.input_size if small else size
    file = tmp_path / 'row.npz'
    ask(package=row.package, network=row.network, classes=row.classes, size=size, file=str(file))
    with np.load(file) as data:
        images, logits, rounding = data['images'], data['logits'], data['rounding']
        tensors = {
            name.removeprefix('tensor.'): data[name]
            for name in data.files
            if name.startswith('tensor.')
        }
    file.unlink()
    fitted = weights.fit(tensors, match.variant, **match.fields)
    model = models.create(match.variant, **fitted.fields)
    images, spread = images.transpose(0, 2, 3, 1), logits.std()
    if rounding < 1e-3 * spread:
        result = jit(lambda v, x: model.apply(v, x, train=False))(fitted.variables, images)
        tolerance = max(1e-4 * spread, 3 * rounding)
    else:
        result = float64.outputs(lambda x: model.apply(fitted.variables, x, train=False), images)
        tolerance = 1e-6 * spread
    np.testing.assert_allclose(np.asarray(result), logits, rtol=0, atol=tolerance)
