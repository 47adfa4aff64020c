"""Data sets of Hugging Face's `datasets` on disk, in the layouts that it writes and reads."""

import io
import json
import logging
import pickle
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cls.data import arrow_images, datasets, split_files
from cls.errors import UserError

NAMES = ['cat', 'dog']
IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def png(value, side=8):
    """Returns an image of one color as a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(encoded, 'PNG')
    return encoded.getvalue()


def content(values, features=True, label='label', **columns):
    """Returns a table of images with these values, of label value % 2, as `datasets` makes it."""
    kinds = {'image': {'_type': 'Image'}, label: {'_type': 'ClassLabel', 'names': NAMES}}
    images = [{'bytes': png(value), 'path': f'{value}.png'} for value in values]
    labels = pa.array([value % 2 for value in values], pa.int64())
    columns = {'image': pa.array(images, IMAGE), label: labels, **columns}
    metadata = {'huggingface': json.dumps({'info': {'features': kinds}})} if features else None
    return pa.table(columns).replace_schema_metadata(metadata)


def saved(folder, values, shards=1):
    """Writes a split as save_to_disk does: streams of Arrow with several batches."""
    folder.mkdir(parents=True)
    parts = np.array_split(np.array(values), shards)
    names = [f'data-{i:05}-of-{shards:05}.arrow' for i in range(shards)]
    for name, part in zip(names, parts, strict=True):
        table = content(part.tolist())
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    state = {'_data_files': [{'filename': name} for name in names], '_split': None}
    (folder / 'state.json').write_text(json.dumps(state))
    (folder / 'dataset_info.json').write_text('{}')


def examples(source):
    """[(pixel value, label)] of all examples."""
    return [(int(source[i]['image'][0, 0, 0]), source[i]['label']) for i in range(len(source))]


def check(make_data, root, **fields):
    """Checks that the values 0 to 4 are trained on, and 5 to 7 evaluated on."""
    data = make_data(name=f'datasets:{root}', **fields)
    train, test = (datasets.load(data, split) for split in ('train', 'eval'))
    assert examples(train) == [(i, i % 2) for i in range(5)]
    assert examples(test) == [(i, i % 2) for i in range(5, 8)]
    assert datasets.has_training(data)
    return train, test


def test_saved_splits(tmp_path, make_data):
    saved(tmp_path / 'train', range(5), shards=2)
    saved(tmp_path / 'test', range(5, 8))
    (tmp_path / 'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
    train, test = check(make_data, tmp_path)
    assert train.class_names == ('cat', 'dog') and test.split_kind == 'test'
    assert train.files[3] == 'example 3 (3.png)' and train.labels().tolist() == [0, 1, 0, 1, 0]
    copy = pickle.loads(pickle.dumps(train))
    assert examples(copy) == examples(train) and copy.identity() == train.identity()
    other = datasets.load(make_data(name=f'datasets:{tmp_path}'), 'eval', ('eel', 'dog', 'cat'))
    assert other.labels().tolist() == [1, 2, 1]
    (tmp_path / 'train' / 'data-00001-of-00002.arrow').unlink()
    with pytest.raises(UserError, match='data-00001-of-00002.arrow is missing: expected all files'):
        datasets.load(make_data(name=f'datasets:{tmp_path}'), 'train')


def test_one_split_is_only_evaluated_on(tmp_path, make_data):
    saved(tmp_path / 'one', range(3))
    data = make_data(name=f'datasets:{tmp_path}/one')
    assert examples(datasets.load(data, 'eval')) == [(0, 0), (1, 1), (2, 0)]
    assert not datasets.has_training(data)
    with pytest.raises(UserError, match='has no split to train on, but all: expected train'):
        datasets.load(data, 'train')


def test_parquet_files_of_the_hub(tmp_path, make_data, cache, caplog):
    """They are copied to the cache once; the identity is that of the original files."""
    (tmp_path / 'data').mkdir()
    for name, values in {'train-00000-of-00002': range(3), 'train-00001-of-00002': [3, 4]}.items():
        parquet.write_table(content(values), tmp_path / 'data' / f'{name}.parquet')
    parquet.write_table(
        content(range(5, 8)), tmp_path / 'data' / 'validation-00000-of-00001.parquet'
    )
    with caplog.at_level(logging.INFO):
        train, test = check(make_data, tmp_path)
        assert caplog.text.count('copying') == 2
        check(make_data, tmp_path)
    assert caplog.text.count('copying') == 2 and test.split == 'validation'
    assert all(file.is_relative_to(cache) for file in train.files._files)
    before = train.identity()
    parquet.write_table(content([9, 8, 7]), tmp_path / 'data' / 'train-00000-of-00002.parquet')
    changed = datasets.load(make_data(name=f'datasets:{tmp_path}'), 'train')
    assert examples(changed)[0] == (9, 1) and changed.identity()['digest'] != before['digest']


def test_the_features_may_be_in_the_readme(tmp_path, make_data):
    (tmp_path / 'README.md').write_text(
        '---\ndataset_info:\n  features:\n  - name: picture\n    dtype: image\n  - name: label\n'
        '    dtype:\n      class_label:\n        names:\n'
        "          '1': dog\n          '0': cat\n---\n"
    )
    for name, values in {'train': range(5), 'test': range(5, 8)}.items():
        table = content(values, features=False).rename_columns(['picture', 'label'])
        parquet.write_table(table, tmp_path / f'{name}.parquet')
    train, _ = check(make_data, tmp_path)
    assert train.class_names == ('cat', 'dog')


def test_columns_are_chosen(tmp_path, make_data):
    """By their kind, by name, or by the config; binary columns are images too."""
    for name, values in {'train': range(5), 'test': range(5, 8)}.items():
        images = pa.array([png(value) for value in values])
        other = pa.array([0] * len(values))
        table = content(values, label='fine_label', coarse_label=other, thumb=images)
        parquet.write_table(table, tmp_path / f'{name}.parquet')
    train, _ = check(make_data, tmp_path)
    assert train.class_names == ('cat', 'dog')
    check(make_data, tmp_path, image_column='thumb')
    one = make_data(name=f'datasets:{tmp_path}', label_column='coarse_label')
    assert datasets.load(one, 'train').labels().tolist() == [0] * 5
    with pytest.raises(UserError, match="image_column is 'thum', .*one of image, fine.* Did"):
        check(make_data, tmp_path, image_column='thum')
    with pytest.raises(UserError, match="column 'coarse_label' has int64: expected encoded images"):
        check(make_data, tmp_path, image_column='coarse_label')


def test_several_labels(tmp_path, make_data):
    kinds = {'image': {'_type': 'Image'}}
    kinds['label'] = {'_type': 'List', 'feature': {'_type': 'ClassLabel', 'names': NAMES}}
    table = pa.table({'image': content([0, 1, 2])['image'], 'label': [[0, 1], [], [1]]})
    table = table.replace_schema_metadata(
        {'huggingface': json.dumps({'info': {'features': kinds}})}
    )
    parquet.write_table(table, tmp_path / 'train.parquet')
    data = make_data(name=f'datasets:{tmp_path}', multi_label=True)
    assert datasets.load(data, 'train').labels().tolist() == [[1, 1], [0, 0], [0, 1]]


@pytest.mark.parametrize('form', ['csv', 'jsonl', 'root'])
def test_folders_with_metadata(tmp_path, make_data, form):
    rows = {'train': range(5), 'test': range(5, 8)}
    lines = {split: [(f'{i}.png', NAMES[i % 2]) for i in values] for split, values in rows.items()}
    for split, values in rows.items():
        (tmp_path / split).mkdir()
        for value in values:
            (tmp_path / split / f'{value}.png').write_bytes(png(value))
        file = tmp_path / split / f'metadata.{form}'
        if form == 'jsonl':
            texts = [json.dumps({'file_name': n, 'label': c, 'size': 8}) for n, c in lines[split]]
            file.write_text('\n'.join(texts))
        elif form == 'csv':
            file.write_text('file_name,label\n' + ''.join(f'{n},{c}\n' for n, c in lines[split]))
    if form == 'root':
        body = [f'{split}/{n},{c}\n' for split in rows for n, c in lines[split]]
        (tmp_path / 'metadata.csv').write_text('file_name,label\n' + ''.join(body))
    train, _ = check(make_data, tmp_path)
    assert train.class_names == ('cat', 'dog')
    if form == 'jsonl':
        (tmp_path / 'train' / 'metadata.jsonl').write_text('{"file_name": "0.png", "label": 1}\n[]')
        with pytest.raises(UserError, match='metadata.jsonl: line 2 cannot be read .not an object'):
            check(make_data, tmp_path)


def test_broken_images_are_named(tmp_path, make_data, monkeypatch):
    monkeypatch.setattr('cls.data.broken._WAITS', ())
    table = content(range(3))
    images = [{'bytes': b'no image', 'path': 'x.png'}, {'bytes': None, 'path': None}, None]
    table = table.set_column(0, 'image', pa.array(images, IMAGE))
    parquet.write_table(table, tmp_path / 'test.parquet')
    source = datasets.load(make_data(name=f'datasets:{tmp_path}'), 'eval')
    for index in (1, 2):
        with pytest.raises(UserError, match=rf'example {index} of .* cannot be read .it is empty'):
            source[index]
    with pytest.raises(UserError, match=r'3 of the 3 images in .*: example 0 \(x.png\) \(not '):
        source[0]


@pytest.mark.parametrize(
    'files, message',
    [
        ({}, 'has no file of a data set: expected a folder that save_to_disk wrote'),
        ({'cat/0.png': b''}, r'has no file of a data set \(folder:.* reads folders of classes\)'),
        ({'dataset_dict.json': b'{'}, 'dataset_dict.json cannot be read'),
        ({'dataset_dict.json': b'{}'}, 'names no splits'),
        ({'state.json': b'{"_data_files": [{"filename": "../x"}]}'}, 'state.json names no files'),
        ({'train.parquet': b'no'}, 'train.parquet cannot be read .*expected a Parquet file'),
        ({'x-train.arrow': b'no'}, 'x-train.arrow cannot be read .*expected an Arrow file'),
        (
            {'a/train.parquet': b'', 'b/train.parquet': b''},
            'several configurations, a, b: expected one of them, as datasets:.*/a',
        ),
    ],
    ids=str,
)
def test_errors(tmp_path, make_data, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=message) as error:
        datasets.load(make_data(name=f'datasets:{tmp_path}'), 'train')
    assert '\n' not in str(error.value)


def test_a_disk_without_room_for_the_copy(tmp_path, make_data, monkeypatch):
    parquet.write_table(content(range(3)), tmp_path / 'train.parquet')
    monkeypatch.setattr(arrow_images.shutil, 'disk_usage', lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match='no space left for a copy of .* set CLS_CACHE_DIR'):
        datasets.load(make_data(name=f'datasets:{tmp_path}'), 'train')


def test_splits_of_file_names():
    names = {
        'data/train-00000-of-00005.parquet': 'train',
        'data/fold.1-00000-of-00005-abc.parquet': 'fold.1',
        'imagenet1k-train-0001.tar': 'train',
        'dev/0.parquet': 'validation',
        'my_testing_files/0.parquet': 'test',
        'contest.parquet': '',
        'trainer.parquet': '',
    }
    assert {name: split_files.split_of(name) for name in names} == names


@pytest.mark.parametrize('form', ['dict', 'hub', 'folder'])
def test_what_the_package_writes_is_read_alike(tmp_path, make_data, form):
    """The package itself writes and reads: the same images and labels, in the same order."""
    package = pytest.importorskip('datasets')
    kinds = {'image': package.Image(), 'label': package.ClassLabel(names=NAMES)}
    noise = np.random.default_rng(0).integers(256, size=(8, 9, 7, 3), dtype=np.uint8)
    parts = {'train': range(5), 'test': range(5, 8)}

    def split(values):
        columns = {'image': [Image.fromarray(noise[i]) for i in values]}
        columns['label'] = [i % 2 for i in values]
        return package.Dataset.from_dict(columns, features=package.Features(kinds))

    if form == 'dict':
        made = package.DatasetDict({name: split(values) for name, values in parts.items()})
        made.save_to_disk(tmp_path / 'd', num_shards={'train': 3, 'test': 1})
        read = package.load_from_disk(tmp_path / 'd')
    elif form == 'hub':
        for name, values in parts.items():
            (tmp_path / 'd' / 'data').mkdir(parents=True, exist_ok=True)
            split(values).to_parquet(tmp_path / 'd' / 'data' / f'{name}-00000-of-00001.parquet')
        read = package.load_dataset(str(tmp_path / 'd'), cache_dir=tmp_path / 'cache')
    else:
        for name, values in parts.items():
            (tmp_path / 'd' / name).mkdir(parents=True)
            for i in values:
                Image.fromarray(noise[i]).save(tmp_path / 'd' / name / f'{i}.png')
            rows = [f'{i}.png,{NAMES[i % 2]}\n' for i in values]
            (tmp_path / 'd' / name / 'metadata.csv').write_text('file_name,label\n' + ''.join(rows))
        read = package.load_dataset(
            'imagefolder', data_dir=tmp_path / 'd', cache_dir=tmp_path / 'c'
        )
    data = make_data(name=f'datasets:{tmp_path}/d')
    for name, part in (('train', 'train'), ('test', 'eval')):
        source, rows = datasets.load(data, part), read[name]
        assert len(source) == len(rows)
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(source[i]['image'], np.asarray(row['image']))
            label = row['label'] if form != 'folder' else NAMES.index(row['label'])
            assert source[i]['label'] == label
