"""Runs that train DARTS's supernet: their data, mistakes in their configs, and resuming."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from compiling import FAST

from cls.config import load as configs
from cls.data import datasets
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.models.registry import genotypes
from cls.nn.cells import Genotype
from cls.search.supernets import report
from cls.setup import set_up
from cls.train import train_batches

ROOT = Path(__file__).parents[2]


TINY = (
    ('model.cells', '2'),
    ('model.nodes', '1'),
    ('model.filters', '4'),
    ('model.operations', "('none', 'skip_connect', 'sep_conv_3x3')"),
    ('batch', '16'),
    ('duration', '12 steps'),
    ('log_every', '1 steps'),
    ('eval.every', ''),
    ('checkpoint.every', '3 steps'),
    ('checkpoint.keep', '9'),
)


def test_both_streams_continue_where_they_were():
    setup = set_up(configs.load('configs/search/darts.py', (('batch', '48'), *TINY[5:])))
    assert (len(setup.train), len(setup.test)) == (721, 721)
    batches = train_batches(setup)
    seen = [next(batches) for _ in range(17)]
    assert batches.get_state() == {'step': 17}
    batches.close()
    again = train_batches(setup)
    again.set_state({'step': 15})
    for batch in seen[15:]:
        for name, array in jax.tree.leaves_with_path(next(again)):
            there = functools.reduce(lambda tree, key: tree[key.key], name, batch)
            np.testing.assert_array_equal(array, there)
    again.close()
    whole = datasets.load(DataSpec(), 'train')
    halves = np.concatenate([half.take(np.arange(721))[0] for half in (setup.train, setup.test)])
    np.testing.assert_array_equal(halves, whole.take(np.arange(1442))[0])


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('search.table', 'nowhere.csv', "there is no table 'nowhere.csv'"),
        ('accumulate', '2', 'config.accumulate is 2: the training of a supernet takes 1'),
        ('ema', '0.9', 'config.ema is 0.9'),
        ('model.nods', '3', 'has no field'),
    ],
)
def test_mistakes(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('configs/search/darts.py', ((field, value),)))


def start(arguments, environment):
    return subprocess.Popen(
        [sys.executable, '-m', 'cls.main', *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.mark.sweep
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    environment = kept | {'CLS_CACHE_DIR': str(tmp_path / 'cache'), 'PYTHONUNBUFFERED': '1'}
    environment['XLA_FLAGS'] = ' '.join(f'--{name}={int(on)}' for name, on in FAST.items())
    config = ['--config', 'configs/search/darts.py']
    config += [f'--config.{name}={value}' for name, value in TINY]
    output = finish(start([*config, f'--workdir={tmp_path}/whole'], environment))
    assert f'--config.model.genotype={tmp_path}/whole/genotype.json' in output

    killed = start([*config, f'--workdir={tmp_path}/killed'], environment)
    for line in killed.stdout:
        if 'step 7/' in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.1)
    assert not (tmp_path / 'killed' / 'result.json').exists()
    finish(start([f'--workdir={tmp_path}/killed'], environment))  # it has the config

    def final(name):
        folder = tmp_path / name / 'checkpoints' / '12' / 'state'
        return ocp.StandardCheckpointer().restore(folder.absolute())

    jax.tree.map(np.testing.assert_array_equal, final('whole'), final('killed'))
    files = [(tmp_path / name / 'genotype.json').read_text() for name in ('whole', 'killed')]
    assert files[0] == files[1]
    result = json.loads((tmp_path / 'killed' / 'result.json').read_text())
    assert result['genotype'] == json.loads(files[0])
    assert result['restarts'] == 1
    assert 0 <= result['validation/top1'] <= 100
    assert (result['split'], 'test/top1' in result) == ('train[50%:]', False)
    assert report.read(tmp_path / 'killed')['genotype'] == result['genotype']
    assert (tmp_path / 'killed' / 'curve.png').exists()
    genotypes.structure(result['genotype'], Genotype)

    finish(start(['--job=evaluate', f'--workdir={tmp_path}/whole'], environment))
    evaluated = json.loads((tmp_path / 'whole' / 'evaluation.json').read_text())
    whole = json.loads((tmp_path / 'whole' / 'result.json').read_text())
    assert evaluated['validation/top1'] == pytest.approx(whole['validation/top1'])
