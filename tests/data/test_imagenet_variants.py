"""ImageNet's other test sets: the classes of their folders, their subsets, and errors."""

import json
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cls.data import classes, datasets, imagenet_variants, tfds_sets
from cls.errors import UserError

WNIDS = tuple(f'n0000000{i}' for i in range(9)) + ('n00000010', 'n00000020', 'n00000030')


def picture(value):
    return Image.fromarray(np.full((6, 7, 3), value, np.uint8))


def folders_of(root, names):
    """Writes one image in each class folder; every pixel is the index of the folder's name."""
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        picture(place % 256).save(root / name / f'{place}.png')
    return root


def labels_of(source):
    """{pixel value: label} of all examples."""
    examples = [source[i] for i in range(len(source))]
    return {int(example['image'][0, 0, 0]): example['label'] for example in examples}


@pytest.fixture
def twelve(monkeypatch):
    """Patches ImageNet to 12 classes and ImageNet-A to three of them."""
    for module in (classes, imagenet_variants):
        monkeypatch.setattr(module, 'wnids', lambda: WNIDS)
    small = classes.Benchmark(subset=(1, 4, 11))
    monkeypatch.setitem(classes.BENCHMARKS, 'imagenet_a', small)
    return WNIDS


def test_imagenet_v2_folders_are_numbers(tmp_path, make_data, twelve):
    """'10' is the class after '9', although it is sorted after '1'."""
    folders_of(tmp_path, [str(i) for i in range(12)])
    data = make_data(name=f'imagenet_v2:{tmp_path}')
    source = datasets.load(data, 'eval')
    assert labels_of(source) == {i: i for i in range(12)}
    assert (source.class_names, source.num_classes, source.subset) == (twelve, 12, ())
    turned = datasets.load(data, 'eval', twelve[::-1])
    assert labels_of(turned) == {i: 11 - i for i in range(12)}


def test_a_subset_competes_by_its_wordnet_ids(tmp_path, make_data, twelve):
    folders_of(tmp_path, [twelve[i] for i in (1, 4, 11)])
    data = make_data(name=f'imagenet_a:{tmp_path}')
    source = pickle.loads(pickle.dumps(datasets.load(data, 'eval')))
    assert labels_of(source) == {0: 1, 1: 4, 2: 11}
    assert (source.num_classes, source.subset) == (12, (1, 4, 11))
    turned = datasets.load(data, 'eval', twelve[::-1])
    assert (labels_of(turned), turned.subset) == ({0: 10, 1: 7, 2: 0}, (10, 7, 0))


@pytest.mark.parametrize('name', ['imagenet_a', 'imagenet_r'])
def test_the_real_subsets(tmp_path, make_data, name):
    """200 classes each; those that the authors' README files name have the right indices."""
    places = classes.BENCHMARKS[name].subset
    assert len(set(places)) == 200
    assert list(places) == sorted(places)
    some = {
        'imagenet_a': ['n01498041', 'n01531178', 'n01534433', 'n12267677'],
        'imagenet_r': ['n01443537', 'n01484850', 'n01494475', 'n12267677'],
    }[name]
    ids = [classes.wnids()[place] for place in places]
    assert [*ids[:3], ids[-1]] == some
    folders_of(tmp_path, ids)
    source = datasets.load(make_data(name=f'{name}:{tmp_path}'), 'eval')
    assert labels_of(source) == dict(enumerate(places))
    assert source.num_classes == 1000


@pytest.mark.parametrize('name', ['imagenet_sketch', 'imagenet_c'])
def test_all_classes_by_wordnet_id(tmp_path, make_data, twelve, name):
    folders_of(tmp_path / 'fog' / '3', twelve)
    source = datasets.load(make_data(name=f'{name}:{tmp_path}/fog/3'), 'eval')
    assert labels_of(source) == {i: i for i in range(12)}
    assert source.subset == ()


def test_incomplete_sets_are_refused(tmp_path, make_data, twelve):
    folders_of(tmp_path, twelve)
    data = make_data(name=f'imagenet_a:{tmp_path}')
    message = r'9 class folders are unexpected in .*expected the 3 class'
    with pytest.raises(UserError, match=message):
        datasets.load(data, 'eval')
    with pytest.raises(
        UserError, match='12 class folders are missing from .*from 0 to 11; write f'
    ):
        datasets.load(make_data(name=f'imagenet_v2:{tmp_path}'), 'eval')
    with pytest.raises(UserError, match='imagenet_a is a test set: expected `cls evaluate`'):
        datasets.load(data, 'train')
    message = '/nowhere is not a folder: expected the extracted imagenet_r'
    with pytest.raises(UserError, match=message):
        datasets.load(make_data(name='imagenet_r:/nowhere'), 'eval')
    with pytest.raises(UserError, match="12 of 12 classes that the run does not know: 'n00000000'"):
        datasets.load(make_data(name=f'imagenet_sketch:{tmp_path}'), 'eval', ('cat', 'dog'))
    assert not datasets.has_training(data)


