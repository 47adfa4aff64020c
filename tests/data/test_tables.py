"""Tables of paths and labels: CSV and Parquet files, their mistakes, splits and several labels."""

import csv
import io
import logging
import os
import pickle
import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cls.data import csv_files, datasets, order, pipeline, table_files, tables
from cls.data.file_list import hashed
from cls.errors import UserError

TEXT = 'image,label\na.png,cat\nb.png,dog\nc.png,cat\n'
SPLIT = 'split,label,image\ntrain,cat,a.png\nval,dog,b.png\ntrain,dog,c.png\ntest,cat,d.png\n'


@pytest.fixture
def images(tmp_path):
    """A folder with the images a.png to f.png; their pixels are 0 to 5."""
    for value, name in enumerate('abcdef'):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / f'{name}.png')
    return tmp_path


@pytest.fixture
def opened(images, make_data):
    """A function: (content of a CSV file, split, classes, fields) -> the source."""

    def load(text, split='eval', classes=(), name='t.csv', class_file='', **fields):
        (images / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        fields |= {'name': f'csv:{images / name}', 'classes': str(class_file)}
        data = make_data(**fields)
        return datasets.load(data, split, classes)

    return load


def examples(source):
    """[(pixel value, label)] of all examples."""
    return [(int(source[i]['image'][0, 0, 0]), source[i]['label']) for i in range(len(source))]


@pytest.mark.parametrize(
    'text',
    [
        TEXT,
        TEXT.replace('\n', '\r\n'),
        '\ufeff' + TEXT,
        TEXT.rstrip(),
        TEXT.replace('b.png', '\n\nb.png', 1).replace('dog\n', 'dog\n\n'),
        'Label , IMAGE,note\ncat,a.png,"one, two\nlines ""quoted"""\n'
        'dog,"b.png",\n"cat",c.png,5" wide\n',
    ],
    ids=['plain', 'crlf', 'bom', 'no end', 'blank lines', 'quotes'],
)
def test_rows_are_examples_in_their_order(opened, text, caplog):
    with caplog.at_level(logging.INFO):
        source = opened(text)
    assert examples(source) == [(0, 0), (1, 1), (2, 0)]
    assert source.class_names == ('cat', 'dog') and list(source.files) == [
        'a.png',
        'b.png',
        'c.png',
    ]
    assert source.labels().dtype == np.int32
    if 'note' in text:
        assert "labels in 'Label '; not read: note" in caplog.text


def test_tabs_separate_the_cells_of_a_tsv(opened):
    assert examples(opened(TEXT.replace(',', '\t'), name='t.tsv')) == [(0, 0), (1, 1), (2, 0)]


def test_batches_equal_those_of_a_folder(birds, make_data):
    """A table of the files of a folder, in its order: the same batches, also after a restart."""
    folder = datasets.load(make_data(name=f'folder:{birds}', image_size=24), 'train')
    names = [folder.class_names[label] for label in folder.labels()]
    rows = [f'{file},{name}' for file, name in zip(folder.files, names, strict=True)]
    (birds / 'train' / 'list.csv').write_text('\n'.join(['path,class', *rows, '']))
    fields = {'train_crop': 'random_resized', 'image_size': 24, 'eval_split': 'list.csv'}
    data = make_data(name=f'csv:{birds}/train/list.csv', **fields)
    table = datasets.load(data, 'train')
    kwargs = {'batch': 8, 'seed': 3, 'num_classes': 3}
    expected, found = (pipeline.train_batches(s, data, **kwargs) for s in (folder, table))
    for _ in range(3):
        batch = next(expected)
        for key, value in next(found).items():
            np.testing.assert_array_equal(value, batch[key])
    again = pipeline.train_batches(pickle.loads(pickle.dumps(table)), data, **kwargs)
    again.set_state({'step': 2})
    np.testing.assert_array_equal(next(again)['image'], batch['image'])
    for batches in (expected, found, again):
        batches.close()


def test_a_column_has_the_splits(opened, images, make_data):
    """The validation split is evaluated on, the test split if it is asked for."""
    train, val = (opened(SPLIT, split) for split in ('train', 'eval'))
    assert examples(train) == [(0, 0), (2, 1)] and examples(val) == [(1, 1)]
    assert (train.split, val.split, val.split_kind) == ('train', 'val', 'validation')
    assert examples(opened(SPLIT, eval_split='Testing')) == [(3, 0)]
    assert datasets.has_training(make_data(name=f'csv:{images}/t.csv'))
    other = opened(SPLIT.replace('train', 'fold 1'), 'train', train_split='fold 1')
    assert examples(other) == [(0, 0), (2, 1)]
    with pytest.raises(
        UserError, match='no split to train on, but fold 1, val, test: expected train next'
    ):
        opened(SPLIT.replace('train', 'fold 1'), 'train')
    assert examples(opened(SPLIT.replace('train', 'fold 1'))) == [(1, 0)]  # dog is its only class


def test_each_split_may_have_a_table(images, opened, make_data):
    """In one folder, or as a second table; the classes are those of the training images."""
    opened(TEXT, name='train.csv')
    opened('image,label\nd.png,dog\n', name='test.csv')
    data = make_data(name=f'csv:{images}')
    assert examples(datasets.load(data, 'train')) == [(0, 0), (1, 1), (2, 0)]
    assert examples(datasets.load(data, 'eval')) == [(3, 1)]
    pair = make_data(name=f'csv:{images}/train.csv', eval_split='test.csv')
    assert examples(datasets.load(pair, 'eval')) == [(3, 1)] and datasets.has_training(pair)
    alone = make_data(name=f'csv:{images}/train.csv')
    assert len(datasets.load(alone, 'eval')) == 3 and not datasets.has_training(alone)
    with pytest.raises(UserError, match='no split to train on, but all: expected'):
        datasets.load(alone, 'train')
    (images / 'test.csv').write_text('image,label\nd.png,doge\n')
    with pytest.raises(UserError, match=r"test.csv: line 2 has the label 'doge', .* mean dog\?"):
        datasets.load(data, 'eval')


def test_a_part_is_held_out_for_validation(images, make_data):
    """Without splits all that is not held out is trained on, and the held-out part tested."""
    names = 'abcdef'
    rows = ''.join(f'{name}.png,{"cat" if i % 2 else "dog"}\n' for i, name in enumerate(names))
    (images / 't.csv').write_text('image,label\n' + rows)
    data = make_data(name=f'csv:{images}/t.csv', validation='0.34')
    train, held = datasets.training(data)
    assert sorted(examples(train) + examples(held)) == [(i, (i + 1) % 2) for i in range(6)]
    assert held.labels().tolist().count(0) == held.labels().tolist().count(1) == 1
    assert datasets.has_training(data) and not datasets.has_test(data)
    assert examples(datasets.testing(data, held)) == examples(held)
    (images / 't.csv').write_text('image,label\n' + rows.replace('dog', 'cat|dog'))
    several = make_data(name=f'csv:{images}/t.csv', validation='0.5', multi_label=True)
    train, held = datasets.training(several)
    assert (len(train), len(held)) == (3, 3) and held.multi_label
    assert held[0]['label'].shape == (2,)


def test_a_split_may_be_for_validation(images, opened, make_data):
    opened(SPLIT)
    data = make_data(name=f'csv:{images}/t.csv', validation='val')
    datasets.check_disjoint(data)
    assert examples(datasets.load(data, 'validation')) == [(1, 1)]
    assert datasets.has_test(data) and examples(datasets.load(data, 'eval')) == [(3, 0)]
    with pytest.raises(UserError, match="validation is 'train', which is trained on: expected ano"):
        datasets.check_disjoint(make_data(name=f'csv:{images}/t.csv', validation='train'))


def test_labels_may_be_integers(opened, caplog):
    text = 'image,label\na.png,0\nb.png,10\nc.png,2\n'
    source = opened(text)
    assert source.labels().tolist() == [0, 10, 2] and source.num_classes == 11
    assert not source.class_names
    assert 'are the integers 0 to 10; without examples: 1, 3, 4, 5, 6, ...' in caplog.text
    names = tuple('abcdefghijkl')
    assert opened(text, classes=names).labels().tolist() == [0, 10, 2]
    assert opened(text, classes=('10', '2', '0')).labels().tolist() == [2, 0, 1]  # names
    assert opened(text.replace('2', '02')).class_names == ('0', '02', '10')  # no integers
    with pytest.raises(
        UserError, match="line 3 has the label '10', which is none of the 2 classes"
    ):
        opened(text, classes=('cat', 'dog'))
    with pytest.raises(UserError, match='3 different labels, integers up to 99998: .*data.classes'):
        opened(text.replace('10', '99998'))


def test_a_file_names_the_classes(opened, images):
    (images / 'classes.txt').write_text('eel\ndog\ncat\n')
    (images / 'classes.json').write_text('["eel", "dog", "cat"]')
    for name in ('classes.txt', 'classes.json'):
        source = opened(TEXT, class_file=images / name)
        assert source.labels().tolist() == [2, 1, 2]
        assert source.class_names == ('eel', 'dog', 'cat')
    (images / 'classes.txt').write_text('eel\ndog\neel\n')
    with pytest.raises(UserError, match=r"classes.txt has the name 'eel' twice"):
        opened(TEXT, class_file=images / 'classes.txt')


def test_an_image_may_have_several_labels(opened):
    text = 'image,label\na.png,cat|dog\nb.png,\nc.png,eel\n'
    source = opened(text, multi_label=True)
    expected = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], np.uint8)
    np.testing.assert_array_equal(source.labels(), expected)
    assert source.labels().dtype == source[0]['label'].dtype == np.uint8
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]['label'], expected[0])
    other = opened(text.replace('eel', 'dog|eel'), multi_label=True)
    assert other.identity()['digest'] != source.identity()['digest']
    with pytest.raises(
        UserError, match=r"line 2 has several labels, 'cat\|dog': .*multi_label=True"
    ):
        opened(text.replace(',\n', ',eel\n'))
    with pytest.raises(UserError, match='line 2 has a label twice'):
        opened(text.replace('dog', 'cat'), multi_label=True)


