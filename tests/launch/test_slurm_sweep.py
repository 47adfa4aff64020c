"""`cls sweep --slurm` on a real Slurm, see test_slurm_real.py; needs submitit (cls[sweep]) too."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from test_slurm_real import PROGRAMS, ROOT, cluster, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0
        or not all(map(shutil.which, PROGRAMS))
        or importlib.util.find_spec('submitit') is None,
        reason='needs root, apt-get install slurm-wlm munge, and submitit',
    ),
]
__all__ = ['cluster']


@pytest.fixture
def start(cluster, tmp_path):
    """A function that starts the sweep of two seeds; it ends with the test."""
    chain = tmp_path / 'chain.json'
    chain.write_text(json.dumps({'layers': ['C(16,3,1)', 'P(2,2)', 'FC(32)']}))
    command = [
        *(sys.executable, '-m', 'cls', 'sweep', '--config=metaqnn', f'--workdir={tmp_path}/sweep'),
        *(f'--config.model.genotype={chain}', '--config.duration=200 steps', '--seeds=2'),
        *('--config.schedule.warmup=0 steps', '--config.checkpoint.every=100 steps'),
        *('--slurm', 'timeout_min=10,slurm_partition=low,cpus_per_task=1'),
    ]
    variables = {'JAX_PLATFORMS': 'cpu', 'CLS_CACHE_DIR': str(cluster.here / 'cache')}
    variables |= {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    running = []

    def started():
        with (tmp_path / 'sweep.log').open('a') as log:
            running.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=cluster.environment | variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return running[-1]

    yield started
    for process in running:
        process.kill()
        process.wait()


def test_a_sweep_that_is_killed_finds_its_jobs_again(cluster, start, tmp_path):
    folder, log = tmp_path / 'sweep', tmp_path / 'sweep.log'
    first = start()
    wait_until(lambda: cluster('squeue', '-h', '-t', 'RUNNING') or first.poll() is not None)
    assert first.poll() is None, log.read_text()
    first.kill()
    first.wait()

    second = start()
    assert second.wait(timeout=400) == 0, log.read_text()
    results = sorted(path.parent.name for path in folder.glob('*/result.json'))
    assert results == ['seed=0', 'seed=1']
    for name in results:
        assert json.loads((folder / name / 'result.json').read_text())['step'] == 200
    shown = cluster('scontrol', '--oneliner', 'show', 'job').splitlines()
    assert len(shown) == 2  # none was submitted twice
    assert all('JobState=COMPLETED' in job for job in shown), shown
