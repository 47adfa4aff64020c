"""The embedded digits: equal to scikit-learn's, and prepared completely or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cls.data import datasets, digits
from cls.errors import UserError
from cls.storage.cache import cache_dir


def start(code: str, cache) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(code)],
        env=os.environ | {'CLS_CACHE_DIR': str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PREPARE = """
    from cls.data import digits
    print(sum(len(digits.prepare().as_data_source(split)) for split in ('train', 'test')))
"""


def test_equal_to_scikit_learn(make_data):
    """The two splits together are scikit-learn's images; `test` has every fifth of each class."""
    pixels, labels = load_digits(return_X_y=True)
    expected = {'train': [], 'test': []}
    seen = [0] * 10
    for image, label in zip(pixels, labels, strict=True):
        seen[label] += 1
        split = 'test' if seen[label] % 5 == 0 else 'train'
        expected[split].append((label, *(round(pixel * 255 / 16) for pixel in image)))
    for split, name in (('train', 'train'), ('eval', 'test')):
        source = datasets.load(make_data(), split)
        examples = [source[i] for i in range(len(source))]
        assert all(e['image'].shape == (8, 8, 1) for e in examples)
        assert all(e['image'].dtype == np.uint8 for e in examples)
        got = [(e['label'], *e['image'].ravel().tolist()) for e in examples]
        assert sorted(got) == sorted(expected[name])


def test_counts(make_data):
    train, test = (datasets.load(make_data(), split) for split in ('train', 'eval'))
    assert (len(train), len(test)) == (1442, 355)
    counts = np.bincount([test[i]['label'] for i in range(len(test))])
    assert counts.tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert train.num_classes == 10
    assert train.class_names == tuple('0123456789')
    assert train.channels == 1


def test_two_processes_prepare_at_once(tmp_path):
    runs = [start(PREPARE, tmp_path) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
        assert out == '1797\n'  # and no output of TFDS
        assert 'examples' not in err
    assert sorted(os.listdir(tmp_path)) == ['.digits.lock', 'digits']


def test_killed_preparation_is_redone(tmp_path):
    stuck = start(
        """
        import time
        from cls.data import digits

        def generate(self, *args):
            print('half way', file=__import__('sys').__stdout__, flush=True)
            time.sleep(60)
            yield

        digits.Digits._generate_examples = generate
        digits.prepare()
        """,
        tmp_path,
    )
    assert stuck.stdout.readline() == 'half way\n'
    stuck.send_signal(signal.SIGKILL)
    stuck.communicate()
    assert len(list(tmp_path.glob('.digits-*.tmp'))) == 1
    assert not (tmp_path / 'digits').exists()
    started = time.time()
    builder = digits.prepare(str(tmp_path))
    assert time.time() - started < 30
    assert builder.info.splits['train'].num_examples == 1442
    assert sorted(os.listdir(tmp_path)) == ['.digits.lock', 'digits']


def test_prepared_only_once(tmp_path):
    digits.prepare(str(tmp_path))
    changed = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob('*'))]
    digits.prepare(str(tmp_path))
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob('*'))] == changed


def test_cache_folders(monkeypatch):
    monkeypatch.setenv('CLS_CACHE_DIR', '/a')
    monkeypatch.setenv('XDG_CACHE_HOME', '/b')
    monkeypatch.setenv('HOME', '/c')
    assert str(cache_dir()) == '/a'
    monkeypatch.delenv('CLS_CACHE_DIR')
    assert str(cache_dir()) == '/b/cls'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert str(cache_dir()) == '/c/.cache/cls'


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cannot be prepared in .*Not a directory.*CLS_CACHE_DIR'):
        digits.prepare(str(tmp_path / 'file' / 'cache'))


def test_without_tensorflow(cache):
    """TensorFlow is not imported, and JAX, an import of Grain, takes no accelerator."""
    run = start(
        """
        import sys
        from cls.data import pipeline, datasets
        from cls.data.spec import DataSpec

        data = DataSpec()
        for split in ('train', 'eval'):
            source = datasets.load(data, split)
        next(pipeline.train_batches(source, data, batch=8, seed=0, num_classes=10))
        list(pipeline.eval_batches(source, data, batch=128, num_classes=10))
        from jax._src import xla_bridge
        print('tensorflow' in sys.modules, xla_bridge.backends_are_initialized())
        """,
        cache,
    )
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert out == 'False False\n'
