"""Image folders: layouts, the part held out, the order of a run's classes, formats."""

import csv
import io
import json
import logging

import cv2
import numpy as np
import pytest
from golden.make_real import REAL
from PIL import Image

from cls import config as configs
from cls import evaluate, models
from cls.data import sources
from cls.data.benchmarks import wnids
from cls.errors import UserError
from cls.runtime import claim, load_classes
from cls.tools import import_weights


def grey(value, side=8):
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


def folder_of(root, counts, first=0):
    """{class: number of images}; the images have the values first, first + 1, ..."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            grey(first).save(root / name / f'{number:03}.png')
            first += 1
    return root


def labels_of(source):
    """{pixel value: label} of all examples."""
    examples = [source[i] for i in range(len(source))]
    return {int(example['image'][0, 0, 0]): example['label'] for example in examples}


COUNTS = {'cat': 40, 'dog': 20, 'eel': 2}


@pytest.mark.parametrize('layout', ['train', ''])
def test_a_part_is_held_out(tmp_path, make_data, layout):
    """A tenth of each class, at least one; nothing is lost and nothing is in both."""
    folder_of(tmp_path / layout, COUNTS)
    data = make_data(name=f'folder:{tmp_path}', eval_fraction=0.1)
    train, test = (labels_of(sources.load(data, split)) for split in ('train', 'eval'))
    whole = dict(enumerate([0] * 40 + [1] * 20 + [2] * 2))
    assert train | test == whole
    assert len(train) + len(test) == 62
    assert [list(test.values()).count(label) for label in range(3)] == [4, 2, 1]
    # Not the first ones, nor the same ones in each class: a hash chose.
    assert sorted(test)[:4] != [0, 1, 2, 3]
    assert sources.has_training(data)


def test_the_part_is_a_function_of_the_names(tmp_path, make_data):
    """Another place, another order of writing, images added: what was held out stays so."""
    for root, counts in (('a', COUNTS), ('b/c', dict(reversed(COUNTS.items())))):
        folder_of(tmp_path / root, counts)

    def held(root):
        data = make_data(name=f'folder:{tmp_path / root}', eval_fraction=0.25)
        files = sources.load(data, 'eval')._files
        return {'/'.join(file.split('/')[-2:]) for file in files}

    before = held('a')
    assert before == held('b/c')
    grey(0).save(tmp_path / 'a' / 'cat' / '900.png')
    assert len(before & held('a')) >= len(before) - 1


def test_held_out_part_errors(tmp_path, make_data):
    folder_of(tmp_path / 'a', {'cat': 3, 'dog': 1})
    data = make_data(name=f'folder:{tmp_path}/a', eval_fraction=0.1)
    with pytest.raises(UserError, match='a/dog has one image: expected two or more'):
        sources.load(data, 'train')
    for fraction in (1.0, -0.1):
        data = make_data(name=f'folder:{tmp_path}/a', eval_fraction=fraction)
        with pytest.raises(UserError, match=f'eval_fraction is {fraction}: expected 0 or more'):
            sources.load(data, 'train')
    with pytest.raises(UserError, match=r'evaluate on: .*config.data.eval_fraction.*\(0.1, say\)'):
        sources.load(make_data(name=f'folder:{tmp_path}/a'), 'train')
    folder_of(tmp_path / 'b' / 'train', COUNTS)
    data = make_data(name=f'folder:{tmp_path}/b')
    assert len(sources.load(data, 'train')) == 62
    with pytest.raises(UserError, match=r'evaluate on: .*config.data.eval_fraction'):
        sources.load(data, 'eval')
    folder_of(tmp_path / 'b' / 'val', {'cat': 1})
    data = make_data(name=f'folder:{tmp_path}/b', eval_fraction=0.1)
    with pytest.raises(UserError, match='eval_fraction is 0.1, but .*/b/val is there'):
        sources.load(data, 'eval')
    with pytest.raises(UserError, match='eval_fraction is 0.1, but digits is no folder:DIR'):
        sources.load(make_data(eval_fraction=0.1), 'train')


@pytest.mark.parametrize('layout', ['val', ''])
def test_evaluation_in_the_order_of_the_runs_classes(tmp_path, make_data, layout, caplog):
    """Without train/ beside it; classes that are not there are named."""
    folder_of(tmp_path / layout, {'cat': 2, 'eel': 1})
    data = make_data(name=f'folder:{tmp_path}')
    assert not sources.has_training(data)
    with caplog.at_level(logging.WARNING):
        source = sources.load(data, 'eval', ('owl', 'eel', 'dog', 'cat'))
    assert labels_of(source) == {0: 3, 1: 3, 2: 1}
    assert source.class_names == ('owl', 'eel', 'dog', 'cat')
    assert 'has no images of 2 of the 4 classes: owl, dog' in caplog.text
    with pytest.raises(UserError, match="has 1 of 2 classes that the run does not know: 'eel'"):
        sources.load(data, 'eval', ('cat', 'eels'))


def test_a_part_of_imagenet_has_imagenets_labels(tmp_path, make_data):
    """Three WordNet ids: their labels are places among all 1,000, not 0, 1, 2."""
    places = [999, 6, 217]
    folder_of(tmp_path / 'val', {wnids()[place]: 1 for place in places})
    source = sources.load(make_data(name=f'folder:{tmp_path}'), 'eval', wnids())
    assert labels_of(source) == {0: 999, 1: 6, 2: 217}
    assert source.num_classes == 1000


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=f'{REAL} is not on this machine (CLS_SHARED)')
def test_photographs_have_imagenets_labels(tmp_path, make_data):
    """125 of the classes, against the labels that came with the photographs."""
    with (REAL / 'photos' / 'sample.csv').open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        (tmp_path / 'val' / row['wnid']).mkdir(parents=True)
        (tmp_path / 'val' / row['wnid'] / row['file']).symlink_to(
            REAL / 'photos' / 'sample' / row['file']
        )
    source = sources.load(make_data(name=f'folder:{tmp_path}'), 'eval', wnids())
    labels = [int(row['label']) for row in sorted(rows, key=lambda row: row['wnid'])]
    assert [source[i]['label'] for i in range(len(rows))] == labels


def test_labels_of_a_prepared_set_in_the_runs_order(make_data, speckles):
    data = make_data(name='tfds:speckles', dir=str(speckles))
    own = labels_of(sources.load(data, 'train'))
    turned = sources.load(data, 'train', ('blue', 'black', 'red', 'green'))
    assert labels_of(turned) == {value: [2, 3, 0][label] for value, label in own.items()}
    assert turned.num_classes == 4
    with pytest.raises(UserError, match="speckles has 1 of 3 classes .* know: 'blue'"):
        sources.load(data, 'train', ('red', 'green'))


# ------------------------------------------------------------------------------------------------
# From the run folder
# ------------------------------------------------------------------------------------------------


def run_of(workdir, classes, num_classes=3):
    """A run folder of a small net with these class names."""
    overrides = {'model.stage_sizes': '(1, 1, 1)', 'model.widths': '(4, 4, 4)', 'batch': '8'}
    overrides |= {'model.num_classes': str(num_classes), 'model.bn_group': '0'}
    overrides |= {'data.mean': '(120.,)', 'data.std': '(30.,)'}
    config = configs.load('configs/resnet.py', tuple(overrides.items()))
    net = configs.create_model(config, num_classes)
    variables = models.init.init(net, 0, 8, 3)
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


def test_unknown_classes_are_not_guessed(tmp_path):
    """Of a net with three outputs and a folder of two classes, which are which?"""
    run_of(tmp_path / 'run', ())
    folder_of(tmp_path / 'data', {'cat': 1, 'eel': 1})
    with pytest.raises(UserError, match='has 2 classes and the net 3, .*classes.json'):
        evaluated(tmp_path / 'run', tmp_path / 'data')
    folder_of(tmp_path / 'data', {'dog': 1}, first=2)
    setup, _ = evaluated(tmp_path / 'run', tmp_path / 'data')
    assert labels_of(setup.test) == {0: 0, 2: 1, 1: 2}
    (tmp_path / 'run' / 'classes.json').write_text('["cat", "cat"]')
    with pytest.raises(UserError, match='classes.json is no list of different names'):
        load_classes(tmp_path / 'run')


def test_training_writes_the_names(tmp_path, monkeypatch):
    from cls import train

    monkeypatch.setattr(train, 'train', lambda setup, *_: setup.info.class_names)
    config = configs.load('configs/resnet.py')
    names = train.in_folder(config, tmp_path / 'run')
    assert json.loads((tmp_path / 'run' / 'classes.json').read_text()) == list(names)
    assert names == tuple('0123456789')


def test_a_run_goes_on_with_the_classes_that_it_began_with(tmp_path):
    config = configs.load('configs/resnet.py')
    with claim(tmp_path, config, ('cat', 'dog')):  # imported, say: not begun, so it may change
        pass
    with claim(tmp_path, config, ('cat', 'eel')):
        (tmp_path / 'metrics.jsonl').touch()
    for names in (('cat', 'owl'), ('eel', 'cat'), ('cat', 'eel', 'owl')):
        with (
            pytest.raises(UserError, match='holds a run of 2 classes, and the data set has'),
            claim(tmp_path, config, names),
        ):
            raise AssertionError('claimed')
    with claim(tmp_path, config, ('cat', 'eel')):
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
    """The JPEG without the segment that says that its CMYK is inverted."""
    start = jpeg.index(b'\xff\xee')
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], 'big') :]


RGB, CMYK = Image.fromarray(smooth(3)), Image.fromarray(smooth(4), 'CMYK')
FORMATS = {
    'baseline.jpg': saved(RGB, 'JPEG'),
    'progressive.JPEG': saved(RGB, 'JPEG', progressive=True),
    'grey.jpeg': saved(RGB.convert('L'), 'JPEG'),
    'cmyk.jpg': saved(CMYK, 'JPEG'),
    'cmyk_not_inverted.jpg': without_adobe(saved(CMYK, 'JPEG')),
    'colours.png': saved(RGB, 'PNG'),
    'palette.png': saved(RGB.quantize(16), 'PNG'),
    'grey.png': saved(RGB.convert('L'), 'PNG'),
    'transparent.png': saved(Image.fromarray(smooth(4), 'RGBA'), 'PNG'),
    'lossy.webp': saved(RGB, 'WEBP'),
    'lossless.webp': saved(RGB, 'WEBP', lossless=True),
    'bitmap.bmp': saved(RGB, 'BMP'),
}


def test_formats(tmp_path, make_data):
    """Each against Pillow, except for 16 bits, of which Pillow keeps the wrong eight."""
    wide = smooth(3).astype(np.uint16) * 256 + 200
    contents = FORMATS | {
        'deep.png': cv2.imencode('.png', wide[..., ::-1])[1].tobytes(),
        'deep_grey.png': cv2.imencode('.png', wide[..., 0])[1].tobytes(),
    }
    (tmp_path / 'cat').mkdir()
    for name, content in contents.items():
        (tmp_path / 'cat' / name).write_bytes(content)
    source = sources.load(make_data(name=f'folder:{tmp_path}'), 'eval', ('cat',))
    for index, name in enumerate(sorted(contents)):
        image = source[index]['image'].astype(int)
        assert image.shape == (40, 50, 3)
        if name == 'deep.png':
            expected = smooth(3)
        elif name == 'deep_grey.png':
            expected = np.repeat(smooth(3)[..., :1], 3, axis=2)
        else:
            expected = np.asarray(Image.open(io.BytesIO(contents[name])).convert('RGB'))
        # OpenCV's own arithmetic for CMYK is two levels off at most.
        assert abs(image - expected).max() <= (2 if 'cmyk' in name else 0), name
