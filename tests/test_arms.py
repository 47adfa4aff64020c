"""The recipe of every arm: its fields, and two steps of a small real run."""

import json
import math
import re

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from arms import ARMS, FILES, members
from compiling import FAST
from flax import linen as nn
from PIL import Image

from cls import main
from cls.config import load as configs
from cls.nn.conv import Conv
from cls.nn.dense import Dense
from cls.nn.norm import BatchNorm
from cls.recipes import common
from cls.steps import sharding

REAL = [spec for spec in ARMS if not spec.endswith(':digits')]
LAST = {spec.partition(':')[0]: spec for spec in REAL if 'folder=' not in spec}  # of each config
# The arms of the default run: the recipes that differ most.
DEFAULT = (
    'configs/condensenet.py:cifar100',  # padded crops, Nesterov, cosine
    'configs/genet.py:svhn_cropped',  # two parts of a data set, without augmentation
    'configs/googlenet.py:imagenet2012',  # random areas, jitter and lighting, biases, heads, EMA
    'configs/igcv3.py:folder=/nonexistent',  # a range of scales, hue, saturation and lightness
    'configs/metaqnn.py:mnist',  # gray images, Adam
    'configs/resnext.py:imagenet2012_modern',  # TrivialAugment, repeats, mixes, erasing, by epoch
    'configs/efficientnet.py:imagenet2012',  # AutoAugment, bicubic, RMSProp, norms not decayed
)
# Data set -> sizes of its images (None: they differ), channels, splits.
DATA = {
    'cifar10': (32, 3, ('train', 'test')),
    'cifar100': (32, 3, ('train', 'test')),
    'imagenet2012': (None, 3, ('train', 'validation')),
    'mnist': (28, 1, ('train', 'test')),
    'svhn_cropped': (32, 3, ('train', 'test', 'extra')),
}
CLASSES, EXAMPLES, BATCH = 3, 16, 8
PIXELS = {  # fields that shrink with the images
    'data': {'eval_size', 'eval_resize', 'scale'},
    'augment': {'cutout'},
    'eval': {'scales'},
}


# ------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize('spec', ARMS)
def test_an_arm_sets_fields_that_are_there_to_values_of_their_kind(spec):
    known = dict(configs.flatten(common.base()))
    for config in members(configs.load(spec)):
        for name, value in configs.flatten(config):
            if name.startswith(('loss.args.', 'optim.args.')):
                continue  # checked by the loss or the rule that takes them
            if not name.startswith('model.') or name in known:
                assert name in known
                assert type(value) is type(known[name]), name


@pytest.mark.parametrize('file', FILES)
def test_the_arm_of_a_folder_is_that_of_imagenet(file):
    if f'{file}:imagenet2012' not in ARMS:
        pytest.skip('has neither')
    pairs = zip(
        members(configs.load(f'{file}:imagenet2012')),
        members(configs.load(f'{file}:folder=/a/b')),
        strict=True,
    )
    for one, other in pairs:
        one, other = dict(configs.flatten(one)), dict(configs.flatten(other))
        differing = {name for name in one if one[name] != other.get(name)}
        assert differing <= {'data.name', 'data.workers', 'model.num_classes'}
        assert other.keys() <= one.keys()


@pytest.mark.parametrize('file', FILES)
def test_a_config_says_what_is_missing_for_good(file):
    """It has no notes on missing arms, and the table of configs/README.md has each of its arms."""
    assert 'ot yet here' not in (configs.ROOT / file).read_text()
    table = (configs.ROOT / 'configs' / 'README.md').read_text()
    name = file.removeprefix('configs/').removesuffix('.py')
    rows = [row.split('|') for row in table.splitlines() if row.startswith(f'| {name} |')]
    told = set(re.findall(r'\w+', ' '.join(row[2] for row in rows)))
    for arm in (spec.partition(':')[2] for spec in ARMS if spec.startswith(f'{file}:')):
        if not arm.startswith(('digits', 'folder', 'finetune')):
            assert arm in told, f'configs/README.md has no {arm} of {name}'


