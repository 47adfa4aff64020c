"""Prepared TFDS data sets, image folders and synthetic images, and all their error messages."""

import errno
import io
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cls import signals
from cls.data import broken, datasets, digits, file_list, sources, tfds_sets
from cls.errors import UserError


def test_tfds(make_data, speckles):
    """All records are read, with their labels and pixels, in whatever order on disk."""
    source = datasets.load(make_data(name='tfds:speckles', dir=str(speckles)), 'train')
    assert isinstance(source, tfds_sets.Records)
    assert len(source) == 20
    assert (source.num_classes, source.channels) == (3, 3)
    assert source.class_names == ('red', 'green', 'blue')
    seen = []
    for example in (source[i] for i in range(len(source))):
        index = int(example['image'][0, 0, 0])
        assert example['image'].dtype == np.uint8
        assert example['image'].shape == (30 + index, 50 - index, 3)
        assert example['image'][0, 0].tolist() == [index, 2 * index, 3 * index]
        assert example['label'] == index % 3
        seen.append(index)
    assert sorted(seen) == list(range(20))


def test_tfds_parts_of_splits(make_data, speckles):
    data = make_data(name='tfds:speckles', dir=str(speckles), train_split='train[:25%]+test')
    assert len(datasets.load(data, 'train')) == 6
    assert len(datasets.load(data, 'eval')) == 1


def test_tfds_from_the_environment(make_data, speckles, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(speckles))
    assert len(datasets.load(make_data(name='tfds:speckles'), 'train')) == 20


def test_tfds_newest_version_and_config(make_data, speckles, tmp_path):
    """NAME finds the newest version by number, and the only configuration."""
    shutil.copytree(speckles / 'speckles', tmp_path / 'speckles')
    for version in ('1.10.0', '1.9.0'):
        shutil.copytree(speckles / 'speckles' / '1.2.0', tmp_path / 'speckles' / version)
    (tmp_path / 'speckles' / '1.11.0').mkdir()  # not prepared
    assert tfds_sets.find_prepared('speckles', str(tmp_path)).name == '1.10.0'
    (tmp_path / 'set').mkdir()
    shutil.move(tmp_path / 'speckles', tmp_path / 'set' / 'small')
    assert tfds_sets.find_prepared('set', str(tmp_path)).parts[-2:] == ('small', '1.10.0')
    assert len(datasets.load(make_data(name='tfds:set/small', dir=str(tmp_path)), 'train')) == 20
    shutil.copytree(tmp_path / 'set' / 'small', tmp_path / 'set' / 'large')
    with pytest.raises(UserError, match='several configurations.*of set/large, set/small'):
        tfds_sets.find_prepared('set', str(tmp_path))


def test_small_sets_are_held_in_memory(make_data, monkeypatch):
    held = datasets.load(make_data(), 'train')
    assert isinstance(held, sources.InMemory)
    images, labels = held.take(np.array([3, 0, 3]))
    assert images.shape == (3, 8, 8, 1)
    assert labels.dtype == np.int32
    images[:] = 0  # a copy: the set does not change
    monkeypatch.setattr(sources, 'MEMORY_LIMIT', 1442 * 64 - 1)
    read = datasets.load(make_data(), 'train')
    assert isinstance(read, tfds_sets.Records)
    for i in range(0, 1442, 100):
        np.testing.assert_array_equal(held[i]['image'], read[i]['image'])
        assert held[i]['label'] == read[i]['label']


def test_folder(make_data, birds):
    (birds / 'train' / 'owl' / 'notes.txt').write_text('no image')
    (birds / 'train' / '.cache').mkdir()
    data = make_data(name=f'folder:{birds}')
    train, test = datasets.load(data, 'train'), datasets.load(data, 'eval')
    assert train.class_names == test.class_names == ('ibis', 'kiwi', 'owl')
    assert [train[i]['label'] for i in range(len(train))] == [0] * 4 + [1] * 4 + [2] * 3
    assert [test[i]['label'] for i in range(len(test))] == [0, 0, 0, 2, 2]
    for i, name in ((1, 'train/ibis/1.PNG'), (7, 'train/kiwi/3.bmp'), (8, 'train/owl/0.jpg')):
        pixels = np.asarray(Image.open(birds / name).convert('RGB')).astype(int)
        assert train[i]['image'].dtype == np.uint8
        assert abs(train[i]['image'] - pixels).max() <= 1


