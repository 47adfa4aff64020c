"""Images with several labels: training, metrics, evaluation."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cls import ensemble, main
from cls.config import load as configs
from cls.config import runs
from cls.data.views import corner_crops
from cls.errors import UserError
from cls.evaluation import average, several
from cls.evaluation.metrics import Predictions
from cls.evaluation.ranking import average_precisions
from cls.inference.loading import load
from cls.setup import set_up
from cls.steps.multi_label import topk_hits

NAMES = ('a', 'b', 'c')


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """A CSV of 40 images to train on and 20 to test on; a class is a bright channel of an image."""
    folder, rng = tmp_path_factory.mktemp('table'), np.random.default_rng(0)
    rows = ['image,label,split']
    for i in range(60):
        has = rng.random(3) < 0.5
        has[i % 3] = True
        pixels = rng.integers(40, size=(8, 8, 3)) + 200 * has
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.png')
        labels = '|'.join(name for name, one in zip(NAMES, has, strict=True) if one)
        rows.append(f'{i}.png,{labels},{"train" if i < 40 else "test"}')
    (folder / 'all.csv').write_text('\n'.join(rows) + '\n')
    return folder / 'all.csv'


def fields(table, **changed):
    values = {
        'data.name': f'csv:{table}',
        'data.multi_label': True,
        'data.mean': (128.0,),
        'data.std': (64.0,),
        'loss.name': 'bce',
        'model.stage_sizes': (1,),
        'model.widths': (4,),
        'batch': 16,
        'duration': '12 steps',
        'log_every': '4 steps',
        'schedule.warmup': '0 steps',
        **changed,
    }
    return tuple((name, str(value)) for name, value in values.items())


@pytest.mark.usefixtures('quick_programs')
def test_a_run_learns_several_labels_and_is_evaluated_by_average_precision(table, tmp_path, capfd):
    run = tmp_path / 'run'
    overrides = [f'--config.{name}={value}' for name, value in fields(table)]
    assert main.main(['--config', 'resnet', '--workdir', str(run), *overrides]) == 0
    trained = json.loads((run / 'result.json').read_text())
    assert 50 < trained['test/map'] <= 100
    assert 'test mAP ' in capfd.readouterr().out
    assert main.main(['--workdir', str(run), '--job', 'evaluate']) == 0
    result = json.loads((run / 'evaluation.json').read_text())
    for metric in ('map', 'top1', 'loss'):
        assert result[f'test/{metric}'] == pytest.approx(trained[f'test/{metric}'], rel=1e-5)

    source = set_up(configs.load('resnet', fields(table)), jax.devices()[:1]).test
    logits = load(run).logits(np.stack([source[i]['image'] for i in range(len(source))]))
    expected = 100 * average_precisions(logits, source.labels())
    each = result['test/average_precision']
    np.testing.assert_allclose([each[name] for name in NAMES], expected, rtol=1e-4)
    check_ten_crops(run, source, tmp_path / 'ten')
    with pytest.raises(UserError, match='by one label for each image: evaluate'):
        ensemble.together_job([(runs.load_config(run), run)] * 2, None)


def check_ten_crops(run, source, output):
    """Evaluates a run on ten crops, and compares with the mean of the sigmoids of crops."""
    flags = ['--config.eval.protocol=ten_crop', '--config.data.eval_resize=12']
    flags += ['--config.eval.predictions=scores.csv', '--output', str(output)]
    assert main.main(['--workdir', str(run), '--job', 'evaluate', *flags]) == 0
    (file,) = output.glob('evaluation-ten_crop*.json')
    result = json.loads(file.read_text())
    assert result['protocol'] == 'ten_crop'

    crops = np.stack([corner_crops(source[i]['image'], size=8, resize_to=12) for i in range(20)])
    model, total = load(run), np.zeros((20, 3))
    for view in range(5):
        for images in (crops[:, view], crops[:, view, :, ::-1]):
            total += 1 / (1 + np.exp(-model.logits(images).astype(np.float64)))
    expected, labels = total / 10, source.labels()
    each = 100 * average_precisions(expected, labels)
    actual = [result['test/average_precision'][name] for name in NAMES]
    np.testing.assert_allclose(actual, each, rtol=1e-4)
    assert result['test/map'] == pytest.approx(each.mean(), rel=1e-4)
    losses = -np.log(np.where(labels, expected, 1 - expected))
    assert result['test/loss'] == pytest.approx(losses.mean(), rel=1e-4)
    best = expected.argmax(1)
    assert result['test/top1'] == pytest.approx(100 * labels[np.arange(20), best].mean())

    rows = list(csv.DictReader((output / 'scores.csv').open()))
    assert [row['image'] for row in rows] == list(source.files)
    sets = ['|'.join(np.array(NAMES)[own > 0]) for own in labels]
    assert [row['labels'] for row in rows] == sets
    values = np.array([[float(row[name]) for name in NAMES] for row in rows])
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_scores_beyond_the_precision_of_probabilities_keep_their_order():
    """In float64 the sigmoids of 40 and 50 are both 1: ranks and losses would be those of a tie."""
    logits = np.array([[40.0, -80], [50, 3], [45, -90]], np.float32)
    labels = np.array([[0, 1], [1, 0], [0, 0]], np.uint8)
    views = average.MeanOfViews(1, average.sigmoids)
    parts = [views.add(logits[None], labels, np.arange(3))]
    ranking = several.rank(parts, 3)
    np.testing.assert_allclose(ranking.scores[:, 0], [40, 50, 45], rtol=1e-6)
    assert ranking.values()['average_precision'] == {'0': 100, '1': 50}
    np.testing.assert_allclose(ranking.losses[2], 45 / 2)
    both = average.MeanOfViews(2, average.sigmoids).add(
        np.array([[[40.0]] * 2, [[-40.0]] * 2], np.float32), np.ones((2, 1), np.uint8), np.zeros(2)
    )
    np.testing.assert_allclose(both.probabilities, [[0.5, 0.5]])
    nothing = Predictions(np.zeros((0, 2)), np.zeros((0, 1), np.uint8), np.zeros(0, np.int32))
    assert several.rank([nothing, both], 1).scores == 0


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'loss.name': 'softmax'}, 'expected bce or binary_focal'),
        ({'data.name': 'digits', 'loss.name': 'bce'}, 'digits has one label for each image'),
        ({'distill.teacher': 'resnet18'}, 'a teacher has one class for each image'),
    ],
)
def test_what_takes_one_label_is_refused(table, changed, message):
    with pytest.raises(UserError, match=message):
        set_up(configs.load('resnet', fields(table, **changed)), jax.devices()[:1])


def test_balanced_weights_count_the_images_of_each_class(table):
    config = configs.load('resnet', fields(table, **{'loss.class_weights': 'balanced'}))
    setup = set_up(config, jax.devices()[:1])
    counts = setup.train.labels().sum(0)
    weights = np.array(setup.recipe.loss.class_weights)
    np.testing.assert_allclose(weights * counts, counts.sum() / 3)


@pytest.mark.parametrize(
    ('row', 'labels', 'k', 'expected'),
    [
        ([3, 2, 1, 0], [1, 0, 0, 1], 1, True),
        ([3, 2, 1, 0], [0, 1, 0, 1], 1, False),
        ([3, 2, 1, 0], [0, 1, 0, 1], 2, True),
        ([3, 3, 1, 0], [1, 0, 0, 0], 1, False),  # a tie
        ([3, 3, 1, 0], [1, 1, 0, 0], 1, True),
        ([3, 2, 1, 0], [0, 0, 0, 0], 4, False),  # no class
        ([np.nan, 2, 1, 0], [0, 1, 0, 0], 4, False),
    ],
)
def test_hits(row, labels, k, expected):
    hits = topk_hits(jnp.array([row], jnp.float32), jnp.array([labels], jnp.uint8), k)
    assert bool(hits[0]) is expected
