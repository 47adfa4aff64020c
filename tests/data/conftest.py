"""Fixtures of the data tests: configurations and small data sets."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cls.data.spec import DataSpec
from cls.recipes.common import base


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    """The path of a cache folder for these tests only."""
    folder = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CLS_CACHE_DIR', str(folder))
        yield folder


@pytest.fixture
def make_data():
    """A function: fields -> the specification with these fields of config.data.

    `validation` and `seed` are config.eval.validation and config.seed.
    """

    def make(validation='', seed=0, **fields):
        config = base()
        config.data.update(fields)
        config.eval.validation, config.seed = validation, seed
        return DataSpec.from_config(config)

    return make


class Speckles(tfds.core.GeneratorBasedBuilder):
    """Random RGB images of different sizes in 3 classes: 20 for training and 1 for testing."""

    VERSION = tfds.core.Version('1.2.0')
    url_infos = None  # see cls.data.digits

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'file': tfds.features.Text(),
                    'image': tfds.features.Image(),
                    'label': tfds.features.ClassLabel(names=['red', 'green', 'blue']),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(range(20)), 'test': self._generate_examples([20])}

    def _generate_examples(self, indices):
        for index in indices:
            yield index, {'file': str(index), 'image': speckle(index), 'label': index % 3}


def speckle(index: int) -> bytes:
    """Returns a PNG, with another size for each index; pixel 0, 0 is index * (1, 2, 3)."""
    pixels = np.random.default_rng(index).integers(
        256, size=(30 + index, 50 - index, 3), dtype=np.uint8
    )
    pixels[0, 0] = index, 2 * index, 3 * index
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, 'PNG')
    return encoded.getvalue()


@pytest.fixture
def builder_of_speckles():
    return Speckles


@pytest.fixture(scope='session')
def speckles(tmp_path_factory):
    """The folder with the prepared data set `speckles`."""
    folder = tmp_path_factory.mktemp('tfds')
    Speckles(data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


@pytest.fixture
def birds(tmp_path):
    """An image folder: 11 training and 5 test images of the classes ibis, kiwi and owl."""
    rng = np.random.default_rng(0)
    counts = {'train': {'kiwi': 4, 'ibis': 4, 'owl': 3}, 'test': {'ibis': 3, 'owl': 2}}
    for split, classes in counts.items():
        for name, count in classes.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(40, 60, 2)
                pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
                suffix = ['jpg', 'PNG', 'webp', 'bmp'][number]
                Image.fromarray(pixels).save(tmp_path / split / name / f'{number}.{suffix}')
    return tmp_path
