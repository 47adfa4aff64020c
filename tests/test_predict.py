"""Predictions: the mean over the views of an image, by any protocol, batch size and devices."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import sparse

from cls import ensemble, evaluate
from cls.config import load as configs
from cls.config.runs import report_name
from cls.data import transforms, views
from cls.data.sources import Source
from cls.errors import UserError
from cls.evaluation import metrics
from cls.evaluation.measure import measure
from cls.evaluation.metrics import Predictions
from cls.evaluation.protocols import EvalSpec
from cls.setup import set_up
from cls.steps import sharding as meshes

pytestmark = pytest.mark.usefixtures('quick_programs')

COUNT, CLASSES = 13, 6


class Net(nn.Module):
    """A linear layer on a few moments of an image that change when it is mirrored."""

    num_classes: int = CLASSES

    def __call__(self, images, train=False):
        del train
        ramp = jnp.linspace(-1, 1, images.shape[2])[:, None]
        seen = [
            images.mean((1, 2)),
            (images * ramp).mean((1, 2)),
            images[:, 0, 0],
            images[:, -1, -1],
        ]
        weights = jnp.sin(jnp.arange(12 * self.num_classes)).reshape(12, -1)
        return 3 * jnp.concatenate(seen, 1) @ weights


def in_numpy(image):
    """Returns the logits of Net for one image (H, W, C)."""
    ramp = np.linspace(-1, 1, image.shape[1])[:, None]
    seen = [image.mean((0, 1)), (image * ramp).mean((0, 1)), image[0, 0], image[-1, -1]]
    return 3 * np.concatenate(seen) @ np.sin(np.arange(12 * CLASSES)).reshape(12, -1)


class OneSize(Net):
    """A network for images of 8 x 8 only."""

    def __call__(self, images, train=False):
        if images.shape[1:3] != (8, 8):
            raise ValueError('expected 8 x 8')
        return super().__call__(images, train)


class Photos(Source):
    """Images of several shapes, four of them of the same shape."""

    num_classes, class_names, channels, split = CLASSES, (), 3, 'test'

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        height, width = (12, 15) if index < 4 else rng.integers(10, 24, 2)
        image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        return {'image': image, 'label': index % CLASSES}


def made(devices=1, model=None, source=None, **fields):
    """Returns a setup of images and a model, with config fields (for example data_eval_resize)."""
    overrides = [(name.replace('_', '.', 1), str(value)) for name, value in fields.items()]
    overrides = [('data.image_size', '8'), ('data.eval_resize', '10'), *overrides]
    setup = set_up(configs.load('configs/resnet.py', overrides), jax.devices()[:devices])
    recipe = dataclasses.replace(setup.recipe, mean=(128.0,), std=(64.0,))
    return dataclasses.replace(setup, test=source or Photos(), model=model or Net(), recipe=recipe)


def expected(setup, protocol):
    """Returns the same predictions image by image, from views that are made one by one."""
    size, result = 8, []
    for i in range(COUNT):
        image = setup.test[i]['image']
        seen = []
        if protocol in ('single', 'flip'):
            seen = [transforms.center_crop(image, size, 10)]
        elif protocol == 'ten_crop':
            seen = [*views.corner_crops(image, size=size, resize_to=10)]
        elif protocol == 'crops_12':
            seen = [*views.square_crops(image, size=size, scales=(9,), where=(0.5,))]
        elif protocol == 'crops_144':
            scales, where = (9, 10, 11, 13), (0, 0.5, 1)
            seen = [*views.square_crops(image, size=size, scales=scales, where=where)]
        else:
            seen = [views.whole(image, scale=scale, multiple=4)[0] for scale in (8, 12)]
        if protocol not in ('single', 'dense'):
            seen += [view[:, ::-1] for view in seen]
        exp = np.exp([in_numpy((np.float64(view) - 128) / 64) for view in seen])
        result.append((exp / exp.sum(1, keepdims=True)).mean(0))
    return np.array(result)


def predictions(setup, protocol, variables=None):
    """Returns the predictions for all images, in the order of the source."""
    parts = evaluate.predict(setup, variables or {}, evaluate.plan(setup, protocol))
    parts = [vars(part.predictions) for part in parts]
    names = ('probabilities', 'labels', 'index')
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    np.testing.assert_array_equal(np.sort(found['index']), np.arange(len(setup.test)))
    order = np.argsort(found['index'])
    return Predictions(**{name: values[order] for name, values in found.items()})


def measured(setup, protocol, variables=None, listing=None):
    """Returns the metrics of an evaluation."""
    parts = evaluate.predict(setup, variables or {}, evaluate.plan(setup, protocol))
    parts = (part.predictions for part in parts)
    return measure(parts, setup.test, setup.model.num_classes, listing)


PROTOCOLS = ('single', 'flip', 'ten_crop', 'crops_12', 'crops_144', 'dense', 'dense_flip')


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_predictions_are_the_mean_over_the_views(protocol):
    wanted = expected(made(), protocol)
    for devices, batch in ((1, 5), (8, 64)) if protocol in ('single', 'crops_12') else ((1, 50),):
        setup = made(devices, eval_scales='8,12', eval_size_divisor=4, eval_batch=batch)
        found = predictions(setup, protocol)
        np.testing.assert_allclose(found.probabilities, wanted, rtol=2e-5, atol=1e-7)
        np.testing.assert_array_equal(found.labels, np.arange(COUNT) % CLASSES)


def test_dense_compiles_once_for_each_shape():
    setup = made(eval_size_divisor=4)
    traced = []

    class Counting(Net):
        def __call__(self, images, train=False):
            traced.append(images.shape)
            return super().__call__(images, train)

    predictions(dataclasses.replace(setup, model=Counting()), 'dense')
    shapes = {
        views.whole_shape(*setup.test[i]['image'].shape[:2], scale=10, multiple=4)
        for i in range(COUNT)
    }
    assert {shape[1:3] for shape in traced} == shapes
    assert len(traced) == len(shapes)


def test_a_network_for_one_size_is_refused_in_one_line():
    setup = made(model=OneSize())
    predictions(setup, 'crops_12')
    with pytest.raises(UserError, match='cannot take images of 10 x'):
        predictions(setup, 'dense')


def test_labels_beyond_the_network_are_refused():
    with pytest.raises(UserError, match='Example 3 has the label 3: expected 0 to 2'):
        measured(made(model=Net(num_classes=3)), 'ten_crop')


def test_certain_predictions_have_a_finite_loss():
    class Certain(Net):
        def __call__(self, images, train=False):
            return 30 * super().__call__(images, train)

    setup = made(model=Certain())
    assert np.float32(predictions(setup, 'single').probabilities).min() == 0
    assert 0 < measured(setup, 'single').scalars()['loss'] < 700


# ---- the job


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with a patched `restore`, without training."""
    config = configs.load('configs/resnet.py', [('data.image_size', '8')])
    (tmp_path / 'config.json').write_text(configs.to_json(config))

    class State:
        step, ema, params = 7, None, {'w': np.zeros(5)}

        def variables(self):
            return {}

    def restore(config, workdir):
        setup = set_up(config, jax.devices()[:1])
        return dataclasses.replace(setup, test=Photos(), model=Net()), State()

    monkeypatch.setattr(evaluate, 'restore', restore)
    monkeypatch.setattr(ensemble, 'restore', restore)
    return config, tmp_path


