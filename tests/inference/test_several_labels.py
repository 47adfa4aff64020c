"""A run whose images have several labels: each probability is the sigmoid of its own logit."""

import asyncio
import json

import numpy as np
import onnx
import pytest
from inference.tiny_run import CLASSES, encoded, pixels, write_run
from scipy.special import expit

from cls import ensemble
from cls.config import runs
from cls.errors import UserError
from cls.inference.ensemble import Ensemble
from cls.inference.export import onnx_file
from cls.inference.loading import load
from cls.inference.serving.app import create
from cls.tools import export, predict

SEVERAL = (('data.multi_label', 'True'), ('loss.name', 'bce'))
IMAGES = [pixels(seed, 40, 44) for seed in range(3)]


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('several') / 'run', *SEVERAL)


@pytest.fixture(scope='module')
def model(run_folder):
    return load(run_folder)


@pytest.fixture(scope='module')
def expected(model):
    result = expit(model.logits(IMAGES).astype(np.float64))
    assert abs(result.sum(1) - 1).min() > 0.1  # no softmax
    return result


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder with the images."""
    folder = tmp_path_factory.mktemp('photos')
    for i, image in enumerate(IMAGES):
        (folder / f'{i}.png').write_bytes(encoded(image))
    return folder


def test_a_model_gives_sigmoids(model, expected):
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-6)
    prepared = model.preprocess.pixels(IMAGES)
    np.testing.assert_allclose(model.of_pixels(prepared), expected, rtol=1e-5)
    best = model.predict(IMAGES[0], top=2)
    assert [p.index for p in best] == np.argsort(-expected[0])[:2].tolist()
    assert best[0].probability == pytest.approx(expected[0].max(), rel=1e-6)
    named = [(str(i), image) for i, image in enumerate(IMAGES)]
    rows = [result.probabilities for result in model.stream(named)]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_large_negative_logits_have_their_probabilities(model):
    result = model.probabilities(np.array([[-100, -700, 100, 0]], np.float32))
    np.testing.assert_allclose(result, [[np.exp(-100), np.exp(-700), 1, 0.5]], rtol=1e-12)


def test_predictions_count_images_with_one_of_their_labels_first(
    run_folder, photos, expected, capsys
):
    order = expected.argsort(1)
    labels = [
        '|'.join(CLASSES[k] for k in (order[0, 0], order[0, -1])),  # with the best class
        '|'.join(CLASSES[k] for k in order[1, :2]),  # with others alone
        f'{CLASSES[order[2, -1]]}|cow',  # with none of the model
    ]
    rows = [f'{i}.png,{label}' for i, label in enumerate(labels)]
    (photos / 'list.csv').write_text('\n'.join(['image,label', *rows]) + '\n')
    assert predict.main(['--from', str(run_folder), str(photos / 'list.csv'), '--json']) == 0
    out, err = capsys.readouterr()
    assert 'top-1 50.00 % of 2 labeled' in err
    assert '1 labels are no class of the model' in err
    for entry, label, row in zip(json.loads(out), labels, expected, strict=True):
        assert entry['label'] == label
        given = {p['index']: p['probability'] for p in entry['predictions']}
        np.testing.assert_allclose([given[k] for k in range(4)], row, rtol=1e-5)


def test_an_export_with_pixels_gives_sigmoids(run_folder, model, expected, tmp_path):
    file = tmp_path / 'model.onnx'
    flags = ['--format', 'onnx', '--output', str(file), '--pixels']
    assert export.main(['--from', str(run_folder), *flags]) == 0
    outputs = onnx_file.outputs(onnx_file.session(file), model.preprocess.pixels(IMAGES))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert metadata['multi_label'] == 'true'


def test_a_server_answers_with_sigmoids(model, expected):
    async def answered():
        app = create(model, sizes=(1,))
        async with app.router.lifespan_context(app):
            body = encoded(IMAGES[1])
            return [
                await asked(app, 'POST', '/predict', b'top=9', body),
                await asked(app, 'GET', '/model'),
            ]

    answer, description = asyncio.run(answered())
    given = {p['index']: p['probability'] for p in answer['predictions']}
    np.testing.assert_allclose([given[k] for k in range(4)], expected[1], rtol=1e-5)
    assert description['multi_label'] is True


async def asked(app, method, path, query=b'', body=b''):
    """Returns the JSON that an application answers a request with, without a socket."""
    scope = {'type': 'http', 'http_version': '1.1', 'method': method, 'path': path, 'headers': []}
    parts, received = [{'type': 'http.request', 'body': body}], []

    async def receive():
        return parts.pop() if parts else await asyncio.Future()

    async def send(message):
        received.append(message.get('body', b''))

    await app({**scope, 'query_string': query}, receive, send)
    return json.loads(b''.join(received))


def test_an_ensemble_is_of_one_kind(run_folder, model, expected, tmp_path):
    together = Ensemble([model, load(run_folder)])
    np.testing.assert_allclose(together(IMAGES), expected, rtol=1e-6)
    other = load(write_run(tmp_path / 'run'))
    with pytest.raises(UserError, match='an image has several classes for one of'):
        Ensemble([model, other])


def test_runs_with_several_labels_are_not_evaluated_together(run_folder):
    part = runs.load_config(run_folder), run_folder
    with pytest.raises(UserError, match=r'multi_label of .* is True, and runs are evaluated'):
        ensemble.evaluate_runs([part, part])
