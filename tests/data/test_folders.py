"""Image folders: layouts, held-out images, the order of a run's classes, formats."""

import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest
from golden.make_real import REAL
from PIL import Image

from cls import evaluate
from cls.config import load as configs
from cls.config.runs import run_config
from cls.data import datasets, folders, scan, splits
from cls.data.classes import wnids
from cls.data.decode import SUFFIXES
from cls.errors import UserError
from cls.evaluation import metrics
from cls.evaluation.files import Listing
from cls.models.registry import init
from cls.run.workdir import load_classes, open_run
from cls.tools import import_weights


def gray(value, side=8):
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


def folder_of(root, counts, first=0):
    """Writes {class: number of images}; the images have the values first, first + 1, ..."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            gray(first).save(root / name / f'{number:03}.png')
            first += 1
    return root


def labels_of(source):
    """{pixel value: label} of all examples."""
    examples = [source[i] for i in range(len(source))]
    return {int(example['image'][0, 0, 0]): example['label'] for example in examples}


COUNTS = {'cat': 40, 'dog': 20, 'eel': 2}


@pytest.mark.parametrize('layout', ['train', ''])
def test_a_part_is_held_out(tmp_path, make_data, layout):
    """A tenth of each class, at least one image; each image is in exactly one part."""
    folder_of(tmp_path / layout, COUNTS)
    data = make_data(name=f'folder:{tmp_path}', validation='0.1')
    train, test = (labels_of(datasets.load(data, split)) for split in ('train', 'validation'))
    whole = dict(enumerate([0] * 40 + [1] * 20 + [2] * 2))
    assert train | test == whole
    assert len(train) + len(test) == 62
    assert [list(test.values()).count(label) for label in range(3)] == [4, 2, 1]
    # Neither the first images nor the same ones in each class: a hash selects them.
    assert sorted(test)[:4] != [0, 1, 2, 3]
    assert datasets.has_training(data)


def test_the_part_is_a_function_of_the_names(tmp_path, make_data):
    """Held-out images stay so in another folder, written in another order, and with new images."""
    for root, counts in (('a', COUNTS), ('b/c', dict(reversed(COUNTS.items())))):
        folder_of(tmp_path / root, counts)

    def held(root):
        data = make_data(name=f'folder:{tmp_path / root}', validation='0.25')
        files = datasets.load(data, 'validation').files
        return {'/'.join(file.split('/')[-2:]) for file in files}

    before = held('a')
    assert before == held('b/c')
    gray(0).save(tmp_path / 'a' / 'cat' / '900.png')
    assert len(before & held('a')) >= len(before) - 1


def test_held_out_part_errors(tmp_path, make_data):
    folder_of(tmp_path / 'a', {'cat': 3, 'dog': 1})
    data = make_data(name=f'folder:{tmp_path}/a', validation='0.1')
    with pytest.raises(UserError, match='a/dog has one image: expected two or more'):
        datasets.load(data, 'train')
    for fraction in ('1.0', '-0.1', '0'):
        with pytest.raises(UserError, match=f"validation is '{fraction}': expected a fraction"):
            make_data(name=f'folder:{tmp_path}/a', validation=fraction)
    with pytest.raises(UserError, match=r'evaluate on: .*config.eval.validation.*\(0.1, say\)'):
        datasets.load(make_data(name=f'folder:{tmp_path}/a'), 'train')
    folder_of(tmp_path / 'b' / 'train', COUNTS)
    data = make_data(name=f'folder:{tmp_path}/b')
    assert len(datasets.load(data, 'train')) == 62
    with pytest.raises(UserError, match=r'evaluate on: .*config.eval.validation'):
        datasets.load(data, 'eval')


def test_the_choice_follows_the_seed_and_that_of_earlier_versions_only_the_names(
    tmp_path, make_data
):
    """Before config.eval.validation the smallest SHA-256 of CLASS/FILE were held out."""
    folder_of(tmp_path, COUNTS)

    def held(**fields):
        return set(datasets.load(make_data(name=f'folder:{tmp_path}', **fields), 'eval').files)

    before = set()
    for name, count in COUNTS.items():
        files = [f'{name}/{number:03}.png' for number in range(count)]
        files.sort(key=lambda file: hashlib.sha256(file.encode()).digest())
        before |= set(files[: round(count / 4)] or files[:1])
    assert held(validation='0.25 by name') == held(validation='0.25 by name', seed=7) == before
    assert len({frozenset(held(validation='0.25', seed=seed)) for seed in range(3)}) == 3


def test_with_a_validation_set_of_its_own_a_folder_is_tested_on_its_test_images(
    tmp_path, make_data, caplog
):
    """Without a test folder on its validation folder, unless that is the validation set."""
    parts_of(tmp_path, 'train', 'val', 'test')  # images have the values 0, 10 and 20, and more

    def parts(**fields):
        data = make_data(name=f'folder:{tmp_path}', **fields)
        train, validation = datasets.training(data)
        test = datasets.testing(data, validation)
        firsts = [int(source[0]['image'][0, 0, 0]) // 10 for source in (train, validation, test)]
        return firsts, test is validation

    assert parts(validation='val') == ([0, 1, 2], False)
    assert parts(validation='validation') == ([0, 1, 2], False)  # of the same kind
    for name in ('cat', 'dog'):
        gray(0).save(tmp_path / 'train' / name / '001.png')
    assert parts(validation='0.5') == ([0, 0, 2], False)
    assert 'not read, as a part of train is the validation set' in caplog.text
    assert parts(validation='0.5', eval_split='val') == ([0, 0, 1], False)
    shutil.rmtree(tmp_path / 'test')
    assert parts(validation='0.5') == ([0, 0, 1], False)
    assert parts(validation='val') == ([0, 1, 1], True)
    shutil.rmtree(tmp_path / 'val')
    assert parts(validation='0.5') == ([0, 0, 0], True)
    with pytest.raises(UserError, match="eval.validation is 'val', and .* no such folder"):
        parts(validation='val')


@pytest.mark.parametrize('layout', ['val', ''])
def test_evaluation_in_the_order_of_the_runs_classes(tmp_path, make_data, layout, caplog):
    """Without train/ next to it; missing classes are named."""
    folder_of(tmp_path / layout, {'cat': 2, 'eel': 1})
    data = make_data(name=f'folder:{tmp_path}')
    assert not datasets.has_training(data)
    with caplog.at_level(logging.WARNING):
        source = datasets.load(data, 'eval', ('owl', 'eel', 'dog', 'cat'))
    assert labels_of(source) == {0: 3, 1: 3, 2: 1}
    assert source.class_names == ('owl', 'eel', 'dog', 'cat')
    assert 'has no images of 2 of the 4 classes: owl, dog' in caplog.text
    with pytest.raises(UserError, match="has 1 of 2 classes that the run does not know: 'eel'"):
        datasets.load(data, 'eval', ('cat', 'eels'))


def test_a_part_of_imagenet_has_imagenets_labels(tmp_path, make_data):
    """The labels of three WordNet ids are indices in all 1,000, not 0, 1, 2."""
    places = [999, 6, 217]
    folder_of(tmp_path / 'val', {wnids()[place]: 1 for place in places})
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval', wnids())
    assert labels_of(source) == {0: 999, 1: 6, 2: 217}
    assert source.num_classes == 1000


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not on this machine (CLS_SHARED)')
def test_photographs_have_imagenets_labels(tmp_path, make_data):
    """The labels of 125 classes equal those that came with the photographs."""
    with (REAL / 'photos' / 'sample.csv').open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        (tmp_path / 'val' / row['wnid']).mkdir(parents=True)
        (tmp_path / 'val' / row['wnid'] / row['file']).symlink_to(
            REAL / 'photos' / 'sample' / row['file']
        )
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval', wnids())
    labels = [int(row['label']) for row in sorted(rows, key=lambda row: row['wnid'])]
    assert [source[i]['label'] for i in range(len(rows))] == labels


def test_labels_of_a_prepared_set_in_the_runs_order(make_data, speckles):
    data = make_data(name='tfds:speckles', dir=str(speckles))
    own = labels_of(datasets.load(data, 'train'))
    turned = datasets.load(data, 'train', ('blue', 'black', 'red', 'green'))
    assert labels_of(turned) == {value: [2, 3, 0][label] for value, label in own.items()}
    assert turned.num_classes == 4
    with pytest.raises(UserError, match="speckles has 1 of 3 classes .* know: 'blue'"):
        datasets.load(data, 'train', ('red', 'green'))


class Counted(str):
    """A name that counts how often it is compared."""

    count = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.count += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize('known', [True, False])
def test_opening_takes_time_in_proportion_to_the_classes(tmp_path, make_data, monkeypatch, known):
    """Each name is looked up in a set, and the parents of the class folders are found once."""
    names = [f'c{number}' for number in range(120)]
    for part in ('train', 'val'):
        folder_of(tmp_path / part, dict.fromkeys(names, 0))
        for name in names:
            (tmp_path / part / name / '0.jpg').touch()
    parents = []
    find, list_parents = scan.class_folders, scan.above
    monkeypatch.setattr(
        folders, 'class_folders', lambda *args: [Counted(name) for name in find(*args)]
    )
    monkeypatch.setattr(folders, 'above', lambda path: parents.append(path) or list_parents(path))
    monkeypatch.setattr(scan, 'above', folders.above)
    Counted.count = 0
    classes = tuple(Counted(name) for name in reversed(names)) if known else ()
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval', classes)
    assert len(source) == 120
    assert Counted.count < 10 * 120  # 120 ** 2 / 2 in a list
    assert len(parents) < 10


# ------------------------------------------------------------------------------------------------
# From the run folder
# ------------------------------------------------------------------------------------------------


def run_of(workdir, classes, num_classes=3):
    """Returns a run folder of a small network with these class names."""
    overrides = {'model.stage_sizes': '(1, 1, 1)', 'model.widths': '(4, 4, 4)', 'batch': '8'}
    overrides |= {'model.num_classes': str(num_classes), 'model.bn_group': '0'}
    overrides |= {'data.mean': '(120.,)', 'data.std': '(30.,)'}
    config = configs.load('configs/resnet.py', tuple(overrides.items()))
    net = configs.create_model(config, num_classes)
    variables = init.init(net, 0, 8, 3)
    import_weights.write(config, variables, workdir, classes=classes)


def evaluated(workdir, folder):
    overrides = [('data.name', f'folder:{folder}')]
    return evaluate.restore(
        configs.from_json((workdir / 'config.json').read_text(), overrides), workdir
    )


def test_a_run_is_evaluated_on_a_folder_without_train(tmp_path):
    run_of(tmp_path / 'run', ('eel', 'cat', 'dog'))
    assert load_classes(tmp_path / 'run') == ('eel', 'cat', 'dog')
    folder_of(tmp_path / 'data' / 'val', {'cat': 3, 'eel': 2})
    setup, state = evaluated(tmp_path / 'run', tmp_path / 'data')
    assert setup.train is None
    assert setup.info.num_classes == setup.model.num_classes == 3
    assert labels_of(setup.test) == {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}
    with pytest.raises(UserError, match="does not know: 'owl'"):
        folder_of(tmp_path / 'data' / 'val', {'owl': 1})
        evaluated(tmp_path / 'run', tmp_path / 'data')


def test_unknown_classes_are_not_guessed(tmp_path, capsys):
    """A network with three outputs does not tell the classes of a folder with two."""
    run_of(tmp_path / 'run', ())
    folder_of(tmp_path / 'data', {'cat': 1, 'eel': 1})
    with pytest.raises(UserError, match='has 2 classes and the network 3, .*classes.json'):
        evaluated(tmp_path / 'run', tmp_path / 'data')
    folder_of(tmp_path / 'data', {'dog': 1}, first=2)
    setup, _ = evaluated(tmp_path / 'run', tmp_path / 'data')
    assert labels_of(setup.test) == {0: 0, 2: 1, 1: 2}
    assert f'taken for the 3 classes of folder:{tmp_path}/data in the order cat, dog, eel (' in (
        capsys.readouterr().out
    )
    (tmp_path / 'run' / 'classes.json').write_text('["cat", "cat"]')
    with pytest.raises(UserError, match='classes.json is not a list of different names'):
        load_classes(tmp_path / 'run')


def test_training_writes_the_names(tmp_path, monkeypatch):
    from cls import train

    monkeypatch.setattr(train, 'fit', lambda setup, *_: setup.info.class_names)
    config = configs.load('configs/resnet.py')
    names = train.job(config, tmp_path / 'run')
    assert json.loads((tmp_path / 'run' / 'classes.json').read_text()) == list(names)
    assert names == tuple('0123456789')


def test_a_run_goes_on_with_the_classes_that_it_began_with(tmp_path):
    config = configs.load('configs/resnet.py')
    with open_run(
        tmp_path, run_config(config), ('cat', 'dog')
    ):  # for example imported: not begun, so the classes may change
        pass
    with open_run(tmp_path, run_config(config), ('cat', 'eel')):
        (tmp_path / 'metrics.jsonl').touch()
    for names in (('cat', 'owl'), ('eel', 'cat'), ('cat', 'eel', 'owl')):
        with (
            pytest.raises(UserError, match='holds a run of 2 classes, and the data set has'),
            open_run(tmp_path, run_config(config), names),
        ):
            raise AssertionError('claimed')
    with open_run(tmp_path, run_config(config), ('cat', 'eel')):
        assert load_classes(tmp_path) == ('cat', 'eel')


# ------------------------------------------------------------------------------------------------
# Formats
# ------------------------------------------------------------------------------------------------


def smooth(channels):
    coarse = np.random.default_rng(channels).integers(256, size=(4, 5, channels), dtype=np.uint8)
    return cv2.resize(coarse, (50, 40), interpolation=cv2.INTER_CUBIC).reshape(40, 50, channels)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def without_adobe(jpeg):
    """Returns a JPEG without the segment that declares its CMYK inverted."""
    start = jpeg.index(b'\xff\xee')
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], 'big') :]


RGB, CMYK = Image.fromarray(smooth(3)), Image.fromarray(smooth(4), 'CMYK')
FORMATS = {
    'baseline.jpg': saved(RGB, 'JPEG'),
    'progressive.JPEG': saved(RGB, 'JPEG', progressive=True),
    'gray.jpeg': saved(RGB.convert('L'), 'JPEG'),
    'cmyk.jpg': saved(CMYK, 'JPEG'),
    'cmyk_not_inverted.jpg': without_adobe(saved(CMYK, 'JPEG')),
    'colors.png': saved(RGB, 'PNG'),
    'palette.png': saved(RGB.quantize(16), 'PNG'),
    'gray.png': saved(RGB.convert('L'), 'PNG'),
    'transparent.png': saved(Image.fromarray(smooth(4), 'RGBA'), 'PNG'),
    'lossy.webp': saved(RGB, 'WEBP'),
    'lossless.webp': saved(RGB, 'WEBP', lossless=True),
    'bitmap.bmp': saved(RGB, 'BMP'),
}


def test_formats(tmp_path, make_data):
    """Each format against Pillow, except for 16 bits: Pillow keeps the wrong eight."""
    wide = smooth(3).astype(np.uint16) * 256 + 200
    contents = FORMATS | {
        'deep.png': cv2.imencode('.png', wide[..., ::-1])[1].tobytes(),
        'deep_gray.png': cv2.imencode('.png', wide[..., 0])[1].tobytes(),
    }
    (tmp_path / 'cat').mkdir()
    for name, content in contents.items():
        (tmp_path / 'cat' / name).write_bytes(content)
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval', ('cat',))
    for index, name in enumerate(sorted(contents)):
        image = source[index]['image'].astype(int)
        assert image.shape == (40, 50, 3)
        if name == 'deep.png':
            expected = smooth(3)
        elif name == 'deep_gray.png':
            expected = np.repeat(smooth(3)[..., :1], 3, axis=2)
        else:
            expected = np.asarray(Image.open(io.BytesIO(contents[name])).convert('RGB'))
        # OpenCV's own arithmetic for CMYK differs by at most two levels.
        assert abs(image - expected).max() <= (2 if 'cmyk' in name else 0), name


# ------------------------------------------------------------------------------------------------
# The evaluated split
# ------------------------------------------------------------------------------------------------


def parts_of(root, *names, unlabeled=()):
    """Writes parts with classes cat and dog: images have value 0 in the first, 10 in the next."""
    for number, name in enumerate(names):
        folder_of(root / name, {'cat': 2, 'dog': 1}, first=10 * number)
    for name in unlabeled:
        (root / name).mkdir(parents=True)
        for number in range(3):
            gray(200 + number).save(root / name / f'{number}.png')
    return root


def evaluated_part(root, make_data, **fields):
    """Returns (number of the evaluated part, its split, its kind)."""
    source = datasets.load(make_data(name=f'folder:{root}', **fields), 'eval')
    return min(labels_of(source)) // 10, source.split, source.split_kind


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'Val', 'VALIDATION', 'Valid'])
def test_validation_comes_before_test(tmp_path, make_data, name):
    """Evaluating test/ all through training would overfit to it; it has to be asked for."""
    parts_of(tmp_path, 'train', 'test', name)
    assert evaluated_part(tmp_path, make_data) == (2, name, 'validation')
    for asked in ('test', 'Test'):
        assert evaluated_part(tmp_path, make_data, eval_split=asked) == (1, 'test', 'test')
    for asked in ('val', 'validation', name):
        assert evaluated_part(tmp_path, make_data, eval_split=asked)[0] == 2
    train = datasets.load(make_data(name=f'folder:{tmp_path}'), 'train')
    assert min(labels_of(train)) == 0


@pytest.mark.parametrize('name', ['test', 'Test', 'testing'])
def test_a_test_folder_without_validation_is_a_test_split(tmp_path, make_data, name):
    parts_of(tmp_path, 'Training', name)
    assert evaluated_part(tmp_path, make_data) == (1, name, 'test')
    with pytest.raises(UserError, match="eval_split is 'val', and .* no such folder: .*Training"):
        evaluated_part(tmp_path, make_data, eval_split='val')


def test_any_folder_can_be_asked_for(tmp_path, make_data):
    parts_of(tmp_path, 'train', 'val', 'holdout')
    assert evaluated_part(tmp_path, make_data, eval_split='holdout') == (2, 'holdout', 'validation')
    assert evaluated_part(tmp_path, make_data, eval_split='train') == (0, 'train', 'validation')
    with pytest.raises(UserError, match=r"eval_split is '\.\./x'.*no such folder"):
        evaluated_part(tmp_path, make_data, eval_split='../x')


def test_a_held_out_part_is_no_test_split(tmp_path, make_data):
    parts_of(tmp_path, 'train', 'test')
    data = make_data(name=f'folder:{tmp_path}', validation='0.5')
    (tmp_path / 'train' / 'dog' / '001.png').write_bytes(
        (tmp_path / 'train' / 'dog' / '000.png').read_bytes()
    )
    held, train = datasets.load(data, 'validation'), datasets.load(data, 'train')
    assert (held.split, held.split_kind) == ('0.5 of each class held out', 'validation')
    assert sorted([*held.files, *train.files]) == [
        f'{name}/{number:03}.png' for name in ('cat', 'dog') for number in range(2)
    ]
    assert datasets.load(data, 'eval').split == 'test'


def test_two_folders_of_one_kind_are_not_guessed(tmp_path, make_data):
    parts_of(tmp_path, 'train', 'val', 'validation', 'Train')
    with pytest.raises(UserError, match='Train and .*/train both exist'):
        evaluated_part(tmp_path, make_data)
    (tmp_path / 'Train').rename(tmp_path / 'more')
    with pytest.raises(UserError, match='say which one, as config.data.eval_split=val'):
        evaluated_part(tmp_path, make_data)
    assert evaluated_part(tmp_path, make_data, eval_split='validation')[0] == 2


def test_an_unlabeled_test_folder_is_left_alone(tmp_path, make_data):
    parts_of(tmp_path, 'train', 'val', unlabeled=['test'])
    assert evaluated_part(tmp_path, make_data)[:2] == (1, 'val')
    with pytest.raises(
        UserError,
        match=r'test has 3 images and no class folders \(unlabeled images\): expected one',
    ):
        evaluated_part(tmp_path, make_data, eval_split='test')


@pytest.mark.parametrize(
    ('names', 'unlabeled', 'message'),
    [
        (['train'], ['test'], r'no folder .* evaluate on \(test has 3 images and no class folders'),
        (['train', 'test'], ['val'], r'\(val has 3 images .*or config.data.eval_split=test\.'),
        ([], ['test'], 'test has 3 images and no class folders'),
        ([], ['train', 'val'], 'train has 3 images and no class folders'),
        ([], [''], r'has 3 images and no class folders \(unlabeled images\): expected one folder'),
    ],
)
def test_images_without_classes_are_called_so(tmp_path, make_data, names, unlabeled, message):
    parts_of(tmp_path / 'data', *names, unlabeled=unlabeled)
    with pytest.raises(UserError, match=message):
        evaluated_part(tmp_path / 'data', make_data)


def test_classes_may_have_the_name_of_a_split(tmp_path, make_data, caplog):
    """Images of banknotes, valid and invalid: folders without class folders are not splits."""
    parts_of(tmp_path, unlabeled=['valid', 'invalid'])
    source = datasets.load(make_data(name=f'folder:{tmp_path}', validation='0.3'), 'train')
    assert source.class_names == ('invalid', 'valid')
    assert 'valid is taken for a class' in caplog.text


def test_prepared_sets_prefer_validation_too(tmp_path, make_data, builder_of_speckles):
    class Three(builder_of_speckles, skip_registration=True):
        name = 'three'

        def _split_generators(self, dl_manager):
            names = (('train', 4), ('test', 3), ('validation', 2))
            return {name: self._generate_examples(range(count)) for name, count in names}

    Three(data_dir=tmp_path, file_format='array_record').download_and_prepare()
    data = make_data(name='tfds:three', dir=str(tmp_path))
    cases = {'': (2, 'validation', 'validation'), 'test': (3, 'test', 'test')}
    for asked, expected in cases.items():
        data = dataclasses.replace(data, eval_split=asked)
        source = datasets.load(data, 'eval')
        assert (len(source), source.split, source.split_kind) == expected
    data = dataclasses.replace(data, eval_split='train[50%:]')
    assert datasets.load(data, 'eval').split_kind == 'validation'
    with pytest.raises(
        UserError, match=r'speckles has no split to evaluate on, it has train: .*90%'
    ):
        splits.to_evaluate('speckles', ['train'])


# ------------------------------------------------------------------------------------------------
# The order of the classes
# ------------------------------------------------------------------------------------------------


def test_the_order_of_numbers_is_logged_and_can_be_chosen(tmp_path, make_data, caplog):
    """The orders of torchvision and, with 'natural', of timm."""
    names = ['0', '1', '2', '10', '100', 'a2', 'A10']
    folder_of(tmp_path / 'train', dict.fromkeys(names, 1))
    folder_of(tmp_path / 'val', {'10': 1, '2': 1}, first=50)
    data = make_data(name=f'folder:{tmp_path}')
    assert datasets.load(data, 'train').class_names == tuple(sorted(names))
    assert 'text order, 0, 1, 10, 100, ...; the natural order differs, 0, 1, 2, 10' in caplog.text
    data = dataclasses.replace(data, class_order='natural')
    train, test = datasets.load(data, 'train'), datasets.load(data, 'eval')
    assert train.class_names == test.class_names == tuple(names)
    assert labels_of(train) == {value: label for label, value in enumerate(range(7))}
    assert labels_of(test) == {50: 3, 51: 2}
    assert len(caplog.records) == 3  # each order once, and the classes missing in val/
    data = dataclasses.replace(data, class_order='numbers')
    with pytest.raises(UserError, match="class_order is 'numbers': expected one of text, natural"):
        datasets.load(data, 'train')


def test_orders_that_agree_need_no_warning(tmp_path, make_data, caplog):
    folder_of(tmp_path, {'001': 1, '002': 1, '010': 1})
    datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
    assert not caplog.records


# ------------------------------------------------------------------------------------------------
# Image files
# ------------------------------------------------------------------------------------------------


def test_every_suffix_that_can_be_decoded_is_taken(tmp_path, make_data):
    """A file with each suffix that the decoder takes, with Pillow's pixels."""
    Image.init()
    (tmp_path / 'cat').mkdir()
    for suffix in SUFFIXES:
        form = {'.dib': 'BMP', '.jif': 'JPEG'}.get(suffix) or Image.EXTENSION.get(suffix)
        name = f'{suffix[1:]}{suffix if len(suffix) % 2 else suffix.upper()}'
        if suffix in ('.ras', '.sr'):  # Pillow cannot write these
            content = cv2.imencode(suffix, np.asarray(RGB)[..., ::-1])[1].tobytes()
        else:
            content = saved(RGB, form)
        (tmp_path / 'cat' / name).write_bytes(content)
    source = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
    assert len(source) == len(SUFFIXES)
    for index, file in enumerate(source.files):
        expected = np.asarray(Image.open(tmp_path / file).convert('RGB')).astype(int)
        assert abs(source[index]['image'] - expected).max() <= 1, file


