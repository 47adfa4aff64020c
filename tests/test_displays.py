"""Images, histograms and confusion matrices of runs, and what a run with all loggers writes."""

import csv
import json
from contextlib import closing

import boards
import jax
import numpy as np
import tiny
from compiling import FAST
from logs import all_logged

from cls import displays, programs, train
from cls.evaluate import evaluate_batches
from cls.feed import feed
from cls.setup import abstract_state
from cls.steps import histograms
from cls.steps import sharding as meshes

PLAIN = (('data.mean', '(0,)'), ('data.std', '(255,)'))
AUGMENTED = (('data.flip', 'true'), ('augment.cutout', '3'), *PLAIN)


def test_images_without_augmentation_are_the_first_of_the_training():
    setup = tiny.setup()
    batch = next(train.train_batches(setup))
    np.testing.assert_array_equal(displays.augmented_images(setup, 16), batch['image'])
    assert displays.augmented_images(setup, 3).shape == (3, 8, 8, 1)


def test_augmented_images_are_changed_as_in_training():
    setup = tiny.setup(*AUGMENTED)
    before = next(train.train_batches(setup))['image']
    images = displays.augmented_images(setup, 16)
    for image, plain in zip(images, before, strict=True):
        mirrored = plain[:, ::-1]
        kept = min((image != plain).mean(), (image != mirrored).mean())
        assert kept <= 9 / 64  # pixels outside of the square of three


def test_images_are_pixels_again_after_any_normalization():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    recipe = tiny.setup(('data.mean', '(120,)'), ('data.std', '(60,)')).recipe
    back = displays.pixels(recipe, recipe.normalize(images))
    np.testing.assert_array_equal(back, images)
    each = tiny.setup(('data.contrast', 'global')).recipe
    shown = np.asarray(displays.pixels(each, each.normalize(images)))
    assert shown.min((1, 2, 3)).tolist() == [0] * 4
    assert shown.max((1, 2, 3)).tolist() == [255] * 4


def test_a_histogram_is_that_of_numpy():
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    for array in (values, np.full((3, 3), 2.0, np.float32)):
        found = jax.device_get(jax.jit(histograms.histogram)(array))
        (shown,) = displays.histograms({'w': found}).values()
        assert (shown.low, shown.high) == (array.min(), array.max())
        counts, _ = np.histogram(array, histograms.BINS)
        assert np.abs(shown.counts - counts).sum() <= 4  # on the edges of bins, by rounding
        assert shown.counts.sum() == array.size
        np.testing.assert_allclose(shown.total, array.sum(dtype=np.float64), rtol=1e-4)
        np.testing.assert_allclose(shown.squares, (array**2).sum(dtype=np.float64), rtol=1e-4)
    assert displays.histograms({'w': found | {'low': np.float32(np.nan)}}) == {}


def test_gradients_are_those_of_the_next_training_step():
    """The norm of the gradients that the step reports is the root of the squares' sum."""
    setup = tiny.setup(('data.flip', 'true'))
    state, optimizer = setup.new_state()
    where = abstract_state(state, setup.mesh)
    state = meshes.put(state, jax.tree.map(lambda x: x.sharding, where))
    phase, iterator = setup.phases.at(0), train.batches(setup)
    compute = programs.compile_histograms(setup, where, phase, iterator)
    step = programs.compile_train_step(
        setup, optimizer, where, phase, iterator, compiler_options=FAST
    )
    with closing(feed(iterator, setup)) as batches:
        fed = batches.take(1)
        shown = displays.histograms(jax.device_get(compute(state, fed.batch)))
        _, metrics = step(state, fed.batch)
    gradients = {name for name in shown if name.startswith('gradients/')}
    squares = sum(shown[name].squares for name in gradients)
    np.testing.assert_allclose(np.sqrt(squares), metrics['grad_norm'][0], rtol=1e-5)
    params = {name.replace('gradients/', 'params/') for name in gradients}
    assert gradients | params == set(shown)
    assert 'params/body/kernel' in shown


def test_the_confusion_matrix_counts_every_image_once():
    setup = tiny.setup()
    state, _ = setup.new_state()
    everywhere = meshes.replicated(setup.mesh)
    variables = state.variables()
    variables = meshes.put(variables, jax.tree.map(lambda _: everywhere, variables))
    counts = displays.confusion(setup)
    values = evaluate_batches(
        setup.eval_step(), variables, setup.eval_batches(), setup.mesh, confusion=counts
    )
    assert counts.sum() == len(setup.test)
    assert 100 * np.trace(counts) / counts.sum() == values['top1']
    labels = np.bincount(setup.test.labels(), minlength=10)
    np.testing.assert_array_equal(counts.sum(1), labels)


def test_a_run_shows_everything_in_its_loggers(tmp_path):
    setup = tiny.setup(
        *AUGMENTED,
        ('duration', '7 steps'),
        ('log_every', '3 steps'),
        ('log.to', "('tensorboard', 'csv')"),
        ('log.images', '4'),
        ('log.histograms_every', '4 steps'),
    )
    result = train.fit(setup, tmp_path)
    rows = all_logged(tmp_path)
    assert [(row['step'], row['train/steps']) for row in rows if 'train/loss' in row] == [
        (3, 3),
        (6, 3),
        (7, 1),
    ]
    assert all(row['epoch'] == round(row['step'] * 16 / 1442, 4) for row in rows)
    board = boards.shown(tmp_path / 'tensorboard')
    steps = [step for step, name in board if name == 'gradients/body/kernel']
    assert steps == [1, 5]
    assert boards.image(board[1, 'train/images']).shape == (17, 17, 3)
    text = board[7, 'result/text_summary'].tensor.string_val[0].decode()
    assert f'| test/top1 | {result["test/top1"]} |' in text
    with (tmp_path / 'metrics' / 'test-confusion.csv').open(newline='') as stream:
        _, *matrix = csv.reader(stream)
    assert sum(int(n) for row in matrix for n in row[1:]) == len(setup.test)
    assert json.loads((tmp_path / 'result.json').read_text()) == result


def test_fields_have_dotted_names_and_results_slashes():
    config = {'seed': 0, 'schedule': {'milestones': ['1 epochs'], 'name': 'step'}}
    assert displays.fields(config) == {
        'seed': 0,
        'schedule.milestones': ['1 epochs'],
        'schedule.name': 'step',
    }
    result = {'test/top1': 98.5, 'time': {'step': 1.5}, 'classes': ['a'], 'split': 'test'}
    assert displays.flat(result) == {'test/top1': 98.5, 'time/step': 1.5, 'split': 'test'}
