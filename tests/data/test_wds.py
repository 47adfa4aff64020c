"""Samples in tar files: keys, fields, the index, patterns, and the package's own files."""

import gzip
import io
import json
import logging
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from cls.data import datasets, pipeline, tars, wds
from cls.errors import UserError


def png(value, side=8):
    """Returns an image of one color as a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(encoded, 'PNG')
    return encoded.getvalue()


def write(file, members):
    """Writes a tar file of (name, content) pairs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, 'w') as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def samples(values, label=lambda value: str(value % 2)):
    """Returns members of samples with these values; the label is before or after the image."""
    for value in values:
        fields = [('png', png(value)), ('cls', label(value).encode())]
        for field, content in fields if value % 3 else fields[::-1]:
            yield f'./some/{value:04}.{field}', content


def examples(source):
    """[(pixel value, label)] of all examples."""
    return [(int(source[i]['image'][0, 0, 0]), source[i]['label']) for i in range(len(source))]


@pytest.fixture
def shards(tmp_path):
    """A folder with the values 0 to 6 to train on, in three files, and 7 to 9 to evaluate on."""
    for number, values in enumerate((range(3), [3], range(4, 7))):
        write(tmp_path / f'train-{number:03}.tar', samples(values))
    write(tmp_path / 'val-000.tar', samples(range(7, 10)))
    return tmp_path


@pytest.mark.parametrize(
    'name, fields',
    [
        ('{}', {}),
        ('{}/*.tar', {}),
        ('{}/{{train,val}}-{{000..000}}.tar::{}/train-{{001..002}}.tar', {}),
        ('{}/train-{{000..002}}.tar', {'eval_split': 'val-{000..000}.tar'}),
        ('{}/train-00?.tar', {'eval_split': '{}/val-*.tar'}),
    ],
)
def test_samples_are_examples(shards, make_data, name, fields):
    fields = {key: value.replace('{}', str(shards)) for key, value in fields.items()}
    data = make_data(name=f'wds:{name.format(shards, shards)}', **fields)
    train, val = (datasets.load(data, split) for split in ('train', 'eval'))
    assert examples(train) == [(i, i % 2) for i in range(7)]
    assert examples(val) == [(7, 1), (8, 0), (9, 1)] and val.split == 'validation'
    assert train.num_classes == 2 and datasets.has_training(data)
    assert train.files[3] == 'train-001.tar/./some/0003.png'


def test_batches_do_not_depend_on_the_shards(shards, make_data):
    """The order is a shuffle of all samples, also in a worker and after a restart."""
    write(shards / 'one' / 'train.tar', samples(range(7)))
    data = make_data(name=f'wds:{shards}/train-*.tar', image_size=8, eval_split='val-000.tar')
    one = make_data(name=f'wds:{shards}/one/train.tar', image_size=8)
    kwargs = {'batch': 4, 'seed': 1, 'num_classes': 2}
    batches = [
        pipeline.train_batches(pickle.loads(pickle.dumps(datasets.load(d, 'train'))), d, **kwargs)
        for d in (data, one)
    ]
    seen = []
    for _ in range(4):
        first, second = map(next, batches)
        np.testing.assert_array_equal(first['image'], second['image'])
        seen += first['image'][:, 0, 0, 0].tolist()
    assert sorted(seen[:7]) == sorted(seen[7:14]) == list(range(7)) and seen[:7] != seen[7:14]
    again = pipeline.train_batches(datasets.load(data, 'train'), data, **kwargs)
    again.set_state({'step': 3})
    np.testing.assert_array_equal(next(again)['image'], first['image'])
    for iterator in (*batches, again):
        iterator.close()


def test_the_index_is_made_once(shards, make_data, caplog, cache):
    data = make_data(name=f'wds:{shards}')
    with caplog.at_level(logging.INFO):
        before = datasets.load(data, 'train')
        count = caplog.text.count('indexing its samples')
        after = datasets.load(data, 'train')
    assert count == 3 and caplog.text.count('indexing its samples') == 3
    assert examples(after) == examples(before) and after.identity() == before.identity()
    for file in (cache / 'tars').iterdir():
        file.write_bytes(file.read_bytes()[:100])  # damaged
    assert examples(datasets.load(data, 'train')) == examples(before)
    write(shards / 'train-001.tar', samples([5]))
    changed = datasets.load(data, 'train')
    assert examples(changed)[3] == (5, 1)
    assert changed.identity()['digest'] != before.identity()['digest']