def test_images_are_taken_from_any_depth(tmp_path, make_data):
    """The held-out images are a function of the whole path: file names may repeat."""
    for place in ('a/x.png', 'a/b/c/d/x.png', 'x.png', 'z/x.png'):
        file = tmp_path / 'cat' / place
        file.parent.mkdir(parents=True, exist_ok=True)
        gray(len(place)).save(file)
    folder_of(tmp_path, {'dog': 4}, first=100)
    every = datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
    assert every.files[:4] == [
        f'cat/{place}' for place in ('a/b/c/d/x.png', 'a/x.png', 'x.png', 'z/x.png')
    ]
    halves = [
        list(datasets.load(make_data(name=f'folder:{tmp_path}', validation='0.5'), split).files)
        for split in ('train', 'validation')
    ]
    assert sorted(sum(halves, [])) == sorted(every.files)
    assert [sum(file.startswith('cat') for file in half) for half in halves] == [2, 2]


def test_what_is_left_out_is_counted_by_reason_once(tmp_path, make_data, caplog):
    folder_of(tmp_path, {'cat': 2, 'dog': 1})
    cat = tmp_path / 'cat'
    for name in ('notes.txt', 'more.txt', 'a.heic', 'README', '.DS_Store'):
        (cat / name).write_text('no image')
    (cat / 'inner').mkdir()
    (cat / 'inner' / 'back').symlink_to(tmp_path)
    (cat / 'inner' / 'itself').symlink_to(cat)
    (cat / 'inner' / 'gone.png').symlink_to(tmp_path / 'nowhere.png')
    (cat / 'inner' / 'loop.png').symlink_to(cat / 'inner' / 'loop.png')
    os.mkfifo(cat / 'pipe.png')  # opening it would wait forever
    (tmp_path / 'labels.csv').write_text('')
    (tmp_path / '.cache').mkdir()
    (tmp_path / 'here').symlink_to(tmp_path)
    data = make_data(name=f'folder:{tmp_path}')
    for _ in range(2):
        source = datasets.load(data, 'eval')
        assert list(source.files) == ['cat/000.png', 'cat/001.png', 'dog/000.png']
        assert source.class_names == ('cat', 'dog')
    (record,) = caplog.records
    assert record.getMessage() == (
        f'{tmp_path}: left out 4 of other formats (.txt 2, .heic 1, without suffix 1), '
        '2 hidden, 1 links that lead back, 2 links to folders that are read already, '
        '3 no files, or links to nothing, 1 outside the class folders'
    )