def changed(config, *overrides):
    return configs.from_json(configs.to_json(config), overrides)


def stem(config, folder):
    return report_name(EvalSpec.from_config(config).title, config, folder)


def test_each_evaluation_has_a_file_of_its_own(run):
    config, folder = run
    cases = {
        'evaluation': [],
        'evaluation-ten_crop': [('eval.protocol', 'ten_crop')],
        'evaluation-dense-8-size_divisor=1': [
            ('eval.protocol', 'dense'),
            ('eval.scales', '8'),
            ('eval.size_divisor', '1'),
        ],
        'evaluation-dense-8-16': [('eval.protocol', 'dense'), ('eval.scales', '8,16')],
        'evaluation-eval_resize=9-name=folder_a_b': [
            ('data.eval_resize', '9'),
            ('data.name', 'folder:a/b'),
        ],
    }
    for name, overrides in cases.items():
        assert stem(changed(config, *overrides), folder) == name
    long = [changed(config, ('data.name', f'folder:{"a" * 300}{i}')) for i in range(2)]
    names = {stem(one, folder) for one in long}
    assert len(names) == 2
    assert max(map(len, names)) < 200
    fast = changed(config, ('eval.batch', '64'), ('data.workers', '3'))
    assert stem(fast, folder) == 'evaluation'


