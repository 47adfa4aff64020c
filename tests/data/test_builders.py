"""Data sets prepared from files in their authors' layout: as TFDS's, only smaller."""

import gzip
import io
import re
import shutil
import struct
import tarfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import io as scipy_io

from cls.data import classes, datasets, tfds_sets
from cls.data.prepare import archives, builders, imagenet
from cls.errors import UserError
from cls.tools import prepare

RNG = np.random.default_rng(0)


def pixels(count, *shape):
    return np.random.default_rng(count).integers(256, size=(count, *shape), dtype=np.uint8)


def idx(values):
    header = struct.pack('>HBB', 0, 8, values.ndim) + struct.pack(f'>{values.ndim}I', *values.shape)
    return header + values.tobytes()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tar_of(path, members, mode='w'):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            add(tar, name, content)


def python2_pickle(batch):
    """Returns a pickle as Python 2 writes it; values are byte strings, lists or (N, M) uint8."""

    def string(value):
        return b'T' + struct.pack('<i', len(value)) + value

    def written(value):
        if isinstance(value, bytes):
            return string(value)
        if isinstance(value, list):
            items = [string(v) if isinstance(v, bytes) else b'K' + bytes([v]) for v in value]
            return b'](' + b''.join(items) + b'e'
        shape = b''.join(b'J' + struct.pack('<i', side) for side in value.shape)
        dtype = b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ' + b'\xff' * 4
        dtype += b'J' + b'\xff' * 4 + b'K\x00tb'
        array = b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
        return array + b'(K\x01(' + shape + b't' + dtype + b'\x89' + string(value.tobytes()) + b'tb'

    body = b''.join(string(key) + written(value) + b's' for key, value in batch.items())
    return b'\x80\x02}' + body + b'.'


def prepared(tmp_path, make_data, name, split, eval_split='test'):
    """Runs the command; returns a split and its labels by pixels, and checks TFDS's description."""
    if not (tmp_path / 'data' / name).exists():
        arguments = ['--data_dir', str(tmp_path / 'data'), '--manual_dir', str(tmp_path / 'manual')]
        assert prepare.main([name, *arguments]) == 0
    builder = tfds_sets.prepared(name, str(tmp_path / 'data'))
    theirs = tfds.builder(name, data_dir=tmp_path / 'none')
    assert str(builder.version) == str(theirs.version)
    assert builder.info.features.keys() == theirs.info.features.keys()
    assert repr(builder.info.features['image']) == repr(theirs.info.features['image'])
    assert builder.info.supervised_keys == theirs.info.supervised_keys
    data = make_data(name=f'tfds:{name}', dir=str(tmp_path / 'data'), eval_split=eval_split)
    source = datasets.load(data, split)
    examples = [source[i] for i in range(len(source))]
    return source, {example['image'].tobytes(): example['label'] for example in examples}


@pytest.fixture
def manual(tmp_path):
    (tmp_path / 'manual').mkdir()
    return tmp_path / 'manual'


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_mnist(tmp_path, manual, make_data, name):
    """Compressed files in the folder itself, or decompressed files in a folder of the data set."""
    where = manual if name == 'mnist' else manual / name
    where.mkdir(exist_ok=True)
    images = {'train': pixels(5, 28, 28), 't10k': pixels(3, 28, 28)}
    for part, values in images.items():
        labels = np.arange(len(values), dtype=np.uint8) + 4
        for kind, content in (('images-idx3', idx(values)), ('labels-idx1', idx(labels))):
            if name == 'mnist':
                (where / f'{part}-{kind}-ubyte.gz').write_bytes(gzip.compress(content))
            else:
                (where / f'{part}-{kind}-ubyte').write_bytes(content)
    train, found = prepared(tmp_path, make_data, name, 'train')
    assert found == {image.tobytes(): label + 4 for label, image in enumerate(images['train'])}
    assert (train.channels, train.num_classes) == (1, 10)
    assert train.class_names[9] == {'mnist': '9', 'fashion_mnist': 'Ankle boot'}[name]
    _, found = prepared(tmp_path, make_data, name, 'eval')
    assert found == {image.tobytes(): label + 4 for label, image in enumerate(images['t10k'])}


def test_the_package_of_debian(tmp_path, monkeypatch):
    monkeypatch.setattr(builders, 'DEBIAN', tmp_path / 'datasets')
    folder = tmp_path / 'datasets' / 'fashion-mnist'
    folder.mkdir(parents=True)
    for (file,) in builders.RECIPES['fashion_mnist'].files:
        (folder / file).touch()
    found = builders.locate('fashion_mnist', tmp_path)
    assert found == {file: folder / file for (file,) in builders.RECIPES['fashion_mnist'].files}
    assert builders.locate('mnist', tmp_path) == {}