def test_batches_have_all_labels_of_an_image(opened, make_data):
    source = opened('image,label\na.png,cat|dog\nb.png,\nc.png,dog\n', multi_label=True)
    data = make_data(image_size=8)
    kwargs = {'batch': 4, 'num_classes': 2}
    (batch,) = pipeline.eval_batches(source, data, **kwargs)
    assert batch['label'].tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    assert batch['label'].dtype == np.uint8 and batch['mask'].tolist() == [True, True, True, False]
    batches = pipeline.train_batches(source, data, seed=0, **kwargs)
    at = order.shuffled(np.arange(4), 3, 0)
    np.testing.assert_array_equal(next(batches)['label'], source.labels()[at])
    batches.close()
    with pytest.raises(UserError, match='data.balanced draws by the class'):
        pipeline.train_batches(source, make_data(balanced=True), seed=0, **kwargs)


@pytest.mark.parametrize(
    'text, message',
    [
        ('image,label\na.png,cat\nb.png\n', 'line 3 has 1 cells: expected 2, as the header: image'),
        ('image,label\na.png,cat\n\nb.png,dog,3\n', 'line 4 has 3 cells: expected 2'),
        ('image,label\na.png,cat\nb.png,\n', 'line 3 has no label: expected one, or leave'),
        ('image,label\na.png,cat\n,dog\n', 'line 3 has no path: expected one in each row'),
        ('image,label\na.png,cat\n"b.png,dog\n', 'line 3 cannot be read .*every quote closed'),
        ('image,label\na.png,cat\nb.png,"do"g\n', 'line 3 cannot be read .*every quote closed'),
        ('image,label\n"a.png\nb.png",dog\n', 'line 3 has a path with a line end .a quote'),
        ('image,label\na.png,cat\nb.png,dog \n', "line 3 has the label 'dog ': .*without spaces"),
        ('image,label\na.png,cat\na.png,dog\n', 'line 3 has the image of line 2, a.png, with ano'),
        ('image,label\na.png,cat\nnone.png,dog\n', 'line 3 names none.png, which does not exist'),
        ('image,label\na.png,cat\nb.png,é\n'.encode('latin-1'), 'line 3 is not UTF-8'),
        ('image,label\na.png,1\nb.png,-1\n', 'has the label -1: expected 0 or more'),
        ('image,label,split\na.png,1,train\nb.png,0,\n', 'line 3 has no split: expected one'),
        ('image;label\na.png;cat\n', "no column image or path .*separated by ';': expected commas"),
        ('image,labl\na.png,cat\n', 'no column label or labels or class .*but image, labl'),
        ('image,label,image\na.png,cat,a\n', "two columns have the name 'image'"),
        (TEXT.encode('utf-16'), 'is UTF-16: .*in Excel'),
        ('', 'is empty'),
        ('image,label\n', 'has no rows'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else 'bytes',
)
def test_a_mistake_is_named_by_its_line(opened, text, message):
    with pytest.raises(UserError, match=message) as error:
        opened(text)
    assert '\n' not in str(error.value)


def test_other_mistakes(opened, images, make_data):
    with pytest.raises(
        UserError, match=r"label_column is 'lable', .* one of image, label\. Did you"
    ):
        opened(TEXT, label_column='lable')
    with pytest.raises(UserError, match=r'no\.csv does not exist: expected a table of images'):
        datasets.load(make_data(name=f'csv:{images}/no.csv'), 'eval')
    with pytest.raises(UserError, match=r'has no table of a split: expected train.csv and val.csv'):
        datasets.load(make_data(name=f'csv:{images}'), 'eval')
    with pytest.raises(UserError, match='it exists in the working directory'):
        opened(f'image,label\n{os.path.relpath(__file__)},cat\n')


def test_repeated_images_count_and_are_named(opened, caplog):
    assert len(opened('image,label\na.png,cat\nb.png,dog\na.png,cat\n')) == 3
    assert 'line 4 has the image of line 2, a.png: 1 row(s) repeat' in caplog.text
    opened('image,label,split\na.png,cat,train\na.png,cat,val\n')
    assert 'line 3 has the image of line 2, a.png, which is of another split' in caplog.text


def test_an_image_that_vanishes_is_named_by_its_line(opened, images, monkeypatch):
    source = opened(SPLIT, 'train')
    monkeypatch.setattr('cls.data.broken._WAITS', ())
    (images / 'c.png').unlink()
    with pytest.raises(UserError, match=r't.csv: line 4 names .*c.png, which does not exist'):
        source[1]
    (images / 'a.png').write_bytes(b'text')
    with pytest.raises(UserError, match=r'2 of the 2 images in .* cannot be decoded: a.png'):
        source[0]


def test_the_identity_depends_on_names_and_labels_of_the_split(opened):
    before = opened(SPLIT, 'train').identity()
    assert opened(SPLIT.replace('test,cat', 'test,dog'), 'train').identity() == before
    for old, new in (('cat,a.png', 'dog,a.png'), ('a.png', 'f.png')):
        assert opened(SPLIT.replace(old, new), 'train').identity() != before
    absolute = opened(SPLIT.replace('a.png', os.path.abspath(__file__)), 'train')
    assert absolute.files.path(0) == os.path.abspath(__file__)


@pytest.mark.parametrize('seed', range(4))
def test_both_readers_split_rows_alike(tmp_path, seed):
    """Python's csv module on random text: the same cells, or an error in both."""
    draw = random.Random(seed)
    file = tmp_path / 't.csv'
    for _ in range(60):
        body = ''.join(draw.choices('ab,"\n\r ', [3, 1, 3, 4, 2, 0.5, 1], k=draw.randint(1, 16)))
        text = 'x,y\n' + body
        file.write_bytes(text.encode())
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=''), strict=True) if row]
            expected = rows[1:] if {len(row) for row in rows} == {2} else None
        except csv.Error:
            expected = None
        try:
            found = csv_files.read(file, ['x', 'y'])
            columns = [column.to_pylist() for column in found.columns]
            found = [list(row) for row in zip(*columns, strict=True)]
        except UserError:
            found = None
        assert found == expected, repr(text)