def test_unread_folders_next_to_train_are_named(tmp_path, make_data, caplog):
    for part in ('train', 'dev', 'extra', 'test'):
        folder_of(tmp_path / part, {'cat': 2, 'dog': 2})
    data = make_data(name=f'folder:{tmp_path}', validation='0.5')
    assert datasets.load(data, 'validation').split == '0.5 of each class held out'
    asked = make_data(name=f'folder:{tmp_path}', eval_split='dev')
    assert datasets.load(asked, 'eval').split == 'dev'
    unread = [record.getMessage().partition(': ')[2] for record in caplog.records]
    assert [line.partition(' (')[0] for line in unread] == [
        'not read, as these are not names of splits: dev, extra',
        'not read, as these are not names of splits: extra',
    ]


def test_links_to_folders_are_followed_but_not_forever(tmp_path, make_data):
    """Thirty levels of two links each: 2**30 paths to one image."""
    pool = tmp_path / 'pool'
    folder_of(pool, {'last': 1})
    below = pool / 'last'
    for level in range(30):
        folder = pool / f'level{level}'
        folder.mkdir()
        (folder / 'a').symlink_to(below)
        (folder / 'b').symlink_to(below)
        below = folder
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'cat').symlink_to(below)
    source = datasets.load(make_data(name=f'folder:{tmp_path / "data"}'), 'eval')
    assert list(source.files) == [f'cat/{"a/" * 30}000.png']