def test_one_file_is_not_taken_for_two_sets(manual, tmp_path):
    for (file,) in builders.RECIPES['mnist'].files:
        (manual / file).touch()
    arguments = ['--data_dir', str(tmp_path), '--manual_dir', str(manual)]
    with pytest.raises(UserError, match='would be taken for mnist and for fashion_mnist'):
        prepare.main(['mnist', 'fashion_mnist', *arguments])


def test_cifar10(tmp_path, manual, make_data):
    images, labels = pixels(12, 32, 32, 3), np.arange(12, dtype=np.uint8) % 10
    rows = [
        bytes([y]) + x.transpose(2, 0, 1).tobytes() for x, y in zip(images, labels, strict=True)
    ]
    names = [f'name{i}' for i in range(10)]
    parts = {f'data_batch_{i + 1}.bin': b''.join(rows[2 * i : 2 * i + 2]) for i in range(5)}
    parts |= {'test_batch.bin': b''.join(rows[10:])}
    parts |= {'batches.meta.txt': '\n'.join(names).encode() + b'\n\n'}
    members = {f'cifar-10-batches-bin/{name}': content for name, content in parts.items()}
    tar_of(manual / 'cifar-10-binary.tar.gz', members, 'w:gz')
    train, found = prepared(tmp_path, make_data, 'cifar10', 'train')
    assert found == dict(zip([x.tobytes() for x in images[:10]], labels[:10].tolist(), strict=True))
    assert train.class_names == tuple(names)
    _, found = prepared(tmp_path, make_data, 'cifar10', 'eval')
    assert found == dict(zip([x.tobytes() for x in images[10:]], labels[10:].tolist(), strict=True))
    builder = tfds_sets.prepared('cifar10', str(tmp_path / 'data'))
    ids = tfds_sets.texts(builder, 'train', 'id')
    assert sorted(ids) == [f'train_{i:05d}' for i in range(10)]


def test_cifar100_in_pickles(tmp_path, manual, make_data):
    images, fine = pixels(7, 32, 32, 3), [99, 3, 5, 7, 9, 11, 0]
    rows = images.transpose(0, 3, 1, 2).reshape(7, 3072)
    coarse = [19, 1, 2, 3, 4, 5, 0]
    parts = {
        part: python2_pickle(
            {b'data': rows[a:b], b'coarse_labels': coarse[a:b], b'fine_labels': fine[a:b]}
        )
        for part, a, b in (('train', 0, 5), ('test', 5, 7))
    }
    names = {
        b'fine_label_names': [b'fine%d' % i for i in range(100)],
        b'coarse_label_names': [b'coarse%d' % i for i in range(20)],
    }
    parts['meta'] = python2_pickle(names)
    members = {f'cifar-100-python/{name}': content for name, content in parts.items()}
    tar_of(manual / 'cifar-100-python.tar.gz', members, 'w:gz')
    train, found = prepared(tmp_path, make_data, 'cifar100', 'train')
    assert found == dict(zip([x.tobytes() for x in images[:5]], fine[:5], strict=True))
    assert (train.num_classes, train.class_names[99]) == (100, 'fine99')
    builder = tfds_sets.prepared('cifar100', str(tmp_path / 'data'))
    records = builder.as_data_source('test')
    pairs = {(int(r['label']), int(r['coarse_label'])) for r in records}
    assert pairs == {(11, 5), (0, 0)}


def test_pickles_run_nothing():
    with pytest.raises(ValueError, match='asks for os.system'):
        archives.unpickle(b'\x80\x02cos\nsystem\nU\x04true\x85R.')


def test_svhn(tmp_path, manual, make_data):
    images, labels = pixels(9, 32, 32, 3), np.array([10, 1, 2, 3, 4, 5, 6, 7, 10], np.uint8)
    for split, a, b in (('train', 0, 4), ('test', 4, 6), ('extra', 6, 9)):
        content = {'X': np.moveaxis(images[a:b], 0, 3), 'y': labels[a:b, None]}
        scipy_io.savemat(manual / f'{split}_32x32.mat', content)
    source, found = prepared(tmp_path, make_data, 'svhn_cropped', 'train')
    expected = (labels % 10).tolist()
    assert found == dict(zip([x.tobytes() for x in images[:4]], expected[:4], strict=True))
    data = make_data(
        name='tfds:svhn_cropped', dir=str(tmp_path / 'data'), train_split='train+extra'
    )
    assert len(datasets.load(data, 'train')) == 7


