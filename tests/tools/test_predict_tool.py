"""cls predict: its inputs, formats, embeddings, and images that cannot be read."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cls
from cls.errors import UserError
from cls.inference import inputs
from cls.storage import paths
from cls.tools import predict

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests/inference'))

from tiny_run import encoded, pixels, write_run  # noqa: E402


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture
def photos(tmp_path):
    """Five images in folders, two of them named as classes, and files that are none."""
    folder = tmp_path / 'photos'
    for i, name in enumerate(('ant/0.png', 'ant/deep/1.png', 'bee/2.png', 'other/3.png', '4.png')):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(pixels(i, 40, 45)))
    (folder / 'notes.txt').write_text('no image')
    return folder


def result_of(capsys, *arguments):
    code = predict.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_table_has_the_answers_of_the_library(run, photos, capsys):
    code, out, err = result_of(capsys, '--from', run, photos, '--top', 2)
    assert code == 0
    lines = out.splitlines()
    names = ['4.png', 'ant/0.png', 'ant/deep/1.png', 'bee/2.png', 'other/3.png']
    assert [line.split('  ')[0] for line in lines] == [str(photos / name) for name in names]
    best = cls.load(run).predict(photos / '4.png')[0]
    shown = {'n01440764': 'tench (n01440764)'}.get(best.label, best.label)
    assert lines[0].split('  ')[1] == f'{shown} {best.probability:.4f}'
    assert 'left out 1 of other formats (.txt 1)' in err
    assert '\n5 images in ' in err
    assert ' of 3 labeled' in err


def test_json_has_all_fields(run, photos, tmp_path, capsys):
    file = tmp_path / 'out.json'
    code, out, _ = result_of(capsys, '--from', run, photos, '--output', file)
    assert (code, out) == (0, '')
    rows = json.loads(file.read_text())
    assert [row['label'] for row in rows] == ['', 'ant', 'ant', 'bee', '']
    model = cls.load(run)
    for row in rows:
        wanted = model.predict(row['image'], top=5)
        assert [p['label'] for p in row['predictions']] == [p.label for p in wanted]
        assert [p['name'] for p in row['predictions']] == [p.name for p in wanted]
        ours = [p['probability'] for p in row['predictions']]
        assert ours == pytest.approx([p.probability for p in wanted], abs=1e-6)


def test_csv_and_parquet_are_the_same_table(run, photos, tmp_path, capsys):
    parquet = pytest.importorskip('pyarrow.parquet')
    broken = photos / 'broken.png'
    broken.write_bytes(b'nothing')
    code, out, err = result_of(capsys, '--from', run, photos, '--csv', '--top', 3)
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0])[:5] == ['image', 'label', 'class1', 'name1', 'probability1']
    assert [row['error'] for row in rows].count('not an image') == 1
    assert f'  {broken}: not an image' in err
    assert 'error: 1 of 6 images were not read' in err
    file = tmp_path / 'out.parquet'
    assert result_of(capsys, '--from', run, photos, '--output', file, '--top', 3)[0] == 1
    table = parquet.read_table(file).to_pylist()
    for one, other in zip(table, rows, strict=True):
        assert one['image'] == other['image']
        assert (one['class1'] or '') == other['class1']
        if one['class1']:
            assert one['probability1'] == pytest.approx(float(other['probability1']), abs=1e-6)


def test_embeddings_are_those_of_the_library(run, photos, tmp_path, capsys):
    file = tmp_path / 'e.npz'
    code, _, _ = result_of(capsys, '--from', run, photos, 'none.png', '--embed', file)
    assert code == 1
    with np.load(file) as saved:
        names, vectors = saved['images'], saved['embeddings']
        assert saved['layer'] == 'pre_logits'
    assert len(names) == 5
    model = cls.load(run)
    np.testing.assert_allclose(vectors, model.embed([str(n) for n in names]), rtol=1e-4, atol=1e-6)


def test_thousands_of_images_are_complete_and_in_order(run, photos):
    """More than the batches that wait and fly, with broken ones between them."""
    model = cls.load(run)
    model.batch = 1
    good = [pixels(i, 33, 33) for i in range(7)]
    each = [(str(i), b'broken' if i % 100 == 57 else good[i % 7]) for i in range(1000)]
    results = list(model.stream(each))
    assert [result.name for result in results] == [str(i) for i in range(1000)]
    wanted = model(good)
    for i, result in enumerate(results):
        assert bool(result.error) == (i % 100 == 57)
        if not result.error:
            np.testing.assert_allclose(result.probabilities, wanted[i % 7], atol=1e-6)


@pytest.mark.parametrize(('protocol', 'most'), [('single', 99), ('ten_crop', 12)])
def test_memory_is_bounded_by_batches(run, protocol, most):
    """A stream reads its images only as far as needed: fewer if each has many views."""
    model, read = cls.load(run), []
    model.batch = 1

    def images():
        for i in range(10_000):
            read.append(i)
            yield str(i), pixels(0, 33, 33)

    stream = model.stream(images(), protocol=protocol)
    next(stream)
    assert len(read) <= most
    stream.close()


def test_dense_protocols_wait_for_images_of_one_shape(run):
    model = cls.load(run)
    sizes = [(40, 40 + 8 * (i % 2)) for i in range(19)]
    each = [(str(i), pixels(i, *size)) for i, size in enumerate(sizes)]
    together = list(model.stream(each, protocol='dense', size_divisor=4))
    assert [result.name for result in together] == [name for name, _ in each]
    for (name, image), result in list(zip(each, together, strict=True))[::6]:
        (alone,) = model.stream([(name, image)], protocol='dense', size_divisor=4)
        np.testing.assert_allclose(result.probabilities, alone.probabilities, atol=1e-6)


def test_patterns_lists_and_labels(photos, tmp_path, monkeypatch):
    matched = inputs.expand([f'{photos}/**/*.png'], ('ant',))
    assert [Path(one.name).name for one in matched] == ['4.png', '0.png', '1.png', '2.png', '3.png']
    listed = tmp_path / 'list.csv'
    listed.write_text('label,Path\nant,photos/ant/0.png\n2,"photos/4.png"\n')
    each = inputs.expand([str(listed)])
    assert [(one.label, one.name) for one in each] == [
        ('ant', 'photos/ant/0.png'),
        ('2', 'photos/4.png'),
    ]
    assert each[0].image == str(photos / 'ant/0.png')
    bare = tmp_path / 'bare.tsv'
    bare.write_text(f'{photos}/4.png\tx\n')
    assert [one.name for one in inputs.expand([str(bare)])] == [f'{photos}/4.png']
    labeled = inputs.expand([str(photos)], ('ant', 'deep', 'photos'))
    assert [one.label for one in labeled] == ['', 'ant', 'deep', '', '']


def test_standard_input_is_an_image_or_a_list_of_paths(run, photos):
    command = [sys.executable, '-m', 'cls', 'predict', '--from', run, '-', '--json']
    image = (photos / '4.png').read_bytes()
    (one,) = json.loads(subprocess.run(command, cwd=ROOT, input=image, capture_output=True).stdout)
    assert one['image'] == '-'
    text = f'{photos}/4.png\n{photos}/none.png\n'.encode()
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True)
    assert done.returncode == 1
    first, second = json.loads(done.stdout)
    assert first['predictions'] == one['predictions']
    assert second['error'].startswith('it cannot be read')


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['--top', '0', 'x.png'], '--top is 0: expected 1 or more'),
        (['--parquet', 'x.png'], '--parquet needs --output'),
        (['--output', 'x.txt', 'x.png'], 'expected a file NAME.json'),
        (['--output', '/nowhere/x.csv', 'x.png'], 'there is no folder /nowhere'),
        (['--embed', 'x.npy', 'x.png'], 'expected a file NAME.npz'),
        (['--layer', 'top', '--embed', 'x.npz', 'x.png'], "--layer is 'top': expected one of stem"),
        (['--protocol', 'tencrop', 'x.png'], "--protocol is 'tencrop': expected one of single"),
        (['nothing-*.png'], "no file matches 'nothing-"),
        ([''], 'the name of an image is empty'),
        (['--output', '.', '--csv', 'x.png'], 'is a folder: expected a file'),
        (['--embed', 'x.npz', '--csv', '--output', 'x.npz', 'x.png'], 'are both x.npz'),
        (['--layer', 'stage1', 'x.png'], '--layer is the layer of --embed'),
        (['--scales', '32', 'x.png'], '--scales is for dense protocols'),
        (['--scales', '64,0', 'x.png'], "--scales is '64,0': expected pixels"),
        (['--scales', 'big', 'x.png'], "--scales is 'big': expected pixels"),
        (['--variant', 'resnet50', 'x.png'], 'is a run folder.*leave variant out'),
        (['--json', '--csv', 'x.png'], 'not allowed with argument'),
    ],
)
def test_mistakes_end_before_anything_is_written(run, flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        predict.main(['--from', str(run), *flags])
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_with_force_and_an_image_never(run, photos, tmp_path, capsys):
    output, image = tmp_path / 'out.csv', photos / '4.png'
    output.write_text('another')
    source = ['--from', run, photos, '--csv']
    with pytest.raises(UserError, match='out.csv exists: .*--force to replace it'):
        result_of(capsys, *source, '--output', output)
    assert output.read_text() == 'another'
    assert result_of(capsys, *source, '--output', output, '--force')[0] == 0
    assert output.read_text().startswith('image,')
    before = image.read_bytes()
    with pytest.raises(UserError, match='would replace .*4.png, one of the images'):
        result_of(capsys, *source, '--output', image, '--force')
    assert image.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission_is_named_before_the_model_loads(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match='may not be written to'):
        predict.main(['--from', '/nowhere', '--output', str(tmp_path / 'x.csv'), 'x.png'])


def test_a_list_of_names_that_are_not_utf8_is_no_image(monkeypatch, tmp_path):
    names = [os.fsencode(tmp_path) + end for end in (b'/\xff.png', b'/a\xe2\x80\xa8b.png')]
    content = b'\r\n'.join(names) + b'\n'
    for exists in (False, True):
        if exists:
            Path(os.fsdecode(names[0])).write_bytes(b'')
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))
        each = inputs.expand(['-'])
        wanted = [os.fsdecode(name) for name in names] if exists else ['-']
        assert [one.name for one in each] == wanted


def test_a_name_stays_on_its_line(run, tmp_path, capsys):
    for i, name in enumerate((b'a\nb.png', b'c\xff.png', 'd\u00e9\u65e5.png'.encode())):
        content = encoded(pixels(i, 40, 45)) if i else b'nothing'
        Path(os.fsdecode(os.fsencode(tmp_path) + b'/' + name)).write_bytes(content)
    code, out, err = result_of(capsys, '--from', run, tmp_path)
    assert code == 1
    assert [Path(line.split('  ')[0]).name for line in out.splitlines()] == [
        r'a\nb.png',
        r'c\udcff.png',
        'd\u00e9\u65e5.png',
    ]
    assert err.splitlines()[-1].endswith(r'a\nb.png: not an image')


def test_labels_of_other_classes_are_counted_apart(run, photos, tmp_path, capsys):
    listed = tmp_path / 'list.csv'
    listed.write_text(f'path,label\n{photos}/4.png,ant\n{photos}/bee/2.png,unicorn\n')
    _, _, err = result_of(capsys, '--from', run, listed)
    assert ' of 1 labeled' in err
    assert 'WARNING: 1 labels are no class of the model' in err


def test_a_list_that_is_no_table_is_named(tmp_path):
    listed = tmp_path / 'list.csv'
    listed.write_text('x' * 200_000)
    with pytest.raises(UserError, match=r'cannot be read \(field larger'):
        inputs.expand([str(listed)])


def test_a_folder_or_list_without_images_is_named(tmp_path):
    with pytest.raises(UserError, match='has no images'):
        inputs.expand([str(tmp_path)])
    empty = tmp_path / 'list.csv'
    empty.write_text('path\n')
    with pytest.raises(UserError, match='lists no images'):
        inputs.expand([str(empty)])


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('label,path\ncat,\n', 'line 2 has no path'),
        ('path\na.png\n\n"",x\n', 'line 4 has no path'),  # empty lines count too
        ('path\na\0b.png\n', 'line 2 has a path with a zero byte'),
        ('path;label\na.png;cat\n', "separates its cells by ';': expected ',' in a .csv list"),
        ('image\tlabel\na.png\tcat\n', r"separates its cells by '\\t'"),
    ],
)
def test_a_list_with_a_mistake_is_named_with_its_line(tmp_path, content, message):
    listed = tmp_path / 'list.csv'
    listed.write_text(content)
    with pytest.raises(UserError, match=message):
        inputs.expand([str(listed)])


def test_standard_input_is_read_once():
    with pytest.raises(UserError, match='is there twice'):
        inputs.expand(['-', 'a.png', '-'])


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    flags = ['--csv', '--force', '--output', str(pipe), 'x.png']
    with pytest.raises(UserError, match='is a device or a pipe'):
        predict.main(['--from', '/nowhere', *flags])
    with pytest.raises(UserError, match='is a device or a pipe'):
        paths.write_whole(pipe, b'')
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ['pipe']