def test_folder_gray_becomes_rgb(make_data, birds):
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(birds / 'train' / 'ibis' / '0.jpg')
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    np.testing.assert_array_equal(source[0]['image'], np.full((9, 9, 3), 77))


@pytest.mark.parametrize('name', ['val', 'validation'])
def test_folder_evaluation(make_data, birds, name):
    os.rename(birds / 'test', birds / name)
    assert len(datasets.load(make_data(name=f'folder:{birds}'), 'eval')) == 5


def test_folder_broken_images(make_data, birds, caplog):
    """As soon as one is found, all broken images are counted and named, with reasons."""
    (birds / 'train' / 'ibis' / '2.webp').write_bytes(b'no image')
    good = (birds / 'train' / 'owl' / '0.jpg').read_bytes()
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(good[: len(good) // 2])
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    assert source[0]['label'] == 0
    line = (
        f'2 of the 11 images in {birds}/train cannot be decoded: ibis/2.webp (not an image), '
        'owl/0.jpg (Premature end of JPEG file). Replace or remove them, or set '
        'config.data.broken_images=take for damaged JPEGs.'
    )
    for index in (2, 8):  # a JPEG cut in half is noticed by crops above the cut too
        with pytest.raises(UserError) as raised:
            source[index]
        assert str(raised.value) == line
        with pytest.raises(UserError) as raised:
            source.read(index, corner)
        assert str(raised.value) == line
    assert len(caplog.messages) == 1
    assert 'Looking for further ones among its 11 images, for 30 seconds' in caplog.text


def test_many_broken_images_are_listed_in_a_file(make_data, tmp_path):
    """The file lists all of them; the message names some and the file."""
    (tmp_path / 'cat').mkdir()
    for number in range(230):
        (tmp_path / 'cat' / f'{number:03}.png').write_bytes(b'no image')
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
    with pytest.raises(UserError, match='230 of the 230 images in .*all are listed in ') as raised:
        source[7]
    line = str(raised.value)
    assert line.count('not an image') == 20 and '\n' not in line
    file = Path(line.partition('all are listed in ')[2].partition(')')[0])
    listed = file.read_text().splitlines()
    assert listed == [f'cat/{number:03}.png (not an image)' for number in range(230)]


def test_the_search_for_broken_images_is_bounded(make_data, tmp_path, monkeypatch):
    (tmp_path / 'cat').mkdir()
    for number in range(230):
        (tmp_path / 'cat' / f'{number:03}.png').write_bytes(b'no image')
    decoded = []
    monkeypatch.setattr(broken, 'decode', lambda *_: decoded.append(_))
    clock = iter(range(0, 10_000, 20))  # 20 seconds between two readings
    monkeypatch.setattr(broken, 'time', SimpleNamespace(monotonic=lambda: next(clock)))
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
    with pytest.raises(UserError, match=r'1 of the 230 .*\(the search ended after 64 of them\)'):
        source[229]
    assert len(decoded) == 64


def test_the_search_for_broken_images_ends_with_the_program(make_data, birds, monkeypatch):
    """After SIGTERM the time that is left is for saving the run."""
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(b'no image')
    monkeypatch.setattr(signals, 'stopped_by', signal.SIGTERM)
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    with pytest.raises(UserError, match=r'1 of the 11 .*\(the search ended after 0 of them\): owl'):
        source[8]


def test_workers_leave_the_search_to_the_process_that_started_them(make_data, birds, monkeypatch):
    """Only that one knows of signals, and one search is enough for all workers."""
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(b'no image')
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing, 'parent_process', lambda: 'the trainer')
        patch.setattr(broken, 'verdict', None)  # no search
        with pytest.raises(
            UserError, match=r'owl/0.jpg in .*/train cannot be .*\(not an'
        ) as raised:
            source[8]
    passed_on = pickle.loads(pickle.dumps(raised.value))
    assert str(passed_on) == str(raised.value)
    assert str(source.explained(passed_on)).startswith('1 of the 11 images in ')
    other = UserError('another mistake')
    assert source.explained(other) is other


def test_a_file_that_cannot_be_read_is_tried_again(make_data, birds, monkeypatch):
    """A temporary failure is not an error; a permanent one is reported at once, with its reason."""
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    monkeypatch.setattr(broken, 'verdict', None)  # no search
    monkeypatch.setattr(broken, '_WAITS', (0.001, 0.001))
    read, failures = file_list.content, [OSError(errno.EIO, os.strerror(errno.EIO))] * 2

    def unsteady(file):
        if failures:
            raise failures.pop()
        return read(file)

    monkeypatch.setattr(file_list, 'content', unsteady)
    assert source[0]['image'].ndim == 3 and not failures
    (birds / 'train' / 'ibis' / '0.jpg').unlink()
    with pytest.raises(UserError, match=r'ibis/0.jpg cannot be read \(No such file or directory\)'):
        source[0]


def test_damaged_jpegs_can_be_taken_and_are_counted(make_data, birds, caplog):
    """They are decoded as far as possible; files that are not images are still refused."""
    good = (birds / 'train' / 'owl' / '0.jpg').read_bytes()
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(good[: 3 * len(good) // 4])
    (birds / 'train' / 'owl' / '1.PNG').write_bytes(b'no image')
    source = datasets.load(make_data(name=f'folder:{birds}', broken_images='take'), 'train')
    expected = np.asarray(Image.open(io.BytesIO(good)))
    for _ in range(2):
        image = source[8]['image']
        np.testing.assert_array_equal(image[:16], expected[:16])
        assert image.shape == expected.shape and (image != expected).any()
        np.testing.assert_array_equal(source.read(8, corner)[0], expected[:5, :7])
    assert len(caplog.messages) == 1
    assert 'owl/0.jpg is damaged (Premature end of JPEG file) and is taken' in caplog.text
    with pytest.raises(UserError, match=r'1 of the 11 images .*: owl/1.PNG \(not an image\)'):
        source[9]


def test_the_last_count_of_damaged_jpegs_is_of_all(make_data, birds, caplog, monkeypatch):
    """From the sixth on, not every image is named."""
    monkeypatch.setattr(broken, '_repaired', set())
    good = (birds / 'train' / 'owl' / '0.jpg').read_bytes()
    for number in range(7):
        (birds / 'train' / 'owl' / f'd{number}.jpg').write_bytes(good[: 3 * len(good) // 4])
    source = datasets.load(make_data(name=f'folder:{birds}', broken_images='take'), 'train')
    for _ in range(2):
        for index, file in enumerate(source.files):
            if file.startswith('owl/d'):
                source[index]
    assert caplog.messages[-1].endswith(': 5 such image(s) so far.')
    broken.report()
    assert caplog.messages[-1].startswith('7 damaged image(s) were taken')


def test_training_notices_damage_below_its_crops(make_data, birds):
    """Each file is decoded in full the first time."""
    pixels = np.random.default_rng(0).integers(256, size=(300, 100, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, 'JPEG')
    content = content.getvalue()
    half = len(content) // 2
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(content[:half] + content[half + 2000 :])
    source = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    for _ in range(2):
        with pytest.raises(UserError, match='1 of the 11 images .*owl/0.jpg .Corrupt JPEG data'):
            source.read(8, lambda image: image.region(0, 0, 5, 7, to=(5, 7), roughly=True)[0])


def test_large_images_are_refused_by_name(make_data, birds):
    Image.new('L', (100, 71)).save(birds / 'train' / 'owl' / '0.jpg')
    source = datasets.load(make_data(name=f'folder:{birds}', max_pixels=7000), 'train')
    line = (
        r'1 of the 11 .*owl/0.jpg \(100 x 71 pixels, more than 7,000; see config.data.max_pixels\)'
    )
    with pytest.raises(UserError, match=line):
        source[8]


def corner(image) -> np.ndarray:
    """Returns the 5x7 pixels at the top left, as a crop."""
    pixels, _ = image.region(0, 0, 5, 7, to=(5, 7))
    return pixels


def test_crops_are_of_the_images(make_data, speckles, birds, monkeypatch):
    """`read` returns the crop of the image of `[]`, however it decodes; `labels` all labels."""
    monkeypatch.setattr(sources, 'MEMORY_LIMIT', 1000)
    for name in ('digits', 'tfds:speckles', f'folder:{birds}', 'synthetic'):
        directory = str(speckles) if name.startswith('tfds') else ''
        source = datasets.load(make_data(name=name, dir=directory), 'eval')
        labels = source.labels()
        assert labels.shape == (len(source),)
        for index in range(min(5, len(source))):
            image, label = source.read(index, corner)
            np.testing.assert_array_equal(image, source[index]['image'][:5, :7])
            assert label == source[index]['label'] == labels[index]


def test_crops_own_errors_are_not_the_images(make_data, birds):
    def crop(image):
        raise ValueError('a mistake in the crop')

    with pytest.raises(ValueError, match='a mistake in the crop'):
        datasets.load(make_data(name=f'folder:{birds}'), 'train').read(0, crop)


def test_folder_exif(make_data, birds):
    """Photographs are turned upright by default."""
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10] = 255  # the sky
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its left side: has to be turned clockwise
    lying = Image.fromarray(np.rot90(upright))
    lying.save(birds / 'train' / 'ibis' / '0.jpg', exif=exif, quality=95)
    turned = datasets.load(make_data(name=f'folder:{birds}'), 'train')
    assert abs(turned[0]['image'].astype(int) - upright).max() < 8
    assert turned.read(0, corner)[0].min() > 247
    plain = datasets.load(make_data(name=f'folder:{birds}', exif=False), 'train')
    assert plain[0]['image'].shape == (30, 20, 3)


def test_synthetic(make_data):
    data = make_data(name='synthetic', image_size=24)
    train, test = datasets.load(data, 'train'), datasets.load(data, 'eval')
    assert (len(train), len(test), train.num_classes) == (1_281_167, 50_000, 1000)
    assert train[1_281_166]['image'].shape == (24, 24, 3)
    again = datasets.load(data, 'train')
    np.testing.assert_array_equal(train[5]['image'], again[5]['image'])
    assert (train[5]['image'] != train[6]['image']).any()
    few = datasets.load(make_data(name='synthetic', num_classes=3), 'train')
    assert {few[i]['label'] for i in range(64)} == {0, 1, 2}


def test_sources_can_be_pickled(make_data, speckles, birds):
    for name in ('digits', 'tfds:speckles', f'folder:{birds}', 'synthetic'):
        directory = str(speckles) if name.startswith('tfds') else ''
        source = datasets.load(make_data(name=name, dir=directory), 'train')
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy[3]['image'], source[3]['image'])


class Flat(tfds.core.GeneratorBasedBuilder):
    """A data set without images, and one with a broken image."""

    VERSION = tfds.core.Version('1.0.0')
    url_infos = None
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name='no_image', version='1.0.0'),
        tfds.core.BuilderConfig(name='broken', version='1.0.0'),
    ]

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 1))
        feature = tfds.features.Text() if self.builder_config.name == 'no_image' else image
        features = {'image': feature, 'label': tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        yield 0, {'image': b'no image', 'label': 0}


@pytest.fixture(scope='module')
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp('flat')
    for config in ('no_image', 'broken'):
        Flat(data_dir=folder, config=config, file_format='array_record').download_and_prepare()
    return folder


def test_tfds_that_is_no_set_for_classification(make_data, flat):
    data = make_data(name='tfds:flat/no_image', dir=str(flat))
    with pytest.raises(UserError, match=r"its features are image, label: expected an 'image'"):
        datasets.load(data, 'train')


def test_tfds_broken_image(make_data, flat):
    data = make_data(name='tfds:flat/broken', dir=str(flat))
    with pytest.raises(UserError, match=r'image of example 0 of flat/broken cannot be decoded'):
        datasets.load(data, 'train')


def test_tfds_as_tfrecord(make_data, speckles, tmp_path):
    shutil.copytree(speckles / 'speckles', tmp_path / 'speckles')
    info = tmp_path / 'speckles' / '1.2.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with pytest.raises(
        UserError,
        match=r'speckles/1.2.0 is prepared as tfrecord.*expected array_record. Move that folder '
        rf'away and run `python -m cls.tools.prepare speckles --data_dir {tmp_path}`',
    ):
        datasets.load(make_data(name='tfds:speckles', dir=str(tmp_path)), 'train')


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'cifar10'}, "name is 'cifar10': expected .* Did you mean tfds:cifar10"),
        ({'name': 'tfds:'}, "name is 'tfds:': expected digits, tfds:NAME, folder:DIR, csv:"),
        ({'name': 'tfds:cifar10', 'dir': '/nowhere'},
         'cifar10 is not prepared in /nowhere: run '
         '`python -m cls.tools.prepare cifar10 --data_dir /nowhere`'),
        ({'name': 'tfds:imagenet_resized/32x32'},
         'run `python -m cls.tools.prepare imagenet_resized/32x32`'),
        ({'name': 'tfds:cifr10'},
         "'cifr10' is neither prepared in .* nor known to TFDS.*Did you mean cifar10"),
        ({'train_split': 'trian'}, "'trian' is not a split of digits: expected one of train, test"),
        ({'train_split': 'train[:x]'}, r"'train\[:x\]' is not a split of digits"),
        ({'train_split': 'train[:0]'}, r"'train\[:0\]' is not a split of digits"),
        ({'num_classes': 9}, 'num_classes is 9, but digits has 10 classes'),
        ({'name': 'folder:/nowhere'}, '/nowhere is not a folder: .*/nowhere/train/<class>/'),
    ],
)  # fmt: skip
def test_errors(make_data, fields, message, monkeypatch):
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
    with pytest.raises(UserError, match=message) as raised:
        datasets.load(make_data(**fields), 'train')
    assert '\n' not in str(raised.value)