# ------------------------------------------------------------------------------------------------
# ImageNet-ReaL
# ------------------------------------------------------------------------------------------------

RIGHT = [[3], [], [1, 2], [11, 0, 5]]
TRUE = ['n00000003', 'n00000007', 'n00000001', 'n00000030']  # the original labels


@pytest.fixture
def real(tmp_path, twelve, monkeypatch):
    """real.json of four images and the images; the second image has no correct label."""
    monkeypatch.setattr(imagenet_variants, 'validation_labels', lambda: TRUE)
    (tmp_path / 'real.json').write_text(json.dumps(RIGHT))
    for number in range(1, 5):
        folder = tmp_path / 'val' / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f'ILSVRC2012_val_{number:08}.JPEG'
        picture(50 * number).save(file, 'JPEG', quality=100)
    return tmp_path


def seen(source):
    """Returns {number of the image: (label, correct labels)}."""
    examples = [source[i] for i in range(len(source))]
    numbers = [round(int(example['image'][0, 0, 0]) / 50) for example in examples]
    labels = [example['label'] for example in examples]
    return dict(zip(numbers, zip(labels, source.label_sets, strict=True), strict=True))


def test_real_of_a_folder(real, make_data):
    data = make_data(name=f'imagenet_real:{real}')
    expected = {1: (3, (3,)), 3: (1, (1, 2)), 4: (11, (11, 0, 5))}
    assert seen(datasets.load(data, 'eval')) == expected
    turned = datasets.load(data, 'eval', WNIDS[::-1])
    assert seen(turned) == {1: (8, (8,)), 3: (10, (10, 9)), 4: (0, (0, 11, 6))}


class Validation(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The four images under the name and with the features of TFDS's imagenet2012."""

    name = 'imagenet2012'
    VERSION = tfds.core.Version('5.1.0')
    url_infos = None
    root = None

    def _info(self):
        features = {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(names=WNIDS),
            'file_name': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'validation': self._generate_examples()}

    def _generate_examples(self):
        for file in self.root.rglob('*.JPEG'):
            label = TRUE[int(file.stem[-8:]) - 1]
            yield file.name, {'image': file.read_bytes(), 'label': label, 'file_name': file.name}


def test_real_of_the_prepared_set(real, make_data, monkeypatch):
    monkeypatch.setattr(Validation, 'root', real)
    data_dir = real / 'data'
    Validation(data_dir=data_dir, file_format='array_record').download_and_prepare()
    data = make_data(name=f'imagenet_real:{real}/real.json', dir=str(data_dir))
    expected = {1: (3, (3,)), 3: (1, (1, 2)), 4: (11, (11, 0, 5))}
    source = pickle.loads(pickle.dumps(datasets.load(data, 'eval')))
    assert seen(source) == expected
    # The records are in another order than the files' numbers, or the test would check nothing.
    builder = tfds_sets.prepared('imagenet2012', str(data_dir))
    names = tfds_sets.texts(builder, 'validation', 'file_name')
    assert names != sorted(names)
    # Only the prepared set is evaluated here, with all images in the run's order.
    data = make_data(name='tfds:imagenet2012', dir=str(data_dir), eval_split='validation')
    assert not datasets.has_training(data)
    source = datasets.load(data, 'eval', WNIDS[::-1])
    assert sorted(source[i]['label'] for i in range(4)) == [0, 4, 8, 10]


def test_real_must_be_complete(real, make_data):
    data = make_data(name=f'imagenet_real:{real}')
    file = real / 'val' / '1' / 'ILSVRC2012_val_00000003.JPEG'
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UserError, match='has 3 validation images and real.json labels for 4'):
        datasets.load(data, 'eval')
    file.write_bytes(content)
    (real / 'real.json').write_text('[[3], [12], [], []]')
    with pytest.raises(UserError, match='real.json is not a list of lists of classes 0 to 11'):
        datasets.load(data, 'eval')
    (real / 'real.json').unlink()
    with pytest.raises(UserError, match=r'real.json cannot be read .*reassessed-imagenet'):
        datasets.load(data, 'eval')


def test_prepared_by_tfds(tmp_path, make_data, monkeypatch):
    """tfds:imagenet_a has the subset, too."""

    class ImagenetA(Validation, skip_registration=True):
        name = 'imagenet_a'

        def _info(self):
            features = {
                'image': tfds.features.Image(encoding_format='jpeg'),
                'label': tfds.features.ClassLabel(names=classes.wnids()),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {'test': self._generate_examples()}

        def _generate_examples(self):
            yield 0, {'image': self.root.read_bytes(), 'label': 'n01498041'}

    picture(6).save(tmp_path / 'stingray.jpg')
    monkeypatch.setattr(ImagenetA, 'root', tmp_path / 'stingray.jpg')
    ImagenetA(data_dir=tmp_path, file_format='array_record').download_and_prepare()
    source = datasets.load(make_data(name='tfds:imagenet_a', dir=str(tmp_path)), 'eval')
    assert source.subset == classes.BENCHMARKS['imagenet_a'].subset
    assert source[0]['label'] == 6
