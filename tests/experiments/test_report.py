"""The report of a run, of several runs and of a sweep: its numbers, and all that can be missing."""

import base64
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
import reported
from test_runs import write_run, write_sweep

from cls import evaluate
from cls.data.classes import words
from cls.errors import UserError
from cls.experiments import runs
from cls.experiments.report import data, sections
from cls.inference import summarizing
from cls.inference.model import Model
from cls.inference.preprocess import Preprocess
from cls.tools import recipes, report

VOID = {'br', 'img', 'link', 'meta'}


class Page(HTMLParser):
    """The elements of a page; refuses elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tags = [], [], [], [], []
        self.raw, self.text, self.rows = text, '', []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values['id']] if 'id' in values else []
        self.links += [values['href']] if tag == 'a' else []
        self.sources += [values[key] for key in ('src', 'href') if key in values and tag != 'a']
        assert not any(name.startswith('on') for name in values)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'script' in self.open or 'style' in self.open:
            return
        self.text += data
        if self.rows and {'td', 'th'} & set(self.open):
            self.rows[-1][-1] += data


def written(*folders, output):
    assert report.main([*map(str, folders), '--output', str(output)]) == 0
    return Page(output.read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Returns (a run folder, the page of its report)."""
    folder = tmp_path_factory.mktemp('report')
    run = reported.write(folder)
    return run, written(run, output=folder / 'page.html')


