"""The script that measures on a GPU: the commands it runs, with a stand-in for Python."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
echo "$@"
case "$*" in *densenet121*) exit 2 ;; esac
"""


def run(tmp_path, *networks, **variables):
    python = tmp_path / 'python'
    python.write_text(STUB)
    python.chmod(0o755)
    return subprocess.run(
        [ROOT / 'launch/gpu_benchmark.sh', *networks],
        cwd=tmp_path,
        env=os.environ | {'PYTHON': str(python)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_network_is_measured_even_after_one_that_fails(tmp_path):
    done = run(tmp_path, TORCH='/torch', FLAGS='--quick --rounds=1', OUT='results')
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == (
        '-m cls.tools.benchmark networks resnet50 --gpu --torch /torch '
        '--json results/resnet50.json --quick --rounds=1'
    )
    assert 'networks nasnet_a_large:64x331 ' in lines[3]
    assert '--json results/nasnet_a_large.json' in lines[3]
    assert done.returncode == 1
    assert (tmp_path / 'results').is_dir()


def test_no_network_is_begun_without_time(tmp_path):
    done = run(tmp_path, 'resnet50:8x64', LIMIT='0')
    assert done.stdout == ''
    assert done.stderr == 'resnet50:8x64: not measured, 0 s are left\n'