# ----------------------------------------------------------------------------------- two steps


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Tiny data sets with the real names, as TFDS prepares them, and the image folder."""
    folder = tmp_path_factory.mktemp('data')
    for name, (size, channels, splits) in DATA.items():
        builder(name, size, channels, splits)(
            data_dir=folder, file_format='array_record'
        ).download_and_prepare()
    for split in ('train', 'val'):
        for index in range(EXAMPLES):
            (folder / 'folder' / split / f'class{index % CLASSES}').mkdir(
                parents=True, exist_ok=True
            )
            image(index, None, 3).save(
                folder / 'folder' / split / f'class{index % CLASSES}' / f'{index}.jpg'
            )
    return folder


def image(index, size, channels):
    """Returns a smooth image of random color, of random shape if `size` is None."""
    height, width = (size, size) if size else (40 + index, 60 - index)
    ramp = np.linspace(0, 120, height * width * channels).reshape(height, width, channels)
    pixels = (ramp + 8 * index).astype(np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def builder(data_name, size, channels, splits):
    """Returns a TFDS builder of random images with the name of another data set."""
    features = {
        'image': tfds.features.Image(shape=(size, size, channels), encoding_format='png'),
        'label': tfds.features.ClassLabel(num_classes=CLASSES),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_name
        VERSION = tfds.core.Version('1.0.0')
        url_infos = None  # see cls.data.digits

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            for index in range(EXAMPLES):
                yield index, {'image': image(index, size, channels), 'label': index % CLASSES}

    return Tiny


def shrunk(config, digits, data_dir):
    """Returns an arm's recipe for two steps, with the network and image size of the digits' arm.

    All lengths in pixels shrink with the images; the moments of changes, as of the learning rate,
    follow each other in single steps.
    """
    size, full = digits.data.image_size, config.data.image_size
    with config.unlocked():
        config.model = digits.model
        data = config.data
        data.dir, data.workers, data.image_size = str(data_dir), 0, size
        if data.name.startswith('folder:'):
            data.name = f'folder:{data_dir / "folder"}'
        for section, fields in PIXELS.items():
            for field in fields.intersection(config[section]):
                config[section][field] = jax.tree.map(
                    lambda pixels: math.ceil(pixels * size / full), config[section][field]
                )
        config.duration, config.batch, config.accumulate = '2 steps', BATCH, 1
        config.data.repeats = math.gcd(BATCH, config.data.repeats)
        config.eval.precise_bn = min(config.eval.precise_bn, EXAMPLES)
        for section, field in (('eval', 'every'), ('schedule', 'warmup'), ('schedule', 'every')):
            config[section][field] = '1 steps' if config[section][field] else ''
        config.schedule.milestones = tuple(
            f'{i} steps' for i in range(1, 1 + len(config.schedule.milestones))
        )
        config.progressive = tuple(
            (f'{i} steps', side * size // full) for i, (_, side) in enumerate(config.progressive)
        )
        config.freeze_bn = config.freeze_bn and '1 steps'
        config.log_every, config.checkpoint.every = '1 steps', '2 steps'
    return config


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """One device, programs that compile quickly, and a cache folder for each test."""
    make_mesh, compiled = sharding.make_mesh, jax.stages.Lowered.compile
    monkeypatch.setattr(
        sharding, 'make_mesh', lambda fsdp, _=None: make_mesh(fsdp, jax.devices()[:1])
    )
    monkeypatch.setattr(jax.stages.Lowered, 'compile', lambda lowered, **_: compiled(lowered, FAST))
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))  # not the user's cache


class OneLayer(nn.Module):
    """A network that compiles at once, with a norm, dropout and an auxiliary head."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        x = Conv(8, 3, strides=2, name='conv')(images)
        x = nn.relu(BatchNorm(train, name='norm')(x)).mean((1, 2))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        aux = Dense(self.num_classes, name='aux')(x)
        if train:
            self.sow('aux_logits', 'head', aux)
        return Dense(self.num_classes, name='fc')(x)


@pytest.mark.parametrize(
    'spec',
    [
        pytest.param(spec, marks=() if spec in DEFAULT else pytest.mark.sweep)
        for spec in REAL
        if spec in DEFAULT or 'folder=' not in spec
    ],
)
def test_two_steps_of_an_arm(spec, data_dir, quick, monkeypatch, tmp_path):
    """The real command trains with all fields of the arm, and evaluates by its protocol."""
    monkeypatch.setattr(configs, 'create_model', lambda _, classes: OneLayer(classes))
    check_run(spec, data_dir, tmp_path)


@pytest.mark.sweep
@pytest.mark.parametrize('spec', LAST.values())
def test_two_steps_of_an_arm_with_a_network_of_the_system(spec, data_dir, quick, tmp_path):
    """The same with the network of the digits' arm."""
    check_run(spec, data_dir, tmp_path)


def check_run(spec, data_dir, tmp_path):
    digits = members(configs.load(spec.partition(':')[0]))
    for number, config in enumerate(members(configs.load(spec))):
        run = tmp_path / f'run{number}'
        run.mkdir()
        config = shrunk(config, digits[number], data_dir)
        (run / 'config.json').write_text(configs.to_json(config))
        assert main.main(['--workdir', str(run)]) == 0
        lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
        trained = [line for line in lines if 'train/loss' in line]
        assert [line['step'] for line in trained] == [1, 2]
        assert all(math.isfinite(line['train/loss']) for line in trained)
        assert max(line['learning_rate'] for line in trained) > 0
        result = json.loads((run / 'result.json').read_text())
        tested = result['split'] == 'test' or config.eval.validation
        kind = 'test' if tested else 'validation'
        weights = {kind, f'{kind}_ema'} if config.ema else {kind}
        assert weights <= {name.partition('/')[0] for name in result}
        assert main.main(['--workdir', str(run), '--job', 'evaluate']) == 0
        (file,) = run.glob('evaluation*.json')  # the protocol is part of its name
        evaluated = json.loads(file.read_text())
        assert all(math.isfinite(evaluated[f'{name}/loss']) for name in weights)