# ------------------------------------------------------------------------------------------------
# ImageNet
# ------------------------------------------------------------------------------------------------


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photograph(seed, channels=3):
    coarse = np.random.default_rng(seed).integers(256, size=(4, 5, channels), dtype=np.uint8)
    return cv2.resize(coarse, (50, 40), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def tars(manual, monkeypatch):
    """Two tars in ImageNet's layout: two classes of three images, and four validation images."""
    train = {
        'n02105855': {f'n02105855_{i}.JPEG': encoded(Image.fromarray(photograph(i)), 'JPEG')
                      for i in (1, 2)},
        'n01739381': {f'n01739381_{i}.JPEG': encoded(Image.fromarray(photograph(9 + i)), 'JPEG')
                      for i in (1, 2)},
    }  # fmt: skip
    # The one PNG of ImageNet, and the first of its 22 images in CMYK.
    train['n02105855']['n02105855_2933.JPEG'] = encoded(Image.fromarray(photograph(3)), 'PNG')
    cmyk = Image.fromarray(photograph(4, 4), 'CMYK')
    train['n01739381']['n01739381_1309.JPEG'] = encoded(cmyk, 'JPEG', quality=100)
    with tarfile.open(manual / 'ILSVRC2012_img_train.tar', 'w') as outer:
        for name, images in train.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode='w') as tar:
                for file, content in images.items():
                    add(tar, file, content)
            add(outer, f'{name}.tar', inner.getvalue())
    # The numbers are not in order.
    val = {f'ILSVRC2012_val_{number:08}.JPEG': encoded(Image.fromarray(photograph(number)), 'JPEG')
           for number in (3, 50_000, 1, 2)}  # fmt: skip
    tar_of(manual / 'ILSVRC2012_img_val.tar', val)
    sizes = {tar: (manual / tar).stat().st_size for tar in imagenet.SIZES}
    monkeypatch.setattr(imagenet, 'SIZES', sizes)
    return train, val


def test_imagenet(tmp_path, make_data, tars, capsys):
    train, val = tars
    source, found = prepared(tmp_path, make_data, 'imagenet2012', 'train', 'validation')
    assert source.num_classes == 1000
    assert source.class_names == tuple(sorted(source.class_names)) == classes.wnids()
    expected = {}
    for label, images in train.items():
        for name, content in images.items():
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))
            expected[name] = (source.class_names.index(label), pixels)
    builder = tfds_sets.prepared('imagenet2012', str(tmp_path / 'data'))
    names = tfds_sets.texts(builder, 'train', 'file_name')
    assert sorted(names) == sorted(expected)
    raw = builder.as_data_source('train', decoders={'image': tfds.decode.SkipDecoding()})
    for index, name in enumerate(names):
        label, pixels = expected[name]
        assert source[index]['label'] == label
        difference = abs(source[index]['image'].astype(int) - pixels).mean()
        again = name in ('n02105855_2933.JPEG', 'n01739381_1309.JPEG')
        assert difference < (3 if again else 0.01), name
        stored = Image.open(io.BytesIO(raw[index]['image']))
        assert (stored.format, stored.mode) == ('JPEG', 'RGB')
        if not again:
            assert bytes(raw[index]['image']) == train[name[:9]][name]

    data = make_data(name='tfds:imagenet2012', dir=str(tmp_path / 'data'), eval_split='validation')
    test = datasets.load(data, 'eval')
    names = tfds_sets.texts(builder, 'validation', 'file_name')
    numbers = [int(name[-13:-5]) for name in names]
    assert sorted(numbers) == [1, 2, 3, 50_000]
    # The first, second, third and last line of the validation ground truth.
    known = {1: 'n01751748', 2: 'n09193705', 3: 'n02105855', 50_000: 'n02437616'}
    labels = {number: test.class_names[test[i]['label']] for i, number in enumerate(numbers)}
    assert labels == known
    assert 'imagenet2012: prepared in' in capsys.readouterr().out


def test_imagenet_tars_of_another_size(tmp_path, manual, tars):
    with (manual / 'ILSVRC2012_img_val.tar').open('ab') as file:
        file.write(b'\0')
    arguments = ['--data_dir', str(tmp_path / 'data'), '--manual_dir', str(manual)]
    with pytest.raises(UserError, match=r'img_val.tar has [\d,]+ bytes: expected [\d,]+\. Downl'):
        prepare.main(['imagenet2012', *arguments])
    assert not (tmp_path / 'data').exists()