def test_large_files_are_checked_in_blocks(tmp_path, monkeypatch):
    """The position inside of quotes is kept from block to block."""
    file = tmp_path / 't.csv'
    for text, usual in (('a,"b""c"\n"",d\n', True), ('a,"b"c"\n', False), ('a,b"\n', False)):
        file.write_text(text)
        for size in range(1, 9):
            monkeypatch.setattr(csv_files, '_BLOCK', size)
            assert csv_files.is_usual(file) == usual, (text, size)


@pytest.mark.parametrize(
    'labels',
    [
        pa.array(['cat', 'dog', 'cat']),
        pa.array(['cat', 'dog', 'cat']).dictionary_encode(),
        pa.array([0, 1, 0], pa.uint8()),
        pa.array([0.0, 1.0, 0.0]),
        pa.array([False, True, False]),
    ],
    ids=str,
)
def test_parquet(images, make_data, labels):
    table = pa.table({'path': ['a.png', 'b.png', 'c.png'], 'target': labels, 'width': [8, 8, 8]})
    parquet.write_table(table, images / 't.parquet', row_group_size=2)
    data = make_data(name=f'parquet:{images}/t.parquet')
    assert examples(datasets.load(data, 'eval')) == [(0, 0), (1, 1), (2, 0)]


def test_mistakes_in_parquet_files(images, make_data):
    data = make_data(name=f'parquet:{images}/t.parquet')

    def load(**columns):
        parquet.write_table(pa.table(columns), images / 't.parquet')
        return datasets.load(data, 'eval')

    lists = load(image=['a.png', 'b.png'], label=[['cat'], ['dog']])
    assert examples(lists) == [(0, 0), (1, 1)]
    with pytest.raises(UserError, match='row 2 has 2 labels: expected one, or config.data.multi_l'):
        load(image=['a.png', 'b.png'], label=[['cat'], ['dog', 'cat']])
    with pytest.raises(UserError, match='row 2 has no label'):
        load(image=['a.png', 'b.png'], label=[1, None])
    with pytest.raises(UserError, match='row 1 has no path'):
        load(image=[None, 'b.png'], label=[1, 0])
    with pytest.raises(UserError, match=r"'label' cannot be read \(labels of type timestamp"):
        load(image=['a.png'], label=pa.array([0], pa.timestamp('s')))
    with pytest.raises(UserError, match='images in the table itself are read by datasets:DIR'):
        load(image=[{'bytes': b'', 'path': 'a'}], label=[0])
    (images / 't.parquet').write_bytes(b'no table')
    with pytest.raises(UserError, match='cannot be read .*expected a Parquet file'):
        datasets.load(data, 'eval')


