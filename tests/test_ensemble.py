"""Ensembles: trained by one config, or put together from run folders."""

import contextlib
import functools
import io
import json

import numpy as np
import pytest
from PIL import Image

import cls
from cls import ensemble, evaluate
from cls.config import load as configs
from cls.config import runs
from cls.config.runs import load_config
from cls.errors import UserError
from cls.main import main
from cls.steps.train_step import normalize
from cls.tools import explain, export, predict, serve

pytestmark = pytest.mark.usefixtures('quick_programs')

CONFIG = """
from ml_collections import ConfigDict
from cls.recipes import resnet

def get_config(argument):
    c = ConfigDict({'members': {}, 'loaded': {'a': argument, 'b': ''}})
    for seed, name in enumerate('ab'):
        member = resnet.get_config()
        member.seed, member.ema = seed, 0.9 * seed
        member.model.stage_sizes = (1, 1, 1)
        member.duration, member.log_every = '25 steps', '25 steps'
        member.checkpoint.every = '25 steps'
        member.schedule.warmup = '100 percent'
        member.data.mean = (70.0 + 10 * seed,)
        c.members[name] = member
    return c
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a config, and in `run` an ensemble trained by this config."""
    folder = tmp_path_factory.mktemp('ensemble')
    (folder / 'own.py').write_text(CONFIG)
    command(folder, '--config', 'own.py', '--workdir', 'run', '--config.members.b.optim.lr=0.02')
    return folder


def command(folder, *arguments):
    """Returns the output of python -m cls.main in a folder."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(list(arguments)) == 0
    return printed.getvalue()


@functools.cache
def probabilities(run):
    """Returns a member's softmax of the test digits, computed without cls.evaluation."""
    setup, state = evaluate.restore(load_config(run), run)
    images = np.stack([setup.test[i]['image'] for i in range(len(setup.test))])
    variables = state.ema or state.variables()
    inputs = normalize(images, setup.recipe.mean, setup.recipe.std)
    logits = np.float64(setup.model.apply(variables, inputs))
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True), np.array([setup.test[i]['label'] for i in range(355)])


def test_the_mean_of_softmax_counts_every_image_once(folder):
    result = json.loads((folder / 'run' / 'result.json').read_text())
    (one, labels), (two, _) = (probabilities(folder / 'run' / name) for name in 'ab')
    mean = (one + two) / 2
    own = mean[np.arange(355), labels]
    assert result['test/top1'] == pytest.approx(100 * np.mean(mean.argmax(1) == labels))
    assert result['test/top5'] == pytest.approx(100 * np.mean((mean > own[:, None]).sum(1) < 5))
    assert result['test/loss'] == pytest.approx(-np.log(own).mean(), rel=1e-4)
    members = [json.loads((folder / 'run' / n / 'result.json').read_text()) for n in 'ab']
    assert result['params'] == sum(member['params'] for member in members)
    configs_of = [json.loads((folder / 'run' / n / 'config.json').read_text()) for n in 'ab']
    assert [c['optim']['lr'] for c in configs_of] == [0.1, 0.02]


@pytest.fixture(scope='module')
def model(folder):
    return cls.load(folder / 'run')


@pytest.mark.sweep
def test_the_folder_is_a_model_with_the_probabilities_of_the_evaluation(
    folder, model, tmp_path, capsys
):
    (one, labels), (two, _) = (probabilities(folder / 'run' / name) for name in 'ab')
    setup, _ = evaluate.restore(load_config(folder / 'run' / 'a'), folder / 'run' / 'a')
    images = [setup.test[i]['image'] for i in range(len(setup.test))]
    np.testing.assert_allclose(model(iter(images)), (one + two) / 2, atol=1e-5)
    model.batch = 100
    results = list(model.stream((str(i), image) for i, image in enumerate(images)))
    np.testing.assert_allclose([r.probabilities for r in results], (one + two) / 2, atol=1e-5)
    top1 = 100 * np.mean([r.probabilities.argmax() for r in results] == labels)
    result = json.loads((folder / 'run' / 'result.json').read_text())
    assert result['test/top1'] == pytest.approx(top1)
    assert model.classes == model.members[0].classes
    assert 'Ensemble(resnet20_cifar+resnet20_cifar, 10 classes' in repr(model)
    image = tmp_path / 'digit.png'
    Image.fromarray(images[0][..., 0]).save(image)
    (tmp_path / 'broken.png').write_bytes(b'nothing')
    assert predict.main(['--from', str(folder / 'run'), str(tmp_path), '--top', '1']) == 1
    best = model.predict(image, top=1)[0]
    out, err = capsys.readouterr()
    assert f'digit.png  {best.label} {best.probability:.4f}' in out
    assert '1 of 2 images were not read' in err