def test_labels_may_be_names_or_json(tmp_path, make_data):
    names = ['cat', 'dog']
    write(tmp_path / 'train.tar', samples(range(3), lambda value: f'{names[value % 2]}\n'))
    members = []
    for value in range(3, 6):
        content = {'label': names[value % 2], 'all': names[: value - 3], 'size': 8}
        members += [(f'{value}.JSON', json.dumps(content).encode()), (f'{value}.PNG', png(value))]
    write(tmp_path / 'val.tar', members)
    data = make_data(name=f'wds:{tmp_path}')
    assert datasets.load(data, 'train').class_names == ('cat', 'dog')
    assert examples(datasets.load(data, 'eval')) == [(3, 1), (4, 0), (5, 1)]
    fields = {'label_column': 'all', 'multi_label': True}
    several = make_data(name=f'wds:{tmp_path}/val.tar', eval_split='validation', **fields)
    labels = datasets.load(several, 'eval').labels()
    assert labels.tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    'members, message',
    [
        ([('1.png', b''), ('2.cls', b'0')], '1 has the fields png and no label: expected the fie'),
        ([('1.cls', b'0')], 'the sample 1 has the fields cls: expected one image, as jpg or png'),
        ([('1.png', b''), ('1.jpg', b''), ('1.cls', b'0')], 'fields png, jpg, cls: expected one i'),
        ([('1.a.png', b''), ('1.cls', b'0')], r'the fields a.png, cls: .*a key ends at the first'),
        ([('1.png', b''), ('1.PNG', b'')], '1.png is there twice'),
        ([('1.png', b''), ('1.json', b'{')], 'the label of the sample 1 cannot be read'),
        ([('1.png', b''), ('1.json', b'{"a": 1}')], 'or json with the key label'),
        ([('1.png', b''), ('1.cls', b'')], 'train.tar/1.png has no label: expected one'),
        ([('1.png', b''), ('1.cls', b'-1')], 'has the label -1: expected 0 or more'),
        ([('__meta__', b''), ('dir', b'')], 'train.tar has no samples: expected members as'),
    ],
    ids=str,
)
def test_mistakes_in_samples(tmp_path, make_data, members, message):
    write(tmp_path / 'train.tar', members)
    with pytest.raises(UserError, match=message) as error:
        datasets.load(make_data(name=f'wds:{tmp_path}'), 'train')
    assert '\n' not in str(error.value)


def test_mistakes_in_files(shards, make_data, monkeypatch):
    def load(name, split='train', **fields):
        return datasets.load(make_data(name=f'wds:{shards}/{name}', **fields), split)

    with pytest.raises(UserError, match=r'1 of the 4 files of .* not exist, .*train-003.tar for '):
        load('train-{000..003}.tar')
    with pytest.raises(UserError, match='no file matches .*expected a pattern of tar files'):
        load('test-*.tar')
    with pytest.raises(UserError, match='has no tar files: expected a folder with some'):
        load('nothing')
    with pytest.raises(UserError, match='no split to evaluate on, it has train: .*further files'):
        load('train-*.tar', 'eval')
    content = (shards / 'train-000.tar').read_bytes()
    (shards / 'train-000.tar').write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match='train-000.tar is compressed: .*without compression'):
        load('')
    for size, message in ((1030, 'ends early, at byte 1,024: '), (700, 'unexpected end of data')):
        (shards / 'train-000.tar').write_bytes(content[:size])
        with pytest.raises(UserError, match=f'train-000.tar .*{message}'):
            load('')
    (shards / 'train-000.tar').write_bytes(b'text' * 500)
    with pytest.raises(UserError, match='train-000.tar cannot be read .*expected a whole tar file'):
        load('')
    monkeypatch.setattr('cls.data.broken._WAITS', ())
    source = load('train-{001..002}.tar', eval_split='val-000.tar')
    (shards / 'train-001.tar').write_bytes(b'')
    with pytest.raises(UserError, match=r'train-001.tar/./some/0003.png cannot be read .the tar f'):
        source[0]
    write(shards / 'train-002.tar', [('1.png', b'no image'), ('1.cls', b'0')])
    with pytest.raises(UserError, match=r'1 of the 1 images in .*: train-002.tar/1.png \(not '):
        load('train-002.tar', eval_split='val-000.tar')[0]


def test_patterns():
    assert list(wds.braces('a-{08..11}-{x,y}')) == [
        f'a-{number}-{letter}' for number in ('08', '09', '10', '11') for letter in 'xy'
    ]
    assert list(wds.braces('{9..11}')) == ['9', '10', '11']
    with pytest.raises(UserError, match='names 1,000,000 files: expected at most'):
        wds.expanded('{000000..999999}.tar')


def test_any_number_of_members_takes_little_memory(tmp_path):
    """Members are forgotten as they are read."""
    file = write(tmp_path / 'train.tar', samples(range(50)))
    with tarfile.open(file) as whole:
        starts = {m.name: m.offset_data for m in whole.getmembers()}
    index = tars.index_of(file, '', '')
    assert index.starts.tolist() == [starts[f'./some/{value:04}.png'] for value in range(50)]


def test_the_package_reads_its_files_alike(tmp_path, make_data):
    """What the package itself writes: the same images and labels, in the same order."""
    package = pytest.importorskip('webdataset')
    noise = np.random.default_rng(0).integers(256, size=(7, 9, 7, 3), dtype=np.uint8)
    with package.ShardWriter(str(tmp_path / 'train-%03d.tar'), maxcount=3, verbose=0) as writer:
        for i, pixels in enumerate(noise):
            writer.write({'__key__': f'dir/{i:04}', 'png': pixels, 'cls': i % 3, 'json': {'i': i}})
    names = [str(tmp_path / f'train-{i:03}.tar') for i in range(3)]
    read = package.WebDataset(names, shardshuffle=False).decode('rgb8').to_tuple('png', 'cls')
    source = datasets.load(make_data(name=f'wds:{tmp_path}/train-{{000..002}}.tar'), 'train')
    rows = list(read)
    assert len(rows) == len(source) == 7
    for i, (image, label) in enumerate(rows):
        np.testing.assert_array_equal(source[i]['image'], image)
        assert source[i]['label'] == label