def test_a_pickle_does_not_grow_with_the_rows(tmp_path, make_data, monkeypatch):
    monkeypatch.setattr(tables, '_look_for', lambda *_: None)
    sizes = []
    for count in (100_000, 200_000):
        rows = (f'{i}.png,{i % 3},{"val" if i % 7 == 5 else "train"}\n' for i in range(count))
        (tmp_path / f'{count}.csv').write_text('image,label,split\n' + ''.join(rows))
        source = datasets.load(make_data(name=f'csv:{tmp_path}/{count}.csv'), 'train')
        sizes.append(len(pickle.dumps(source)))
        assert pickle.loads(pickle.dumps(source)).files[-1] == source.files[-1]
    assert abs(sizes[0] - sizes[1]) < 40


def test_the_column_of_images_is_freed_as_it_is_read(tmp_path):
    """It is most of a table of millions of rows."""
    before, rows = pa.total_allocated_bytes(), 2**15
    paths = [f'{row:032}.png' for row in range(rows)]
    content = {
        'image': pa.chunked_array([paths[: rows // 2], paths[rows // 2 :]]),
        'label': pa.chunked_array([['cat', 'dog'] * (rows // 2)]),
    }
    assert pa.total_allocated_bytes() - before > 36 * rows
    table = table_files.made(tmp_path / 't.csv', content, 'image', 'label', None, False)
    assert [*content] == ['label']
    assert pa.total_allocated_bytes() - before < 18 * rows  # the labels
    assert [table.files[row] for row in (0, rows // 2, rows - 1)] == [
        paths[row] for row in (0, rows // 2, rows - 1)
    ]


def test_paths_are_hashed_and_searched_in_little_memory(tmp_path):
    rows = 2**16
    content, ends = np.full(64 * rows, 97, np.uint8), np.arange(rows + 1) * 64
    content[-1] = 10
    tracemalloc.start()
    try:
        hashes = hashed(content, ends)
        (row,) = table_files._rows_with(content, ends, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert row == rows - 1 and len(set(hashes.tolist())) == 2
    assert peak < 16 * rows + 2**24  # 64 * rows bytes of 64 bits each would be 2**25
