"""Models for use: what is loaded, the answers for all kinds of images, and mistakes."""

import csv
import dataclasses
import functools
import hashlib
import http.server
import io
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save, save_file
from tiny_run import CLASSES, encoded, pixels, write_run

import cls
from cls import evaluate, models
from cls.config.runs import load_config
from cls.data.classes import words
from cls.errors import UserError
from cls.inference import stream
from cls.inference.preprocess import Preprocess, UnreadableImage
from cls.weights import published

pytestmark = pytest.mark.usefixtures('quick_programs')

SIZES = ((40, 50), (60, 33), (32, 32), (90, 41), (36, 36))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture(scope='module')
def model(run):
    return cls.load(run)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Images of four kinds in folders of their classes."""
    folder = tmp_path_factory.mktemp('images')
    for i, (height, width) in enumerate(SIZES):
        place = folder / 'val' / CLASSES[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        form = ('PNG', 'JPEG', 'WEBP', 'BMP')[i % 4]
        content = encoded(pixels(i, height, width), form)
        (place / f'{i}.{form.lower().replace("jpeg", "jpg")}').write_bytes(content)
    return folder


def paths_of(folder):
    return sorted(path for path in folder.rglob('*.*') if path.is_file())


def test_the_probabilities_are_those_of_an_evaluation(run, model, files, tmp_path):
    """The job that evaluates has its own path from files to predictions."""
    overrides = [('data.name', f'folder:{files}'), ('eval.predictions', 'p.csv')]
    evaluate.job(load_config(run, overrides), run, tmp_path)
    rows = list(csv.DictReader((tmp_path / 'p.csv').open()))
    each = [files / 'val' / row['image'] for row in rows]
    found = model([str(path) for path in each])
    assert found.shape == (len(SIZES), 4)
    assert found.dtype == np.float32
    for row, own in zip(rows, found, strict=True):
        listed = {row[f'class{i}']: float(row[f'probability{i}']) for i in range(1, 5)}
        assert [listed[name] for name in CLASSES] == pytest.approx(own.tolist(), abs=2e-6)


@pytest.mark.parametrize('protocol', ['flip', 'ten_crop', 'crops_12', 'dense_flip'])
def test_protocols_are_those_of_an_evaluation(run, model, files, tmp_path, protocol):
    overrides = [('data.name', f'folder:{files}'), ('eval.predictions', 'p.csv')]
    overrides += [('eval.protocol', protocol), ('eval.scales', '(40,)')]
    evaluate.job(load_config(run, overrides), run, tmp_path)
    rows = list(csv.DictReader((tmp_path / 'p.csv').open()))
    each = ((row['image'], files / 'val' / row['image']) for row in rows)
    results = list(model.stream(each, protocol=protocol, scales=(40,)))
    assert [result.name for result in results] == [row['image'] for row in rows]
    for row, result in zip(rows, results, strict=True):
        listed = {row[f'class{i}']: float(row[f'probability{i}']) for i in range(1, 5)}
        own = result.probabilities.tolist()
        assert [listed[name] for name in CLASSES] == pytest.approx(own, abs=2e-6)


def test_all_kinds_of_images_are_the_same(model, tmp_path):
    array = pixels(3, 40, 50)
    file = tmp_path / 'a.png'
    file.write_bytes(encoded(array))
    kinds = [str(file), file, file.read_bytes(), Image.open(file), array, jax.numpy.asarray(array)]
    wanted = model(array)
    assert wanted.shape == (1, 4)
    for kind in kinds:
        np.testing.assert_array_equal(model(kind), wanted)
    together = model([*kinds, np.stack([array, array]), [array, (file,)]])
    assert together.shape == (10, 4)
    np.testing.assert_allclose(together, np.repeat(wanted, 10, 0), atol=1e-6)
    assert model([]).shape == (0, 4)
    assert model(np.zeros((0, 40, 50, 3), np.uint8)).shape == (0, 4)


def test_gray_and_transparent_images_are_those_of_files(model):
    gray = pixels(1, 40, 44)[..., 0]
    in_file = model(encoded(gray))
    for kind in (gray, gray[..., None], Image.fromarray(gray)):
        np.testing.assert_array_equal(model(kind), in_file)
    alpha = np.concatenate([pixels(1, 40, 44), np.full((40, 44, 1), 99, np.uint8)], -1)
    np.testing.assert_array_equal(model(alpha), model(encoded(alpha)))


def test_orientation_counts_for_files_and_pillow(model, tmp_path):
    array, exif = pixels(2, 40, 60), Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / 'turned.png'
    Image.fromarray(array).save(file, exif=exif)
    upright = model(np.ascontiguousarray(np.rot90(array, -1)))
    np.testing.assert_array_equal(model(file), upright)
    np.testing.assert_array_equal(model(Image.open(file)), upright)
    assert not np.array_equal(model(array), upright)


def test_the_preparation_is_pillows(model):
    """Restated with Pillow and NumPy only."""
    array = pixels(5, 57, 71)
    image = Image.fromarray(array).resize((int(36 * 71 / 57), 36), Image.Resampling.BILINEAR)
    top, left = round((36 - 32) / 2), round((image.width - 32) / 2)
    crop = np.asarray(image)[top : top + 32, left : left + 32]
    np.testing.assert_array_equal(model.preprocess.pixels(array)[0], crop)
    wanted = (crop.astype(np.float64) - [120, 110, 100]) / 60
    np.testing.assert_allclose(model.preprocess(array)[0], wanted, atol=1e-5)
    on_device = jax.jit(model.preprocess.normalize)(crop[None])
    np.testing.assert_allclose(on_device[0], wanted, atol=1e-5)
    logits = model.module.apply(model.variables, model.preprocess(array), train=False)
    np.testing.assert_allclose(model.logits(array), logits, rtol=1e-4, atol=1e-5)


def test_predictions_have_labels_and_words(model):
    array = pixels(7, 40, 40)
    best = model.predict(array, top=2)
    assert [type(one) for one in best] == [cls.Prediction] * 2
    probabilities = model(array)[0]
    assert best[0].index == probabilities.argmax()
    assert best[0].probability == pytest.approx(probabilities.max())
    assert best[0].label == CLASSES[best[0].index]
    every = model.predict([array, array], top=9)
    assert [len(row) for row in every] == [4, 4]
    assert {one.label: one.name for one in every[0]}['n01440764'] == 'tench'
    assert model.names == ('ant', 'bee', 'tench', 'dog')
    with pytest.raises(UserError, match='top is 0: expected'):
        model.predict(array, top=0)


def test_few_of_many_classes_are_sorted(model, monkeypatch):
    sorted_, argsort = [], np.argsort
    monkeypatch.setattr(
        np, 'argsort', lambda array, **kw: sorted_.append(len(array)) or argsort(array, **kw)
    )
    probabilities = np.random.default_rng(0).permutation(21_841)
    monkeypatch.setattr(type(model), 'named', lambda self, index: (str(index), ''))
    best = model.ranked(probabilities, 5)
    assert [p.probability for p in best] == [21_840, 21_839, 21_838, 21_837, 21_836]
    assert sorted_ == [5]


def test_embeddings_are_the_input_of_the_classifier(model):
    images = [pixels(seed, 40, 50) for seed in range(3)]
    vectors = model.embed(images)
    assert vectors.shape == (3, 64)
    head = model.variables['params']['fc']
    logits = vectors @ np.asarray(head['kernel']) + np.asarray(head['bias'])
    np.testing.assert_allclose(logits, model.logits(images), rtol=1e-4, atol=1e-5)
    maps = model.features(images)
    assert list(maps) == ['stem', 'stage1', 'stage2', 'stage3', 'pre_logits']
    assert maps['stage2'].shape == (3, 16, 16, 32)
    mean = maps['stage2'].mean((1, 2))
    np.testing.assert_allclose(model.embed(images, 'stage2'), mean, rtol=1e-5)
    with pytest.raises(UserError, match=r"no layer 'stage4'. Did you mean stage"):
        model.embed(images, 'stage4')


def test_a_new_classifier_leaves_the_other_weights(run):
    model, array = cls.load(run), pixels(0, 40, 40)
    before, kernel = model.embed(array), model.variables['params']['fc']['kernel']
    model.reset_classifier(7, seed=3)
    assert model(array).shape == (1, 7)
    assert model.num_classes == 7
    assert model.classes == ()
    np.testing.assert_array_equal(model.embed(array), before)
    assert model.variables['params']['fc']['kernel'].shape == (kernel.shape[0], 7)
    with pytest.raises(UserError, match='2 classes are named, and the network has 3'):
        model.reset_classifier(3, classes=('a', 'b'))
    with pytest.raises(UserError, match='num_classes is 0'):
        model.reset_classifier(0)
    assert model.num_classes == 7


def test_the_average_of_the_weights_is_loaded_where_there_is_one(tmp_path):
    folder = write_run(tmp_path / 'ema', ('ema', '0.9'), scale=2.0)
    array = pixels(0, 40, 40)
    kernels = {
        name: np.asarray(cls.load(folder, weights=name).variables['params']['fc']['kernel'])
        for name in ('auto', 'average', 'trained')
    }
    np.testing.assert_array_equal(kernels['auto'], kernels['average'])
    np.testing.assert_array_equal(kernels['average'], 2 * kernels['trained'])
    plain = write_run(tmp_path / 'plain')
    with pytest.raises(UserError, match='keeps no average of the weights'):
        cls.load(plain, weights='average')
    with pytest.raises(UserError, match="weights is 'best': expected one of auto"):
        cls.load(plain, weights='best')
    assert cls.load(plain)(array).shape == (1, 4)


def test_a_network_computes_in_the_type_of_choice(run, model):
    array = pixels(0, 40, 40)
    half = cls.load(run, dtype=jax.numpy.bfloat16)
    assert half.module.dtype == cls.load(run, dtype='bfloat16').module.dtype
    assert half.features(array)['stage1'].dtype == jax.numpy.bfloat16
    difference = np.abs(half(array) - model(array)).max()
    assert 0 < difference < 0.02
    with pytest.raises(UserError, match="dtype is 'bf16': expected one of float32"):
        cls.load(run, dtype='bf16')


@pytest.mark.parametrize(('channels', 'outputs'), [(1, 4), (3, 9)])
def test_channels_and_classes_follow_from_the_weights(tmp_path, channels, outputs):
    folder = write_run(tmp_path / 'run', classes=(), channels=channels, outputs=outputs)
    model = cls.load(folder)
    assert model.preprocess.channels == channels
    assert model.num_classes == outputs
    assert model.classes == ()
    color = pixels(0, 40, 50)
    assert model([color, color[..., :1], encoded(color)]).shape == (3, outputs)
    assert model.predict(color)[0].label in map(str, range(outputs))


def test_a_file_of_weights_is_loaded_by_its_variant(tmp_path):
    array, name = pixels(0, 40, 50), 'resnet20_cifar'
    made = cls.create(name, seed=5)
    file = tmp_path / 'weights.safetensors'
    save_file(state_dict(made), file)
    loaded = cls.load(file, variant=name)
    assert cls.load(file).variant == loaded.variant == name
    np.testing.assert_allclose(loaded(array), made(array), rtol=1e-5)
    with pytest.raises(UserError, match='weights is'):
        cls.load(file, weights='average', variant=name)


def test_new_models_have_the_classes_and_channels_of_choice():
    model = cls.create('resnet20_cifar', num_classes=5, in_chans=4, size=24)
    assert model(np.zeros((2, 40, 40, 4), np.uint8)).shape == (2, 5)
    with pytest.raises(UnreadableImage, match='an array of 3 channels, not of 4'):
        model(np.zeros((40, 40, 3), np.uint8))
    png = io.BytesIO()
    Image.new('RGB', (9, 9)).save(png, 'PNG')
    with pytest.raises(UnreadableImage, match='a PNG of kind RGB: expected 4 channels'):
        model(png.getvalue())
    again = cls.create('resnet20_cifar', num_classes=5, in_chans=4, size=24)
    jax.tree.map(np.testing.assert_array_equal, model.variables, again.variables)
    with pytest.raises(UserError, match='num_classes is 0'):
        cls.create('resnet20_cifar', num_classes=0)
    with pytest.raises(UserError, match="no model is named 'resnet21_cifar'"):
        cls.create('resnet21_cifar')


def test_a_network_of_imagenet_has_its_classes():
    model = cls.create('squeezenet1_1', size=64)
    assert model.classes[0] == 'n01440764'
    assert model.names[0] == 'tench'
    assert "images of 64 x 64, from 'new weights of seed 0'" in repr(model)


@pytest.mark.parametrize(
    ('image', 'said'),
    [
        (np.zeros((4, 4, 3)), 'image 0: an array of float64, not of uint8'),
        (np.zeros((4, 4, 5), np.uint8), 'an array of 5 channels, not of 3'),
        (np.zeros((0, 4, 3), np.uint8), 'without pixels'),
        (b'no image', 'image 0: not an image'),
        ('a\0b', 'it cannot be read .embedded null byte'),
        ('/nowhere/a.png', '/nowhere/a.png: it cannot be read'),
        (Image.new('1', (10_000, 9_000)), '10000 x 9000 pixels, more than 89,478,485: expected an'),
        (encoded(pixels(0, 40, 40))[:900], 'the file ends early'),
        (encoded(pixels(0, 40, 40), 'JPEG')[:-30], 'Premature end of JPEG'),
    ],
)
def test_an_image_that_cannot_be_taken_is_named(model, image, said):
    with pytest.raises(UnreadableImage, match=said):
        model([image])


@pytest.mark.parametrize('images', [3, {'a': 1}, np.zeros((2, 2, 4, 4, 3), np.uint8), [None]])
def test_input_of_another_kind_is_refused(model, images):
    with pytest.raises(UserError, match='expected'):
        model(images)


@pytest.mark.parametrize(
    ('where', 'said'),
    [
        ('/nowhere/run', 'there is no such folder or file, and no model of that name'),
        ('resnet5', 'Did you mean resnet50'),
        ('resnet18.', r'^resnet18\.: there is no such folder or file'),
        ('metaqnn_0_mnist', 'no published weights of metaqnn_0_mnist are known'),
    ],
)
def test_a_place_without_a_model_is_named(where, said):
    with pytest.raises(UserError, match=said):
        cls.load(where)


def test_weights_of_another_network_are_refused(run, tmp_path):
    folder = tmp_path / 'changed'
    subprocess.run(['cp', '-r', run, folder], check=True)
    file = folder / 'config.json'
    file.write_text(file.read_text().replace('resnet20_cifar', 'preactresnet110_cifar'))
    with pytest.raises(UserError, match='the checkpoint does not fit the network of config.json'):
        cls.load(folder)


@pytest.mark.parametrize('given', [{'variant': 'resnet50'}, {'num_classes': 4}])
def test_what_only_a_file_takes_is_refused_for_a_run(run, given):
    with pytest.raises(UserError, match=f'is a run folder.*leave {next(iter(given))} out'):
        cls.load(run, **given)


def test_a_name_and_a_variant_are_not_both_taken():
    with pytest.raises(UserError, match="resnet18 names a network already, .*'resnet50'"):
        cls.load('resnet18', variant='resnet50')


@pytest.mark.parametrize('given', [None, 3])
def test_weights_that_are_no_text_are_refused(run, given):
    with pytest.raises(UserError, match=f"weights is {given}: expected a text, as 'auto'"):
        cls.load(run, weights=given)


def test_nothing_is_decoded_while_a_cpu_computes(model, monkeypatch):
    """A thread that decodes would hold up the others: they share the cores."""
    monkeypatch.setattr(model, 'batch', 1)
    count = 4 * model.mesh.size
    crop, program, computing, begun = Preprocess.crop, model.program, [], []

    def crop_noted(*arguments):
        begun.append(bool(computing))
        time.sleep(0.02)
        return crop(*arguments)

    def program_noted(*arguments, **options):
        compute = program(*arguments, **options)

        def noted(*inputs):
            computing.append(None)
            result = jax.block_until_ready(compute(*inputs))
            time.sleep(0.05)
            computing.pop()
            return result

        return noted

    monkeypatch.setattr(Preprocess, 'crop', crop_noted)
    monkeypatch.setattr(model, 'program', program_noted)
    results = list(model.stream((str(i), pixels(i, 40, 40)) for i in range(count)))
    assert len(results) == len(begun) == count
    assert sum(begun) <= stream.threads()  # those that began just before


def test_a_stream_of_paths_is_refused(model):
    with pytest.raises(UserError, match='a str is no .name, image.: expected pairs'):
        list(model.stream(['bird.jpg']))


def test_an_empty_place_is_not_the_working_directory():
    with pytest.raises(UserError, match='is empty. Expected a run folder'):
        cls.load('')


def test_a_preparation_that_is_impossible_is_refused():
    for fields, said in (
        ({'size': 8, 'resize': 7}, 'size is 8 and resize 7'),
        ({'size': 8, 'resize': 8, 'interpolation': 'sinc'}, "interpolation is 'sinc'"),
        ({'size': 8, 'resize': 8, 'mean': (1.0, 2.0)}, 'mean has 2 values'),
    ):
        with pytest.raises(UserError, match=said):
            Preprocess(**fields)


def test_many_images_need_few_programs(model):
    """The number of images changes the batch only in powers of two, times the devices."""
    images = [pixels(0, 33, 33)] * 23
    whole = model(images)
    for count in (1, 5, 11, 17, 23):
        np.testing.assert_allclose(model(images[:count]), whole[:count], atol=1e-6)
    program = model.program('logits', None)
    assert program._cache_size() <= 4


def test_no_name_of_the_package_is_that_of_a_module():
    """Also after all modules are imported, and names are those of functions and classes."""
    code = """