def test_the_page_needs_no_other_file_and_its_names_are_text(made):
    _, page = made
    assert page.sources and all(source.startswith('data:') for source in page.sources)
    assert all(link.startswith('#') and link[1:] in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.count('script') == 1
    for name in (*reported.CLASSES[:3], 'tench (n01440764)', '0<b>.png'):
        assert name in page.text


def test_the_page_has_the_numbers_of_the_evaluation(made):
    run, page = made
    values = json.loads((run / 'evaluation.json').read_text())
    expected = [f'{values["test/" + metric]:.2f}' for metric in ('top1', 'top5')]
    row = next(row for row in page.rows if row[0] == 'test')
    assert row[1:3] == expected
    assert row[3] == f'{values["test/loss"]:.4f}'
    for each in values['test/classes']:
        name = 'tench (n01440764)' if each['class'] == 'n01440764' else each['class']
        (row,) = (row for row in page.rows if row[0] == name and len(row) == 7)
        assert row[1:3] == [str(each['images']), str(each['predicted'])]
        assert row[3:] == [f'{each[m]:.2f}' for m in ('precision', 'recall', 'f1', 'auroc')]
    assert '12 images of folder:' in page.text
    assert 'means over the 4 classes with images' in page.text


def test_the_confusion_matrix_of_the_page_is_that_of_the_folder(made):
    run, page = made
    with np.load(run / 'evaluation-confusion.npz') as file:
        rows, columns, counts, names = (file[k] for k in ('row', 'col', 'data', 'names'))
    shown = [words(name) for name in names.tolist()]
    cut = [name if len(name) <= 18 else f'{name[:17]}…' for name in shown]
    for row, column, count in zip(rows, columns, counts, strict=True):
        assert f'{cut[row]} predicted as {cut[column]}: {count} (' in page.text


def test_each_mistake_has_its_image_and_two_maps(made):
    run, page = made
    mistakes = json.loads((run / 'evaluation.json').read_text())['test/mistakes']
    assert mistakes
    images = [s for s in page.sources if s.startswith('data:image')]
    assert len(images) == 3 * len(mistakes)
    # The first image is the crop of that file.
    content = np.frombuffer(base64.b64decode(images[0].partition(',')[2]), np.uint8)
    shown = cv2.imdecode(content, cv2.IMREAD_COLOR)
    file = run.parent / 'data' / 'test' / mistakes[0]['image']
    assert shown.shape == (32, 32, 3)
    assert abs(float(shown.mean()) - cv2.imread(str(file)).mean()) < 12
    assert f'{100 * mistakes[0]["probability"]:.2f} %' in page.text


def test_the_page_has_status_time_model_and_recipe(made):
    _, page = made
    assert 'class="status done">finished<' in page.raw
    assert ['step', '1 min', '30.0'] in page.rows
    assert 'goodput 60.0 %; 1 restarts, goodput with downtime 30.0 %' in page.text
    assert any(row[0] == 'all' and row[2].replace(',', '').isdigit() for row in page.rows)
    assert 'Nearest recipe: resnet:' in page.text
    assert ['duration', '40 epochs', '40 steps'] in page.rows
    assert 'Sections 3.4 and 4.2' in page.text  # of configs/resnet.py
    assert 'evaluated 2 times during the training' in page.text
    assert 'Training figures are means over up to 4 steps.' in page.text
    charts = re.findall('<figcaption>([^<]*)', page.raw)
    assert charts[:4] == ['Loss', 'Top-1 accuracy', 'Learning rate', 'Speed']
    assert 'epoch' not in charts and 'time/step' not in charts


def test_a_second_report_evaluates_nothing(made, tmp_path, monkeypatch):
    run, page = made
    monkeypatch.setattr(evaluate, 'job', lambda *args: pytest.fail('evaluated again'))
    again = written(run, output=tmp_path / 'again.html')
    assert 'From evaluation.json of the run folder.' in again.text
    assert len(again.rows) == len(page.rows)


@pytest.mark.parametrize('evaluated', [False, True])
def test_a_run_without_its_data_has_the_other_parts(made, tmp_path, evaluated):
    run, _ = made
    copy = shutil.copytree(run, tmp_path / 'copy')
    for file in () if evaluated else copy.glob('evaluation*'):
        file.unlink()
    images = (run.parent / 'data').rename(run.parent / 'elsewhere')
    try:
        page = written(copy, output=tmp_path / 'page.html')
    finally:
        images.rename(run.parent / 'data')
    parts = 'images of the mistakes' if evaluated else 'evaluation and mistakes'
    assert f'Without {parts}: ' in page.text and str(run.parent / 'data') in page.text
    assert ('Each class' in page.text) == evaluated
    assert (
        any(row[0] == '0<b>.png' or row[0].endswith('/0<b>.png') for row in page.rows) == evaluated
    )
    assert any(row[0] == 'all' for row in page.rows)  # the network by stages
    assert ('From result.json' in page.text) != evaluated
    assert not any(source.startswith('data:image') for source in page.sources)


def test_an_unfinished_run_is_reported_as_such(tmp_path):
    run = write_run(tmp_path / 'run', finished=False)
    (run / 'data.json').write_text('{"train": {"examples": 640}}')
    page = written(run, output=tmp_path / 'page.html')
    assert 'unfinished, step 10 of 400' in page.text
    assert 'The run folder has no checkpoint' in page.text
    assert 'The run has no result yet.' in page.text


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        ({'test/top1': 2}, 'evaluated 2 times during the training'),
        ({'test/top1': 1, 'validation/top1': 3}, 'once, at the end. Choices were by validation'),
        ({'test_ema/top1': 1}, 'evaluated once, at the end.'),
        ({'validation/top1': 3}, 'none are of test images'),
        ({'train/top1': 3}, ''),
    ],
)
def test_the_page_says_how_often_the_test_images_were_seen(tmp_path, names, said):
    folder = write_run(tmp_path / 'run')
    lines = [{'step': i, name: 1.0} for name, count in names.items() for i in range(count)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (folder / 'result.json').unlink()
    sentence = sections.tested(runs.read_run(folder))
    assert said in sentence
    assert bool(sentence) == bool(said)


def test_the_sentence_of_the_result_counts_and_the_best_checkpoint_is_named(tmp_path):
    folder = write_run(tmp_path / 'run')
    result = json.loads((folder / 'result.json').read_text())
    result |= {'evaluated': 'the test images: <once>', 'stopped': 'patience'}
    result |= {'best': {'step': 5, 'metric': 'validation/top1', 'value': 91.0}}
    (folder / 'result.json').write_text(json.dumps(result))
    page = written(folder, output=tmp_path / 'page.html')
    assert 'The test images: <once>.' in page.text
    assert 'best checkpoint: step 5, by validation/top1; stopped: patience' in page.text


def sweep(folder):
    trials = {}
    for rate, scores in (('0.1', (92.39, 93.80, 79.44)), ('0.2', (70.0, 71.0, 72.0))):
        for seed, score in enumerate(scores):
            name = f'optim.lr={rate},seed={seed}'
            overrides = {'optim.lr': rate, 'seed': str(seed)}
            write_run(folder / name, score, [*overrides.items()])
            trials[name] = overrides
    trials['bad'] = {'optim.lr': '<9>', 'seed': '0'}
    return write_sweep(folder, trials, {'bad': {'state': 'failed', 'message': 'loss <nan>'}})


def test_a_sweep_is_compared_over_seeds(tmp_path, monkeypatch):
    read, read_run = [], runs.read_run
    monkeypatch.setattr(runs, 'read_run', lambda folder: read.append(folder) or read_run(folder))
    page = written(sweep(tmp_path / 'sweep'), output=tmp_path / 'page.html')
    assert 'sweep of 7 trials (6 finished, 1 failed), 2 configs' in page.text
    assert '88.54 ± 7.92 (3 seeds)' in page.text
    assert ['bad', 'loss <nan>'] in page.rows
    assert ['optim.lr', '0.1', '0.2'] in page.rows
    assert 'Best run: optim.lr=0.1,seed=1' in page.text
    assert 'chosen by its test images: its own figure is optimistic' in page.text
    assert len(set(page.ids)) == len(page.ids)
    assert sum(row[0].startswith('optim.lr=') and len(row) > 5 for row in page.rows) == 6
    assert len(read) == len(set(read)) == 6


def test_runs_are_compared_and_unfinished_ones_named(tmp_path):
    folders = [write_run(tmp_path / name, score) for name, score in (('a', 80.0), ('b', 81.0))]
    other = write_run(tmp_path / 'c', 90.0, [('batch', '32')])
    open_ = write_run(tmp_path / 'd<>', finished=False)
    page = written(*folders, other, open_, output=tmp_path / 'page.html')
    assert 'd<> is not finished: it does not count.' in page.text
    assert 'Best run: c' in page.text


def test_the_nearest_recipe_is_that_with_the_fewest_differences(tmp_path):
    run = runs.read_run(write_run(tmp_path / 'run', overrides=[('optim.lr', '0.7')]))
    arm, differing = recipes.nearest(run.fields)
    assert arm.config == 'resnet:digits'
    assert differing == [('optim.lr', 0.1, 0.7)]
    assert recipes.nearest({'model.name': 'unknown'}) is None


@pytest.mark.parametrize(('kind', 'said'), [('members', 'an ensemble'), ('search', 'a search')])
def test_the_run_of_several_networks_is_refused(tmp_path, kind, said):
    run = runs.read_run(write_run(tmp_path / 'run'))
    other = dataclasses.replace(run, config={**run.config, kind: {}})
    with pytest.raises(UserError, match=f'is the run of {said}: expected runs of one network'):
        data.check(other)


class Plain(nn.Module):
    """A network that sows no stages."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        """Returns logits (N, num_classes)."""
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def test_a_network_without_stages_has_maps_of_integrated_gradients():
    images = np.random.default_rng(0).integers(256, size=(2, 4, 4, 1), dtype=np.uint8)
    variables = Plain().init(jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32))
    model = Model(Plain(), variables, Preprocess(4, 4, channels=1))
    rows = [{'index': 1, 'output': 0, 'label': 2}]
    found = data.Evaluation('test', {'test/mistakes': rows}, None, '')
    (mistake,) = data.with_images(model, lambda indices: images[indices], found)
    assert mistake.method == 'integrated gradients'
    np.testing.assert_array_equal(mistake.pixels, images[1])
    assert mistake.of_class.shape == (4, 4, 3)
    assert (mistake.of_class != mistake.of_prediction).any()
    assert [row.name for row in summarizing.summarize(Plain(), 4, 1)] == ['logits']


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('run', '--output', 'page.txt'), 'expected a file NAME.html'),
        (('run', '--output', 'none/page.html'), 'there is no folder'),
        (('nothing', '--output', 'page.html'), 'there is no folder'),
        (('empty', '--output', 'page.html'), 'is not a run folder'),
        (('run', 'open', '--output', 'page.html'), ''),
        (('open', 'open2', '--output', 'page.html'), 'no run is finished yet'),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / 'run')
    (tmp_path / 'empty').mkdir()
    for name in ('open', 'open2'):
        write_run(tmp_path / name, finished=False)
    if not said:
        assert report.main(list(arguments)) == 0
        return
    with pytest.raises(UserError, match=re.escape(said)):
        report.main(list(arguments))
    assert not list(tmp_path.glob('**/*.html'))