def test_an_ensembles_evaluations_have_files_of_their_own(run):
    config, folder = run
    together = ConfigDict({'members': {'a': config.to_dict()}}).lock()
    (folder / 'config.json').write_text(configs.to_json(together))
    other = changed(together, ('members.a.data.eval_size', '9'), ('members.a.eval.batch', '3'))
    assert report_name('single,flip', other, folder) == 'evaluation-single,flip-a.eval_size=9'


def test_the_job_writes_what_it_found(run):
    config, folder = run
    config = changed(config, ('eval.protocol', 'flip'), ('eval.predictions', 'p.csv'))
    values = evaluate.job(config, folder)
    written = json.loads((folder / 'evaluation-flip.json').read_text())
    assert written == json.loads(json.dumps(values))
    assert (written['step'], written['protocol'], written['data']) == (7, 'flip', 'digits')
    assert written['test/images'] == COUNT
    matrix = sparse.load_npz(folder / 'evaluation-flip-confusion.npz')
    assert matrix.shape == (CLASSES, CLASSES)
    assert matrix.sum() == COUNT
    assert 100 * matrix.trace() / COUNT == pytest.approx(written['test/top1'])
    assert len((folder / 'p.csv').read_text().splitlines()) == COUNT + 1
    line = evaluate.summary(values)
    assert f'top-1 {written["test/top1"]:.2f} %' in line
    assert line.endswith("13 images of split 'test', protocol flip")
    assert evaluate.job(config, folder) == values  # again: the same files
    assert not list(folder.glob('*.partial'))


@pytest.mark.parametrize('name', ['a/p.csv', '../p.csv', 'p.parquet', 'p'])
def test_predictions_go_to_the_run_folder(run, name):
    config, folder = run
    with pytest.raises(UserError, match=r'expected NAME.csv'):
        evaluate.job(changed(config, ('eval.predictions', name)), folder)
    assert [file.name for file in folder.iterdir()] == ['config.json']


def test_members_of_an_ensemble_have_protocols_of_their_own(run):
    config, folder = run
    runs = [(config, folder), (changed(config, ('eval.protocol', 'ten_crop')), folder)]
    values, found = ensemble.evaluate_runs(runs)
    setup = evaluate.restore(config, folder)[0]
    parts = [predictions(setup, protocol) for protocol in ('single', 'ten_crop')]
    mean = sum(part.probabilities for part in parts) / 2
    tally = metrics.Tally(CLASSES)
    tally.add(metrics.outcomes(Predictions(mean, parts[0].labels, parts[0].index)))
    tally.scores.add(mean, parts[0].labels)
    assert found.scalars() == tally.scalars()
    np.testing.assert_array_equal(found.confusion(), tally.confusion())
    assert values['protocol'] == 'single,ten_crop'
    assert values['params'] == 10
    single, _ = ensemble.evaluate_runs(runs, 'single')
    assert single['test/loss'] == pytest.approx(measured(setup, 'single').scalars()['loss'])


def test_an_ensemble_writes_no_predictions_of_one(run):
    config, folder = run
    config = changed(config, ('eval.predictions', 'p.csv'))
    with pytest.raises(UserError, match='predictions'):
        ensemble.evaluate_runs([(config, folder), (config, folder)])