def test_interrupted_preparation_leaves_nothing_that_looks_prepared(
    tmp_path, make_data, manual, tars, monkeypatch
):
    """Neither an error nor a kill leaves a prepared set; the next preparation clears the rest."""
    arguments = ['--data_dir', str(tmp_path / 'data'), '--manual_dir', str(manual)]
    with monkeypatch.context() as patch:

        def fail(name, content):
            raise KeyboardInterrupt if name == 'n01739381_2.JPEG' else ValueError('no image')

        patch.setattr(imagenet, 'as_rgb_jpeg', fail)
        with pytest.raises(UserError, match='imagenet2012 cannot be prepared: .*no image'):
            prepare.main(['imagenet2012', *arguments])
    assert tfds_sets.find_prepared('imagenet2012', str(tmp_path / 'data')) is None
    killed = tmp_path / 'data' / 'imagenet2012' / 'incomplete.ABCDEF_5.1.0'
    killed.mkdir(parents=True, exist_ok=True)
    (killed / 'dataset_info.json').write_text('{}')
    assert tfds_sets.find_prepared('imagenet2012', str(tmp_path / 'data')) is None
    with pytest.raises(UserError, match='imagenet2012 is not prepared'):
        datasets.load(make_data(name='tfds:imagenet2012', dir=str(tmp_path / 'data')), 'train')
    assert prepare.main(['imagenet2012', *arguments]) == 0
    assert [path.name for path in (tmp_path / 'data' / 'imagenet2012').iterdir()] == ['5.1.0']


def test_truncated_files_are_named(tmp_path, manual, tars, monkeypatch):
    tar = manual / 'ILSVRC2012_img_train.tar'
    tar.write_bytes(tar.read_bytes()[:3000])
    sizes = imagenet.SIZES | {tar.name: 3000}
    monkeypatch.setattr(imagenet, 'SIZES', sizes)
    arguments = ['--data_dir', str(tmp_path / 'data'), '--manual_dir', str(manual)]
    with pytest.raises(UserError, match=r'img_train.tar is broken \(.*intact files'):
        prepare.main(['imagenet2012', *arguments])
    assert tfds_sets.find_prepared('imagenet2012', str(tmp_path / 'data')) is None


# ------------------------------------------------------------------------------------------------
# Downloads
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The files of mnist at local URLs, with a list of them in TFDS's format."""
    folder = tmp_path / 'served'
    folder.mkdir()
    lines = []
    for part in ('train', 't10k'):
        values = pixels(4, 28, 28)
        for kind, content in (('images-idx3', values), ('labels-idx1', values[:, 0, 0] % 10)):
            file = folder / f'{part}-{kind}-ubyte.gz'
            file.write_bytes(gzip.compress(idx(content)))
            digest = builders.hashlib.sha256(file.read_bytes()).hexdigest()
            lines.append(
                f'{folder.as_uri()}/{file.name}\t{file.stat().st_size}\t{digest}\t{file.name}'
            )
    (tmp_path / 'list.tsv').write_text('\n'.join(lines))
    infos = tfds.download.checksums.load_url_infos(tmp_path / 'list.tsv')
    monkeypatch.setattr(builders, '_url_infos', lambda name: infos)
    recipe = builders.dataclasses.replace(builders.RECIPES['mnist'], base=f'{folder.as_uri()}/')
    monkeypatch.setitem(builders.RECIPES, 'mnist', recipe)
    return folder


def test_downloads(tmp_path, make_data, served):
    source, found = prepared(tmp_path, make_data, 'mnist', 'train')
    assert set(found) == {image.tobytes() for image in pixels(4, 28, 28)}
    kept = sorted(path.name for path in (tmp_path / 'data' / 'downloads' / 'mnist').iterdir())
    assert kept == sorted(path.name for path in served.iterdir())


def test_a_download_that_differs_is_refused(tmp_path, served):
    file = served / 'train-labels-idx1-ubyte.gz'
    file.write_bytes(file.read_bytes() + b'more')
    with pytest.raises(UserError, match='train-labels-idx1-ubyte.gz has changed'):
        prepare.main(['mnist', '--data_dir', str(tmp_path / 'data')])
    kept = [path.name for path in (tmp_path / 'data' / 'downloads' / 'mnist').iterdir()]
    assert kept == ['train-images-idx3-ubyte.gz']
    shutil.rmtree(served)
    with pytest.raises(UserError, match=re.escape('cannot be downloaded')):
        prepare.main(['mnist', '--data_dir', str(tmp_path / 'data')])


@pytest.mark.parametrize('name', sorted(builders.RECIPES))
def test_tfds_knows_the_files(name):
    """TFDS's wheel has the size and checksum of each file that may be downloaded."""
    recipe = builders.RECIPES[name]
    known = builders._url_infos(name)
    if recipe.base:
        assert {recipe.base + names[0] for names in recipe.files} <= set(known)
    else:
        assert {url.rpartition('/')[2]: info.size for url, info in known.items()} == imagenet.SIZES