def test_names_need_not_be_utf_8(tmp_path, make_data):
    (tmp_path / 'cat').mkdir()
    for name in (b'a\xff.png', b'b.png'):
        gray(3).save(os.fsdecode(os.fsencode(tmp_path / 'cat') + b'/' + name), 'PNG')
    data = make_data(name=f'folder:{tmp_path}', validation='0.5')
    source = datasets.load(data, 'eval')
    assert len(source.identity()['digest']) == 16
    data = dataclasses.replace(data, validation='')
    source = datasets.load(data, 'eval')
    one = metrics.Predictions(np.ones((2, 1)), np.zeros(2, np.int32), np.arange(2))
    with Listing() as listing:
        listing.add(metrics.outcomes(one, listed=True))
        listing.write(tmp_path / 'p.csv', 1, source.class_names, source.files)
    assert b'cat/a\xff.png,cat' in (tmp_path / 'p.csv').read_bytes()


def test_a_class_of_other_files_says_which(tmp_path, make_data):
    folder_of(tmp_path, {'cat': 1})
    (tmp_path / 'dog').mkdir()
    (tmp_path / 'dog' / 'a.heic').write_text('')
    with pytest.raises(
        UserError, match=r'dog has no images \(left out: 1 of other formats \(.heic'
    ):
        datasets.load(make_data(name=f'folder:{tmp_path}'), 'eval')