import importlib, pkgutil, types, cls
for module in pkgutil.walk_packages(cls.__path__, 'cls.'):
    if not module.name.startswith(('cls.tools.peers', 'cls.__main__')):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # of an optional package
            assert not error.name.startswith('cls'), error
for name in cls._EXPORTS:
    value = getattr(cls, name)
    assert not isinstance(value, types.ModuleType), name
    assert importlib.util.find_spec(f'cls.{name}') is None, name
print('done')
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == 'done', done.stderr


def test_the_models_are_listed():
    assert cls.list_models('resnet*_cifar')[0] == 'resnet20_cifar'
    assert set(cls.list_models(weights=True)) <= set(models.names())


def test_training_from_python_is_the_command(tmp_path):
    fields = {'duration': '3 steps', 'batch': 16, 'model.stage_sizes': (1, 1, 1)}
    fields['schedule.warmup'] = '0 steps'
    result = cls.fit('resnet', tmp_path / 'run', fields)
    assert {'test/top1', 'test/loss'} <= result.keys()
    assert cls.fit('resnet', tmp_path / 'run', fields) == result  # it is finished
    config, shallow = cls.load_config('resnet'), {'model.stage_sizes': (1, 1, 1)}
    config.duration, config.batch, config.schedule.warmup = '3 steps', 16, '0 steps'
    again = cls.fit(config, tmp_path / 'other', shallow)
    assert again['test/loss'] == result['test/loss']
    model = cls.load(tmp_path / 'run')
    assert model.classes == tuple(map(str, range(10)))
    with pytest.raises(UserError, match='optim'):
        cls.fit('resnet', tmp_path / 'wrong', {'optim.rate': 1})
    assert not (tmp_path / 'wrong').exists()