@pytest.mark.parametrize(
    ('use', 'said'),
    [
        (lambda model: model.explain('x.png'), 'has not layers to explain'),
        (lambda model: model.embed('x.png'), 'has not layers: load the run folder of a member'),
        (lambda model: model.preprocess, 'its models have different ones'),
        (lambda model: model.module, 'has not a module'),
        (lambda model: model.variables, 'has not variables'),
        (lambda model: model.logits('x.png'), 'has not logits'),
        (lambda model: model.features('x.png'), 'has not layers'),
        (lambda model: model.reset_classifier(3), 'has not a classifier'),
        (lambda model: export.source_of(model, False), 'is an ensemble'),
    ],
)
def test_the_parts_of_a_single_model_are_refused(model, use, said):
    with pytest.raises(UserError, match=said):
        use(model)


def test_commands_for_a_single_model_refuse_an_ensemble(folder, tmp_path):
    source, output = ['--from', str(folder / 'run')], ['--output', str(tmp_path / 'new')]
    for refuse in (
        lambda: predict.main([*source, 'x.png', '--embed', str(tmp_path / 'new.npz')]),
        lambda: explain.main([*source, 'x.png', *output]),
        lambda: export.main([*source, '--format=stablehlo', *output]),
        lambda: serve.main([*source, '--port=0']),
    ):
        with pytest.raises(UserError, match='is an ensemble'):
            refuse()
    assert not list(tmp_path.iterdir())


def test_run_folders_are_put_together_as_by_the_config(folder):
    parts = command(folder, '--job', 'evaluate', '--workdir', 'run/a', 'run/b')
    whole = command(folder, '--job', 'evaluate', '--workdir', 'run')
    assert parts == whole
    assert parts.startswith('test top-1 ')
    result, evaluation = (
        json.loads((folder / 'run' / f'{name}.json').read_text())
        for name in ('result', 'evaluation')
    )
    figures = ('test/top1', 'test/top5', 'test/loss', 'params')
    assert {name: evaluation[name] for name in figures} == pytest.approx(
        {name: result[name] for name in figures}
    )
    assert result['split'] == evaluation['split'] == 'test'


def test_the_same_command_again_only_tells_the_result(folder):
    arguments = ('--config', 'own.py', '--workdir', 'run', '--config.members.b.optim.lr=0.02')
    assert 'test top-1' in command(folder, *arguments)
    assert 'member' not in command(folder, *arguments)


def test_a_member_that_is_loaded_is_not_trained(folder):
    config = configs.load(f'{folder}/own.py:{folder}/run/a')
    parts = runs.members(config, folder / 'other')
    assert [path for _, path in parts] == [folder / 'run' / 'a', folder / 'other' / 'b']
    assert parts[0][0].to_dict() == load_config(folder / 'run' / 'a').to_dict()


def test_evaluation_sees_what_is_changed_in_a_member(folder):
    same = command(folder, '--job', 'evaluate', '--workdir', 'run')
    change = '--config.members.a.data.mean=200.0'
    assert command(folder, '--job', 'evaluate', '--workdir', 'run', change) != same


def test_a_finished_ensemble_is_not_taken_for_another(folder):
    config = configs.load(f'{folder}/own.py', [('members.b.optim.lr', '0.03')])
    with pytest.raises(UserError, match='members.b.optim.lr'):
        ensemble.job(config, folder / 'run')


def test_what_does_not_belong_together_is_one_line(folder):
    config = configs.load(f'{folder}/own.py:{folder}/nowhere')
    with pytest.raises(UserError, match=r'nowhere is not a run folder .*; cls train --config'):
        runs.members(config, folder / 'other')
