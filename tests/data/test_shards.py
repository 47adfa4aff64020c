"""Shards: records at random from any number of files, few of them open, and labels read once."""

import importlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cls.data import broken, datasets, feature_cache, shards, tfds_sets
from cls.data.shards import Part, Shards
from cls.errors import UserError

PROGRAM = """
import os, random, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 256))  # soft, hard
from cls.data.shards import Part, Shards
records = Shards([Part(f'{sys.argv[1]}/{i}', 0, 2) for i in range(300)])
indices = [*range(600)] * 2
random.Random(0).shuffle(indices)
most = 0
for index in indices:
    assert records[index] == str(index).encode()
    most = max(most, len(os.listdir('/proc/self/fd')))
print(resource.getrlimit(resource.RLIMIT_NOFILE), most)
"""


@pytest.fixture
def written(tmp_path):
    """A function: contents of files, lists of records -> the paths of these files."""
    module = importlib.import_module('array_record.python.array_record_module')

    def write(contents):
        files = [str(tmp_path / str(number)) for number in range(len(contents))]
        for file, records in zip(files, contents, strict=True):
            writer = module.ArrayRecordWriter(file, 'group_size:1')
            for record in records:
                writer.write(record)
            writer.close()
        return files

    return write


def test_more_files_than_a_process_may_open(written, tmp_path):
    """300 files under a limit of 256; the soft limit is raised, and the last used stay open."""
    written([[str(2 * i).encode(), str(2 * i + 1).encode()] for i in range(300)])
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, tmp_path],
        env=os.environ | {'PYTHONPATH': os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    limits, most = done.stdout.rsplit(maxsplit=1)
    assert limits == '(256, 256)'
    assert 100 < int(most) < 160  # half of the limit, and the program's own


def test_parts_of_files_are_one_sequence(written):
    one, two = written([[b'a', b'b', b'c', b'd'], [b'e', b'f']])
    records = Shards([Part(one, 1, 2), Part(two, 0, 2), Part(one, 0, 1)])
    assert len(records) == 5
    for copy in (records, pickle.loads(pickle.dumps(records))):
        assert [copy[i] for i in range(5)] == [b'b', b'c', b'e', b'f', b'a']
        for start in range(5):
            for stop in range(start, 6):
                assert list(copy.between(start, stop)) == [b'b', b'c', b'e', b'f', b'a'][start:stop]
    for index in (-1, 5):
        with pytest.raises(IndexError):
            records[index]


def test_a_record_is_read_without_a_list_of_all_others(written, monkeypatch):
    """array_record's read([i]) takes time in proportion to the records of the file."""
    calls, open_file = [], shards._open

    class Reader:
        def __init__(self, path):
            self._reader = open_file(path)

        def read(self, *args):
            calls.append(args)
            return self._reader.read(*args)

    monkeypatch.setattr(shards, '_open', Reader)
    monkeypatch.setattr(shards, '_AT_ONCE', 3)
    records = Shards([Part(file, 0, 4) for file in written([[b'a', b'b', b'c', b'd']] * 2)])
    assert records[6] == b'c'
    assert list(records.between(2, 8)) == [b'c', b'd', b'a', b'b', b'c', b'd']
    assert calls == [(2, 3), (2, 4), (0, 3), (3, 4)]


def test_closed_with_their_shards(written):
    before = len(os.listdir('/proc/self/fd'))
    records = Shards([Part(file, 0, 1) for file in written([[b'a']] * 5)])
    assert list(records.between(0, 5)) == [b'a'] * 5
    assert len(os.listdir('/proc/self/fd')) == before + 5
    del records
    assert len(os.listdir('/proc/self/fd')) == before


def test_an_unreadable_file_is_named_with_the_reason(written, tmp_path, monkeypatch):
    monkeypatch.setattr(broken, '_WAITS', (0.001,))
    (file,) = written([[b'a', b'b']])
    (tmp_path / 'text').write_text('no records')
    for path, count, reason in (
        (f'{tmp_path}/nowhere', 1, 'No such file or directory'),
        (f'{tmp_path}/text', 1, 'not a file of ArrayRecord'),
        (file, 3, r'\[0, 3\) is of range of \[0, 2\)'),
    ):
        with pytest.raises(UserError, match=rf'{path} cannot be read \({reason}\), in 2 tries'):
            list(Shards([Part(path, 0, count)]).between(0, count))


# ------------------------------------------------------------------------------------------------
# Of prepared data sets
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'train[20%:75%]', 'test+train[:5]'])
def test_examples_are_those_of_tfds_in_its_order(speckles, split):
    builder = tfds_sets.prepared('speckles', str(speckles))
    theirs = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    ours = tfds_sets.Examples(tfds_sets._shards(builder, 'speckles', split), builder.info.features)
    assert len(ours) == len(theirs)
    assert list(ours) == [ours[i] for i in range(len(ours))] == list(theirs)


def test_labels_are_read_once_for_all_runs(make_data, speckles, monkeypatch, tmp_path):
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path))
    data = make_data(name='tfds:speckles', dir=str(speckles), train_split='train[:90%]')
    source = datasets.load(data, 'train')
    expected = [source[i]['label'] for i in range(len(source))]
    reads, between = [], Shards.between
    monkeypatch.setattr(Shards, 'between', lambda *args: reads.append(1) or between(*args))
    turned = ('blue', 'black', 'red', 'green')
    for _ in range(2):
        assert datasets.load(data, 'train').labels().tolist() == expected
        in_other_order = datasets.load(data, 'train', turned).labels()
        assert in_other_order.tolist() == [[2, 3, 0][label] for label in expected]
        assert len(reads) == 1
    # Read again if the cached file is damaged, the records have changed, or it cannot be written.
    (file,) = (tmp_path / 'features').iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert source.labels().tolist() == expected and len(reads) == 2
    os.utime(source._examples.shards.parts[0].path)
    assert source.labels().tolist() == expected and len(reads) == 3
    monkeypatch.setenv('CLS_CACHE_DIR', '/dev/null')
    assert source.labels().tolist() == expected and len(reads) == 4


def test_texts_are_read_once_too(speckles, monkeypatch, tmp_path):
    """As the names of ImageNet's validation images, to find their labels of ImageNet-ReaL."""
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path))
    builder = tfds_sets.prepared('speckles', str(speckles))
    expected = [record['file'].decode() for record in builder.as_data_source('train')]
    assert tfds_sets.texts(builder, 'train', 'file') == expected
    monkeypatch.setattr(Shards, 'between', None)
    assert tfds_sets.texts(builder, 'train', 'file') == expected


def test_unlabeled_records_keep_their_negative_label(speckles, monkeypatch):
    builder = tfds_sets.prepared('speckles', str(speckles))
    records = tfds_sets._shards(builder, 'speckles', 'train')
    monkeypatch.setattr(feature_cache, 'labels', lambda _: np.array([-1, 2, 0], np.int32))
    examples = tfds_sets.Examples(records, None, np.array([1, 0]), np.array([7, 8, 9], np.int32))
    assert examples.labels().tolist() == [9, -1]