def test_imagenets_words_are_complete_and_different():
    from cls.data.classes import both, wnids

    names = [words(wnid) for wnid in wnids()]
    assert len(set(names)) == 1000
    assert words('n02012849') == 'crane (bird)'
    assert both('n01440764') == 'tench (n01440764)'
    assert words('cat') == both('cat') == 'cat'
    # Independent: the photographs of TFDS's documentation and torchvision's list begin so.
    assert names[:4] == ['tench', 'goldfish', 'great white shark', 'tiger shark']
    assert names[999] == 'toilet tissue'


# ------------------------------------------------------------------------------ published weights


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server of a folder; gives (the folder, its address)."""
    folder = tmp_path / 'www'
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('localhost', 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield folder, f'http://localhost:{web.server_port}'
        web.shutdown()


def state_dict(model):
    """Returns the tensors of a CIFAR ResNet under the names of its public weights."""
    tensors = {}
    for path, leaf in jax.tree.leaves_with_path(model.variables):
        _, *modules, last = [entry.key for entry in path]
        ours = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}
        value = np.asarray(leaf)
        if last == 'kernel':
            value = value.transpose(*((3, 2, 0, 1) if value.ndim == 4 else (1, 0)))
        key = '.'.join([*modules, ours.get(last, last)]).replace('fc.', 'linear.')
        tensors[key] = np.ascontiguousarray(value)
    return tensors


def published_row(source, digest, **changed):
    fields = dataclasses.asdict(published.default('resnet50'))
    fields |= {'variant': 'resnet20_cifar', 'package': 'maker', 'name': 'r20', 'tag': 'v1'}
    fields |= {'source': source, 'file': source.rpartition('/')[2], 'hash': digest, 'classes': 10}
    fields |= {'size': 32, 'resize': 32, 'license': 'mit'}
    fields |= {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.2023, 0.1994, 0.2010)}
    return published.Published(**{**fields, **changed})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.mark.parametrize('zipped', [False, True])
def test_a_name_means_its_published_weights(server, cache, monkeypatch, zipped):
    folder, address = server
    made, name = cls.create('resnet20_cifar', seed=5), 'r20.safetensors'
    content = save(state_dict(made))
    if zipped:
        with zipfile.ZipFile(folder / f'{name}.zip', 'w') as archive:
            archive.writestr(name, content)
    else:
        (folder / name).write_bytes(content)
    digest = f'sha256:{hashlib.sha256(content).hexdigest()[:16]}'
    row = published_row(f'{address}/{name}' + '.zip' * zipped, digest)
    monkeypatch.setattr(published, 'rows', lambda: (row,))
    array = pixels(0, 40, 50)
    model = cls.load('resnet20_cifar')
    np.testing.assert_allclose(model(array), made(array), atol=1e-5)
    assert (model.license, model.source) == ('mit', row.source)
    assert cls.list_models(weights=True) == ['resnet20_cifar']
    for file in folder.iterdir():
        file.unlink()  # now it is in the cache
    assert cls.load('resnet20_cifar.v1')(array).shape == (1, 10)
    assert cls.load('resnet20_cifar', weights='v1')(array).shape == (1, 10)
    with pytest.raises(UserError, match=r"of the tag 'v2' of resnet20_cifar.* Known: v1\."):
        cls.load('resnet20_cifar.v2')
    with pytest.raises(UserError, match='leave one out'):
        cls.load('resnet20_cifar.v1', weights='v1')


def test_published_weights_of_another_content_are_refused(server, cache, monkeypatch):
    folder, address = server
    (folder / 'a.pth').write_bytes(b'something else')
    row = published_row(f'{address}/a.pth', 'sha256:0123456789abcdef')
    monkeypatch.setattr(published, 'rows', lambda: (row,))
    with pytest.raises(UserError, match='expected 0123456789abcdef: it is damaged'):
        cls.load('resnet20_cifar')
    assert not [path for path in (cache / 'weights').rglob('*') if '.lock' not in path.name[1:]
                and path.is_file()]  # fmt: skip


@pytest.mark.parametrize('source', ['http://localhost:9/a.pth', 'http://nowhere.invalid/a.pth'])
def test_without_a_network_one_line_says_so(cache, monkeypatch, source):
    row = published_row(source, '')
    monkeypatch.setattr(published, 'rows', lambda: (row,))
    with pytest.raises(UserError, match='cannot be fetched .* and the cache has no copy') as error:
        cls.load('resnet20_cifar')
    assert '\n' not in str(error.value)