class Others(Photos):
    """Images with another label for one of them."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example | {'label': 0} if index == 9 else example


class Fewer(Photos):
    """All images but the last."""

    def __len__(self):
        return COUNT - 1


@pytest.mark.parametrize('other', [Others, Fewer])
def test_an_ensemble_is_of_the_same_images(run, monkeypatch, other):
    config, folder = run
    sources = [Photos(), other()]
    restored = evaluate.restore(config, folder)

    def restore(config, workdir):
        return dataclasses.replace(restored[0], test=sources.pop(0)), restored[1]

    monkeypatch.setattr(ensemble, 'restore', restore)
    with pytest.raises(UserError, match='other images'):
        ensemble.evaluate_runs([(config, folder), (config, folder)])


def test_an_ensemble_is_of_the_same_classes(run, monkeypatch):
    config, folder = run
    models = [Net(), Net(num_classes=7)]
    restored = evaluate.restore(config, folder)

    def restore(config, workdir):
        return dataclasses.replace(restored[0], model=models.pop(0)), restored[1]

    monkeypatch.setattr(ensemble, 'restore', restore)
    with pytest.raises(UserError, match='has 7 classes, .* has 6: expected runs of the same'):
        ensemble.evaluate_runs([(config, folder), (config, folder)])


@pytest.mark.parametrize('protocol', ['single', 'crops_12', 'dense'])
def test_few_predictions_are_in_memory_at_once(protocol):
    """The images in parts and those that lack some views are of a few batches."""
    setup = made(eval_scales='8,12', eval_batch=2, source=Many())
    plan = evaluate.plan(setup, protocol)
    parts = [len(part.predictions.index) for part in evaluate.predict(setup, {}, plan)]
    assert sum(parts) == len(setup.test)
    assert max(parts) <= max(batch for scale in plan.scales for batch in scale.batches)


class Many(Photos):
    """The images of `Photos` ten times."""

    def __len__(self):
        return 10 * COUNT

    def __getitem__(self, index):
        return super().__getitem__(index % COUNT)


@pytest.mark.parametrize('contrast', ['', 'global'])
def test_prediction_of_the_center_crop_is_that_of_training(contrast):
    """Sums inside the step, and predictions for each image, have the same result."""
    setup = made(eval_batch=5, data_contrast=contrast)
    variables = meshes.put({}, {})
    sums = evaluate.evaluate_batches(setup.eval_step(), variables, setup.eval_batches(), setup.mesh)
    found = measured(setup, 'single', variables).scalars()
    assert {name: found[name] for name in sums} == pytest.approx(sums, rel=1e-5)


# ---- several processes

ONE_OF = """
import sys
import jax
index, count, port, folder = (*map(int, sys.argv[1:4]), sys.argv[4])
if count > 1:
    jax.distributed.initialize(f'localhost:{port}', count, index)
import numpy as np
import pathlib
import test_predict
from cls import evaluate
from cls.evaluation.files import Listing
found, rows, softmax = {}, [], evaluate.softmax
evaluate.softmax = lambda logits: rows.append(len(logits)) or softmax(logits)
for protocol in test_predict.PROTOCOLS:
    rows.clear()
    setup = test_predict.made(None, eval_scales='8,12', eval_size_divisor=4, eval_batch=8)
    tally = test_predict.measured(setup, protocol)
    found[protocol + '-rows'] = sum(rows)
    scalars = tally.scalars()
    found[protocol] = [scalars[x] for x in ('top1', 'top5', 'loss', 'ece', 'auroc', 'auroc_error')]
    found[protocol + '-confusion'] = np.concatenate(tally.confusion())
    files = Listing()
    test_predict.measured(setup, protocol, listing=files)
    files.write(pathlib.Path(folder, f'{count}-{index}-{protocol}.csv'), 6)
np.savez(f'{folder}/{count}-{index}.npz', **found)
"""


@pytest.mark.sweep
def test_predictions_are_the_same_on_two_processes(tmp_path):
    here = Path(__file__).parent
    environment = {
        **os.environ,
        'PYTHONPATH': f'{here.parent}{os.pathsep}{here}',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    }
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, '-c', ONE_OF, *map(str, (index, count, port, tmp_path))],
            env=environment,
        )
        for index, count in ((0, 2), (1, 2), (0, 1))
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    files = ('1-0', '2-0', '2-1')
    alone, first, second = (np.load(tmp_path / f'{name}.npz') for name in files)
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(first[protocol], second[protocol])
        np.testing.assert_allclose(first[protocol], alone[protocol], rtol=1e-5, atol=1e-8)
        pairs = f'{protocol}-confusion'
        np.testing.assert_array_equal(first[pairs], second[pairs])
        np.testing.assert_array_equal(first[pairs], alone[pairs])
        own = [int(part[f'{protocol}-rows']) for part in (first, second)]
        views, rest = divmod(int(alone[f'{protocol}-rows']), COUNT)
        assert not rest  # the softmax is not computed for padding,
        assert own == [7 * views, 6 * views]  # and for the images of the process only
        one, two, three = (
            [line.split(',') for line in (tmp_path / f'{name}-{protocol}.csv').open()]
            for name in files
        )
        assert two == three
        assert len(one) == len(two) == COUNT + 1
        for ours, theirs in zip(one[1:], two[1:], strict=True):
            assert ours[:3] == theirs[:3]
            assert float(ours[3]) == pytest.approx(float(theirs[3]), rel=1e-4)
