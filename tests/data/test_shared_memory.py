"""Shared memory, the way of batches from workers: the bytes needed, and errors if it is full."""

import dataclasses
import os
import subprocess
import sys

import pytest

from cls.data import iteration, pipeline
from cls.data.sources import Source

MIB = 2**20

PROGRAM = """
import os, sys, time
import numpy as np
from cls.data.spec import DataSpec
from cls.data import iteration, pipeline, sources
from cls.errors import UserError

class Large(sources.Source):
    class_names, channels, num_classes = (), 3, 10
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        return {'image': np.zeros((64, 64, 3), np.uint8), 'label': 0}

def used():
    found = os.statvfs(iteration.SHARED)
    return (found.f_blocks - found.f_bfree) * found.f_frsize

if __name__ == '__main__':
    data, before = DataSpec('folder:x', image_size=64, train_crop='none', workers=2), used()
    iterator = pipeline.train_batches(Large(), data, batch=64, seed=0, num_classes=10)
    need = iteration.shared_memory(iterator)
    print(iteration.missing_shared_memory([need], iteration.free_shared_memory()))
    kept, most = [], 0
    try:
        for _ in range(10):
            kept = [*kept[-1:], next(iterator)]  # as the trainer, which sends the last to devices
            for _ in range(5):
                time.sleep(0.05)
                most = max(most, used() - before)
        print(most / need)
    except UserError as error:
        print(error)
    kept.clear()
    iterator.close()
"""


@pytest.fixture
def run(tmp_path):
    """Runs PROGRAM in a private mount with a given size of shared memory."""

    def start(size):
        (tmp_path / 'program.py').write_text(PROGRAM)
        mount = f'mount -t tmpfs -o size={size} tmpfs {iteration.SHARED}'
        shell = ['unshare', '--mount', 'sh', '-c']
        if not os.path.isdir(iteration.SHARED) or subprocess.run([*shell, mount]).returncode:
            pytest.skip('this machine lets nobody mount')
        done = subprocess.run(
            [*shell, f'{mount} && exec "$0" "$@"', sys.executable, tmp_path / 'program.py'],
            env=os.environ | {'PYTHONPATH': os.getcwd()},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return start


def test_a_worker_that_finds_it_full_is_one_line_that_says_so(run):
    """A small version of batches that need more than Docker's 64 MB."""
    before, after = run(4 * MIB)
    assert before.startswith('/dev/shm has 4 MiB left, and the workers of 1 process(es) here need')
    for line in (before, after):
        assert 'SIGBUS' in line
        assert '--shm-size' in line


@pytest.mark.sweep
def test_workers_need_no_more_than_is_said(run):
    before, part = run(64 * MIB)
    assert before == ''
    assert 0.5 < float(part) <= 1.1  # labels have pages too; freed pages go a moment later


class Decoded(Source):
    """Images that workers would decode; no test reads one."""

    class_names, channels, num_classes = (), 3, 10

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        raise NotImplementedError


def test_eight_workers_with_batches_of_128_images(make_data):
    """The measured need is 920 MiB."""
    data = make_data(image_size=224, workers=8, train_crop='random_resized')
    fields = {'batch': 128, 'seed': 0, 'num_classes': 10}
    iterator = pipeline.train_batches(Decoded(), data, **fields)
    need = iteration.shared_memory(iterator)
    assert need == 50 * 128 * 224 * 224 * 3
    assert round(need / MIB) == 919
    # The share of a process; the largest size; two sources; zero without workers.
    shared = pipeline.train_batches(Decoded(), data, process=(1, 4), **fields)
    assert iteration.shared_memory(shared) == need / 4
    growing = pipeline.train_batches(Decoded(), data, sizes=((0, 112), (5, 448)), **fields)
    assert iteration.shared_memory(growing) == 4 * need
    assert iteration.shared_memory(iteration.ZippedIterator(iterator, iterator)) == 2 * need
    data = dataclasses.replace(data, workers=0)
    alone = pipeline.train_batches(Decoded(), data, **fields)
    assert iteration.shared_memory(alone) == 0

    assert iteration.missing_shared_memory([need], need) == ''
    assert iteration.missing_shared_memory([need, need], None) == ''
    text = iteration.missing_shared_memory([need, need], 64 * MIB)
    assert 'has 64 MiB left' in text
    assert 'the workers of 2 process(es) here need up to 1,838 MiB' in text
