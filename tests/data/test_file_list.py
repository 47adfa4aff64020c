"""File lists: the names of any number of files, small in memory and shared with workers."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from cls.data import folders, order, shared, tfds_sets
from cls.data.file_list import FileList
from cls.data.shards import Part, Shards

MANY = [(f'n{c:04}/', [f'n{c:04}_{i}.JPEG' for i in range(100)]) for c in range(300)]
NAMES = [prefix + name for prefix, names in MANY for name in names]


def test_it_is_the_list_of_its_names(tmp_path):
    groups = [
        ('cat/', ['a.png', 'b/c/d.png', 'b/c/é.png', 'b/z.png', 'z.png']),
        ('dog/', []),
        ('', [os.fsdecode(b'\xff.png'), 'n' * 255]),
    ]
    names = [prefix + name for prefix, files in groups for name in files]
    files = FileList(tmp_path, groups)
    assert len(files) == 7
    assert list(files) == [files[i] for i in range(7)] == names
    assert files[-1] == names[-1] and files[1:5:2] == names[1:5:2]
    assert files[np.int64(3)] == names[3]
    assert files.path(1) == f'{tmp_path}/cat/b/c/d.png'
    for index in (7, -8):
        with pytest.raises(IndexError):
            files[index]
    assert list(FileList(tmp_path, [])) == []


def test_a_pickle_does_not_grow_with_the_files(tmp_path):
    """A worker of another process reads the names in the memory of this one."""
    files = FileList(tmp_path, MANY)
    content = pickle.dumps(files)
    assert len(content) < 20_000 < len(NAMES)
    assert list(files) == NAMES  # also after its memory has moved
    (tmp_path / 'pickle').write_bytes(content)
    program = (
        'import pickle, sys; files = pickle.load(open(sys.argv[1], "rb"));'
        'print(len(files), files[12345]);'
        'again = pickle.loads(pickle.dumps(files)); print(again[-1])'
    )
    command = [sys.executable, '-c', program, tmp_path / 'pickle']
    env = os.environ | {'PYTHONPATH': os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.split() == ['30000', NAMES[12345], NAMES[-1]], done.stderr


def test_an_image_takes_its_name_and_four_bytes(tmp_path):
    files = FileList(tmp_path, MANY)
    strings = (files._names, files._folders)
    arrays = [files._starts, *(a for s in strings for a in (s._content, s._ends))]
    total = sum(a.values.nbytes for a in arrays)
    runs = len(MANY) * (len('n0000/') + 4 + 8)
    assert total == sum(len(name) - len('n0000/') + 4 for name in NAMES) + runs + 8


def test_without_anonymous_files_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.delattr(os, 'memfd_create')
    content = pickle.dumps(FileList(tmp_path, MANY))
    assert len(content) > 10 * len(NAMES)
    assert list(pickle.loads(content)) == NAMES


def test_values_cannot_change_under_other_processes(tmp_path):
    array = shared.SharedArray(np.arange(20_000))
    for values in (array.values, pickle.loads(pickle.dumps(array)).values, array.values):
        np.testing.assert_array_equal(values, np.arange(20_000))
        with pytest.raises(ValueError, match='read-only'):
            values[0] = 1


def test_the_balanced_order_is_shared_too():
    labels = np.random.default_rng(0).integers(50, size=100_000)
    balanced = order.Balanced(labels, seed=1)
    content = pickle.dumps(balanced)
    assert len(content) < 2000
    at = np.arange(70, 500)
    np.testing.assert_array_equal(pickle.loads(content)(at), balanced(at))


@pytest.mark.parametrize('name', ['folder', 'tfds'])
def test_no_pickle_of_a_source_grows_with_its_examples(name, tmp_path):
    """Neither in the names nor in the notes on each image."""

    def pickled(count):
        if name == 'folder':
            files = FileList(tmp_path, [('cat/', (f'{i:06}.png' for i in range(count)))])
            source = folders.Folder(tmp_path, files, np.zeros(count, np.int32), ('cat',))
        else:
            examples = tfds_sets.Examples(Shards([Part('file', 0, count)]), None)
            source = tfds_sets.Records(examples, 'birds', 3, 1, ('cat',))
        copy = pickle.loads(pickle.dumps(source))
        assert len(copy) == count
        return len(pickle.dumps(source))

    assert abs(pickled(200_000) - pickled(100_000)) < 20