def test_more_classes_than_the_set_has(make_data):
    assert datasets.load(make_data(num_classes=12), 'train').num_classes == 10


def remove_evaluation(root):
    shutil.rmtree(root / 'test')


def empty_training(root):
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()


def empty_class(root):
    (root / 'train' / 'wren').mkdir()


def empty_test_class(root):
    (root / 'test' / 'kiwi').mkdir()


def class_of_test_only(root):
    os.rename(root / 'test' / 'owl', root / 'test' / 'owls')


@pytest.mark.parametrize(
    ('spoil', 'split', 'message'),
    [
        (remove_evaluation, 'eval', 'one of val, valid, validation, test next to train'),
        (empty_training, 'train', 'train is empty: expected one folder per class'),
        (empty_class, 'train', 'train/wren has no images: expected files that end in .jpg, '),
        (empty_test_class, 'eval', 'test/kiwi has no images'),
        (class_of_test_only, 'eval', "class 'owls', which .*train does not have.*Did you mean owl"),
    ],
)
def test_folder_errors(make_data, birds, spoil, split, message):
    spoil(birds)
    with pytest.raises(UserError, match=message):
        datasets.load(make_data(name=f'folder:{birds}'), split)


def test_digits_are_no_name_of_tfds():
    """'digits' and 'tfds:digits' cannot be confused."""
    assert digits.Digits.name == 'digits'
    from importlib.resources import files

    assert not (files('tensorflow_datasets') / 'datasets' / 'digits').is_dir()
