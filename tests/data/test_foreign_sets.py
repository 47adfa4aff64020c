"""Untrusted data sets: no name in them is imported, and nothing is written to their paths."""

import json
import shutil
import sys

import pytest

from cls.config import load as configs
from cls.config.runs import load_config
from cls.data import datasets
from cls.data.spec import DataSpec
from cls.errors import UserError
from cls.setup import set_up
from cls.storage import paths

MODULE = 'a_module_of_this_test'
TEXT = 'tensorflow_datasets.core.features.text_feature.Text'


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that a harmless module on sys.path writes when it is imported."""
    (tmp_path / 'code').mkdir()
    written = tmp_path / 'imported'
    (tmp_path / 'code' / f'{MODULE}.py').write_text(
        'import tensorflow_datasets as tfds\n'
        f'open({str(written)!r}, "w").close()\n'
        'class Harmless(tfds.features.Text):\n'
        '    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path / 'code')
    yield written
    sys.modules.pop(MODULE, None)


def everywhere(features):
    """Yields features.json with a foreign class at each place where TFDS reads a class."""
    name = f'{MODULE}.Harmless'
    own = features['featuresDict']['features']['file']
    foreign = own | {'pythonClassName': name}
    old = {'type': name, 'content': {}}

    def beside(feature):
        names = features['featuresDict']['features'] | {'note': feature}
        return features | {'featuresDict': {'features': names}}

    sequence = 'tensorflow_datasets.core.features.sequence_feature.Sequence'
    nested = 'tensorflow_datasets.core.features.features_dict.FeaturesDict'
    yield features | {'pythonClassName': name}
    yield beside(foreign)
    yield beside({key: value for key, value in own.items() if key != 'pythonClassName'}
                 | {'python_class_name': name})  # fmt: skip
    yield beside({'pythonClassName': sequence, 'sequence': {'feature': foreign}})
    yield beside({'pythonClassName': nested, 'featuresDict': {'features': {'a': foreign}}})
    yield old
    yield {'type': nested, 'content': {'note': old}}
    yield {'type': nested, 'proto_cls': 'tensorflow_datasets.FeaturesDict',
           'content': json.dumps({'features': {'note': foreign}})}  # fmt: skip
    yield beside({'pythonClassName': nested, 'jsonFeature': {'json': json.dumps({'note': old})}})
    deep = {'type': nested, 'content': {'a': {'type': sequence, 'content': {'feature': old}}}}
    yield beside(
        {'pythonClassName': nested, 'jsonFeature': {'json': ' ' + json.dumps({'a': deep})}}
    )


def test_no_class_but_tfds_s_own_is_imported(tmp_path, make_data, speckles, marker):
    shutil.copytree(speckles / 'speckles', tmp_path / 'sets' / 'speckles')
    file = tmp_path / 'sets' / 'speckles' / '1.2.0' / 'features.json'
    data = make_data(name='tfds:speckles', dir=str(tmp_path / 'sets'))
    good = json.loads(file.read_text())
    assert len(datasets.load(data, 'train')) == 20
    for content in everywhere(good):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"names the class '{MODULE}\.Harmless'") as raised:
            datasets.load(data, 'train')
        assert '\n' not in str(raised.value)
        assert not marker.exists(), content


def test_nor_one_that_looks_like_tfds_s(tmp_path, make_data, speckles):
    shutil.copytree(speckles / 'speckles', tmp_path / 'speckles')
    file = tmp_path / 'speckles' / '1.2.0' / 'features.json'
    good = file.read_text()
    for name in ('tensorflow_datasets.core.features.nowhere.Text', f'x.{TEXT}', 'Text', ''):
        file.write_text(good.replace(TEXT, name))
        with pytest.raises(UserError, match='not one of the features of TFDS: nothing was opened'):
            datasets.load(make_data(name='tfds:speckles', dir=str(tmp_path)), 'train')


@pytest.mark.parametrize('content', ['', '{', '3', '[]', '{}', '[' * 100_000, b'\xff\xfe'])
def test_a_damaged_list_of_features_is_one_line(tmp_path, make_data, speckles, content):
    shutil.copytree(speckles / 'speckles', tmp_path / 'speckles')
    file = tmp_path / 'speckles' / '1.2.0' / 'features.json'
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match='prepare') as raised:
        datasets.load(make_data(name='tfds:speckles', dir=str(tmp_path)), 'train')
    assert '\n' not in str(raised.value)


def test_a_run_folder_names_no_code(tmp_path, speckles, marker):
    """Its config.json has the path of the data set, also for the digits."""
    shutil.copytree(speckles / 'speckles', tmp_path / 'sets' / 'speckles')
    digits = datasets.load(DataSpec(), 'eval')
    assert digits.version == 'digits/1.0.0'
    shutil.copytree(storage_of_digits(), tmp_path / 'sets' / 'digits' / '1.0.0')
    for name, version in (('tfds:speckles', 'speckles/1.2.0'), ('digits', 'digits/1.0.0')):
        file = tmp_path / 'sets' / version / 'features.json'
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {'pythonClassName': f'{MODULE}.Harmless'}))
        config = configs.load('configs/resnet.py', [('data.name', name)])
        with config.unlocked():
            config.data.dir = str(tmp_path / 'sets')
        (tmp_path / 'run').mkdir(exist_ok=True)
        (tmp_path / 'run' / 'config.json').write_text(configs.to_json(config))
        with pytest.raises(UserError, match='names the class'):
            set_up(load_config(tmp_path / 'run'), classes=())
        assert not marker.exists()


def storage_of_digits():
    from cls.data import digits

    return digits.prepare().data_dir


def test_a_config_makes_nothing_outside_of_the_cache(tmp_path, make_data):
    """The digits are read from data.dir if they are there, and made only in the cache."""
    (tmp_path / 'theirs').mkdir()
    assert len(datasets.load(make_data(dir=str(tmp_path / 'theirs')), 'eval')) == 355
    assert not list((tmp_path / 'theirs').iterdir())
    assert len(datasets.load(make_data(dir=str(tmp_path / 'nowhere')), 'eval')) == 355
    assert not (tmp_path / 'nowhere').exists()


def test_names_in_a_store_do_not_lead_out_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(paths.PACKAGES, 's3', 'json')  # as if it were installed
    monkeypatch.setattr(paths, '_settle', lambda scheme: None)
    with pytest.raises(UserError, match=r"names an object 'bucket/\.\./\.\./x'"):
        paths.path('s3://bucket/../../x')

    class Store:
        def _strip_protocol(self, name):
            return name.partition('://')[2]

        def find(self, root, detail):
            return {f'{root}a.png': {'size': 1}, f'{root}../../../x': {'size': 1}}

        def get(self, names, targets):
            raise AssertionError(targets)

    monkeypatch.setattr(paths, 'filesystem', lambda path: Store())
    with pytest.raises(UserError, match=r"names an object '\.\./\.\./\.\./x'"):
        paths.download(paths.path('s3://bucket/images'), tmp_path / 'copy')
