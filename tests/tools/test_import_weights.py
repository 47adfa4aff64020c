"""Importing weights: the run folder, the sources of checkpoints, and refusals."""

import argparse
import collections
import json
import pickle
import shlex
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from compiling import jit
from golden import keyed, rows
from orbax.checkpoint import StandardCheckpointer
from safetensors.numpy import save_file

import cls
from cls import main, models, train, weights
from cls.config import load as configs
from cls.data.classes import wnids
from cls.errors import UserError
from cls.inference.loading import load
from cls.setup import set_up
from cls.steps import schedule
from cls.steps.state import first_state
from cls.tools import import_messages, import_weights
from cls.weights import colors, convert, hub
from cls.weights.images import preparation

pytestmark = pytest.mark.usefixtures('quick_programs')

NAME = 'resnet20_cifar'
ROW = rows.read('resnet')[f'restated:{NAME}']
STATE = keyed.state_dict(ROW.tensors, ROW.gain)
CARD = {
    'architecture': 'resnet20',
    'num_classes': 10,
    'pretrained_cfg': {'mean': [0.5, 0.25, 0.5], 'std': [0.2, 0.2, 0.4], 'crop_pct': 1.0},
}


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A snapshot in a local cache of the Hub, in huggingface_hub's layout; without network."""
    repository = tmp_path / 'cache' / 'models--timm--resnet20'
    folder = repository / 'snapshots' / 'abc'
    folder.mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text('abc')
    save_file(STATE, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(CARD))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    return folder


@pytest.fixture
def photographs(tmp_path):
    """A folder of 10 classes, each with 2 images for training and 3 for evaluation."""
    images = np.uint8(127 + 50 * keyed.images(50, 32))
    for i, image in enumerate(images):
        split = 'train' if i < 20 else 'test'
        folder = tmp_path / 'photographs' / split / f'class{i % 10}'
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:02}.png'), image[:, :, ::-1])
    return tmp_path / 'photographs', images[20:], np.arange(20, 50) % 10


def pickled(folder, content):
    """Writes a file as torch.save does, without torch; arrays of float32 become its tensors."""
    names = {'torch._utils': '_rebuild_tensor_v2', 'torch': 'FloatStorage'}
    kinds = [type(name, (), {'__module__': module}) for module, name in names.items()]
    arrays = []

    class Storage(list):
        """The storage of one array."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage):
                return 'storage', kinds[1], str(thing[0]), 'cpu', arrays[thing[0]].size
            return None

        def reducer_override(self, thing):
            if not isinstance(thing, np.ndarray):
                return NotImplemented
            assert thing.dtype == np.float32
            arrays.append(np.ascontiguousarray(thing))
            strides = tuple(n // 4 for n in arrays[-1].strides)
            storage = Storage([len(arrays) - 1])
            hooks = collections.OrderedDict()
            return kinds[0], (storage, 0, thing.shape, strides, False, hooks)

    with pytest.MonkeyPatch.context() as patch:
        for (module, name), kind in zip(names.items(), kinds, strict=True):
            patch.setitem(sys.modules, module, types.SimpleNamespace(**{name: kind}))
        with zipfile.ZipFile(folder / 'script.pth', 'w') as file:
            with file.open('script/data.pkl', 'w') as entry:
                Pickler(entry, 2).dump(content)
            for key, array in enumerate(arrays):
                file.writestr(f'script/data/{key}', array.tobytes())
    return folder / 'script.pth'


def imported(source, workdir, *more):
    return import_weights.main(
        ['--model', NAME, '--from', str(source), '--workdir', str(workdir), *more]
    )


def test_imported_weights_are_evaluated_and_trained_on(snapshot, photographs, tmp_path, capsys):
    folder, images, labels = photographs
    workdir = tmp_path / 'run'
    assert imported('hf:timm/resnet20', workdir) == 0
    assert 'config.json' in capsys.readouterr().out
    data = f'--config.data.name=folder:{folder}'
    assert main.main(['--job', 'evaluate', '--workdir', str(workdir), data]) == 0
    (file,) = workdir.glob('evaluation-name=folder_*.json')  # the run's own data set is another
    found = json.loads(file.read_text())

    mean, std = np.float32([127.5, 63.75, 127.5]), np.float32([51, 51, 102])
    variables = weights.from_torch(STATE, NAME)
    apply = jit(models.create(NAME).apply)
    logits = apply(variables, (np.float32(images) - mean) / std)
    logits = np.float64(logits)
    chosen = np.log(np.exp(logits).sum(1)) - logits[np.arange(30), labels]
    assert found['test/top1'] == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert found['test/loss'] == pytest.approx(chosen.mean(), rel=1e-4)

    more = ['--config.duration=2 steps', '--config.batch=8', '--config.data.workers=0']
    assert main.main(['--workdir', str(workdir), data, *more]) == 0
    result = json.loads((workdir / 'result.json').read_text())
    assert result['step'] == 2
    assert result['test/loss'] != found['test/loss']


def test_where_a_checkpoint_is_found(snapshot, tmp_path):
    by_name = hub.locate('hf:timm/resnet20')
    assert by_name == hub.locate('hf:timm/resnet20@main')
    assert by_name.card == CARD
    assert hub.locate(str(snapshot)).file == snapshot / 'model.safetensors'
    alone = snapshot / 'model.safetensors'
    assert hub.locate(str(alone)) == hub.Located(alone, {})


def test_how_images_are_prepared():
    told = preparation('timm:dpn68', CARD, 224)
    assert (told.mean, told.std, told.crop) == ((127.5, 63.75, 127.5), (51, 51, 102), 1.0)
    half = preparation('torchvision:googlenet', {}, 224)
    assert half.mean == half.std == (127.5,) * 3
    imagenet = preparation('torchvision:resnet50', {}, 224)
    assert imagenet.mean == pytest.approx((123.675, 116.28, 103.53))
    assert preparation(NAME, {}, 32).crop == 1
    assert (told.interpolation, imagenet.interpolation) == ('bicubic', 'bilinear')
    assert preparation('timm:res2next50', {}, 224).interpolation == 'bilinear'
    smooth = {'pretrained_cfg': CARD['pretrained_cfg'] | {'interpolation': 'bilinear'}}
    assert preparation('timm:dpn68', smooth, 224).interpolation == 'bilinear'
    lite = preparation('timm:tf_efficientnet_lite2', {}, 260)
    assert (lite.mean, lite.std, lite.crop) == ((127.0,) * 3, (128.0,) * 3, 0.89)
    assert preparation('mobilenet_100_tf', {}, 224).mean == (127.5,) * 3
    dpn = preparation('timm:dpn92', {}, 224)
    assert dpn.mean == pytest.approx((124, 117, 104))
    assert dpn.std == pytest.approx((59.8802,) * 3)


@pytest.mark.parametrize(
    ('source', 'pattern'),
    [
        ('nothing.pth', 'nothing.pth: no such file'),
        ('hf:timm/nothing', 'cannot be reached.*Copy the snapshot'),
        ('hf:a/b/c', 'hf:a/b/c: .*repo'),
        ('.', 'expected one of model.safetensors'),
    ],
)
def test_what_is_not_there_is_one_line(source, pattern, snapshot, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(UserError, match=pattern) as caught:
        imported(source, tmp_path / 'run')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_weights_that_do_not_fit_leave_nothing(snapshot, tmp_path):
    changed = {**STATE, 'linear.weight': np.zeros((7, 64), np.float32)}
    save_file(changed, tmp_path / 'seven.safetensors')
    with pytest.raises(UserError, match=r'linear.weight is \(7, 64\)'):
        imported(tmp_path / 'seven.safetensors', tmp_path / 'run')
    del changed['linear.bias']
    changed['linear.bais'] = np.zeros(7, np.float32)
    save_file(changed, tmp_path / 'seven.safetensors')
    with pytest.raises(UserError, match=r'missing.*linear.bias.*unused.*linear.bais'):
        imported(tmp_path / 'seven.safetensors', tmp_path / 'run', '--config.model.num_classes=7')
    assert not (tmp_path / 'run').exists()
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mine').write_text('')
    with pytest.raises(UserError, match='not empty'):
        imported(snapshot, tmp_path / 'run')


def described(folder, **changed):
    """Writes a snapshot's card with some fields changed."""
    (folder / 'config.json').write_text(json.dumps({**CARD, **changed}))
    return folder


def with_classes(count, folder):
    """Writes the weights for a number of classes."""
    head = {'linear.weight': np.resize(STATE['linear.weight'], (count, 64))}
    head['linear.bias'] = np.arange(count, dtype=np.float32)
    save_file({**STATE, **head}, folder / 'model.safetensors')
    return folder / 'model.safetensors'


@pytest.mark.parametrize(
    ('card', 'pattern'),
    [
        ({'architecture': 'resnetblur50'}, "config.json: architecture is 'resnetblur50'.*only"),
        ({'architecture': 'resnet56_cifar'}, "'resnet56_cifar'.*choose resnet56_cifar"),
        ({'model_args': {'act_layer': 'gelu'}}, 'config.json: model_args has act_layer'),
        ({'num_classes': 7}, 'config.json: num_classes is 7, but the weights have 10'),
        ({'label_names': ['a', 'b']}, 'config.json: label_names names 2'),
        ({'pretrained_cfg': {'crop_mode': 'border'}}, 'config.json: crop_mode'),
        ({'pretrained_cfg': {'mean': [123.675, 116.28, 103.53]}}, 'config.json: mean .* 0 to 1'),
        ({'pretrained_cfg': {'std': [58.4, 57.1, 57.4]}}, 'config.json: std .* at most 1'),
        ({'pretrained_cfg': {'std': [True, True, True]}}, 'config.json: std'),
        ({'pretrained_cfg': {'input_space': 'BGR'}}, 'config.json: input_space .*--bgr'),
        ({'pretrained_cfg': {'input_range': [0, 255]}}, 'config.json: input_range'),
        ({'pretrained_cfg': {'input_size': [3, 10**9, 10**9]}}, 'config.json: .*image_size is 10'),
        ({'pretrained_cfg': {'crop_pct': 1e-9}}, 'config.json: .*eval_resize is'),
        ({'label_names': [*'abcdefghi', 'j\nk']}, "config.json: label_names has 'j"),
        ({'label_names': [*'abcdefghi', '']}, "config.json: label_names has ''"),
        (
            {
                'label_names': [*'abcdefghij'],
                'label2id': {x: -i for i, x in enumerate('abcdefghij')},
            },
            'config.json: label2id',
        ),
        (
            {'label_names': [*'abcdefghij'], 'id2label': dict(enumerate('jabcdefghi'))},
            'config.json: label_names and id2label have the same names in different orders',
        ),
    ],
)
def test_a_card_that_says_something_else_is_refused(card, pattern, snapshot, tmp_path):
    described(snapshot, **card)
    with pytest.raises(UserError, match=pattern) as caught:
        imported(snapshot, tmp_path / 'run')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()
    imported(snapshot / 'model.safetensors', tmp_path / 'run')  # the remedy in the message


def test_a_card_that_is_no_object(snapshot, tmp_path):
    for text in ('[1]', '{', 'null'):
        (snapshot / 'config.json').write_text(text)
        with pytest.raises(UserError, match=r'config\.json: expected'):
            imported(snapshot, tmp_path / 'run')


def test_the_number_and_the_names_of_the_classes_are_the_checkpoints(snapshot, tmp_path, capsys):
    """In evaluation on folders with another order, the names decide."""
    file = with_classes(12, snapshot)
    names = [str(i) for i in range(12)]  # as text, 10 sorts before 2
    described(snapshot, num_classes=12, label_names=names)
    workdir = tmp_path / 'run'
    assert imported(snapshot, workdir) == 0
    assert json.loads((workdir / 'classes.json').read_text()) == names
    assert json.loads((workdir / 'config.json').read_text())['model']['num_classes'] == 12
    assert '12 names of config.json (label_names)' in capsys.readouterr().out

    images = np.uint8(127 + 50 * keyed.images(12, 32))
    mean, std = np.float32([127.5, 63.75, 127.5]), np.float32([51, 51, 102])
    variables = weights.from_torch(weights.read(file), NAME, num_classes=12)
    net = models.create(NAME, num_classes=12)
    chosen = np.asarray(net.apply(variables, (np.float32(images) - mean) / std)).argmax(1)
    for i, image in enumerate(images):  # each image into the folder of its prediction
        folder = tmp_path / 'data' / names[chosen[i]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:02}.png'), image[:, :, ::-1])
    data = f'--config.data.name=folder:{tmp_path / "data"}'
    assert main.main(['--job', 'evaluate', '--workdir', str(workdir), data]) == 0
    (found,) = workdir.glob('evaluation*.json')
    assert '"test/top1": 100.0' in found.read_text() or '/top1": 100.0' in found.read_text()


def test_an_order_that_is_assumed_is_said(snapshot, tmp_path, capsys):
    with_classes(7, snapshot)
    assert imported(snapshot / 'model.safetensors', tmp_path / 'run') == 0
    printed = capsys.readouterr().out
    assert 'Classes: nothing names the 7 outputs; assumed: the order of the data set' in printed
    assert not (tmp_path / 'run' / 'classes.json').exists()
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert config['model']['num_classes'] == 7
    with pytest.raises(UserError, match=r'model.safetensors.*the model wants \(5, 64\)'):
        imported(snapshot, tmp_path / 'five', '--config.model.num_classes=5')


@pytest.mark.parametrize(
    'named',
    [
        {'class_to_idx': {'b': 1, 'c': 2, 'a': 3, 'd': 0}},
        {'classes': ['d', 'b', 'c', 'a']},
        {'idx_to_class': {1: 'b', 0: 'd', 2: 'c', 3: 'a'}},
        {'args': argparse.Namespace(class_names=('d', 'b', 'c', 'a'))},
        {'classes': 4, 'id2label': {'0': 'd', '1': 'b', '2': 'c', '3': 'a'}},
    ],
)
def test_names_of_classes_in_a_training_scripts_file(named, snapshot, tmp_path, capsys):
    with_classes(4, snapshot)
    file = pickled(tmp_path, {'state_dict': weights.read(snapshot / 'model.safetensors'), **named})
    assert imported(file, tmp_path / 'run') == 0
    assert json.loads((tmp_path / 'run' / 'classes.json').read_text()) == ['d', 'b', 'c', 'a']
    assert 'Classes: 4 names of script.pth (' in capsys.readouterr().out


def test_classes_of_imagenet_are_printed_with_their_words():
    config = import_weights.config_of(
        models.variant('resnet18'), preparation('torchvision:resnet18', {}, 224), {}
    )
    names, line = import_messages.classes((), '', 'net.pth', config)
    assert names == wnids()
    assert line.endswith('(n01440764 tench, n01443537 goldfish, n01484850 great white shark, ...).')
    own = (names[1], 'my fish', *names[2:])
    _, line = import_messages.classes(own, 'classes', 'net.pth', config)
    shown = 'n01443537 goldfish, my fish, n01484850 great white shark, ...'
    assert line == f'Classes: 1,000 names of net.pth (classes), in its order: {shown}'


def test_names_of_other_classes_than_the_weights_in_the_same_file(snapshot, tmp_path):
    with_classes(4, snapshot)
    tensors = weights.read(snapshot / 'model.safetensors')
    file = pickled(tmp_path, {'state_dict': tensors, 'classes': ['a', 'b']})
    with pytest.raises(UserError, match=r'script.pth: classes names 2 .* 4 outputs'):
        imported(file, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_the_chosen_set_of_weights_is_printed(snapshot, tmp_path, capsys):
    tensors = weights.read(snapshot / 'model.safetensors')
    whole = {'state_dict': tensors, 'state_dict_ema': tensors, 'optimizer': {'state': {}}}
    assert imported(pickled(tmp_path, whole), tmp_path / 'run') == 0
    line = "Weights: 'state_dict' of script.pth; --entry chooses another: "
    average = " The file has an average of the weights too, 'state_dict_ema': --ema takes it."
    assert f'{line}state_dict_ema.{average}\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('key', 'value'), [('linear.weight', np.nan), ('linear.bias', np.inf), ('bn1.running_var', -1)]
)
def test_weights_that_give_no_numbers_are_refused(key, value, snapshot, tmp_path):
    tensor = np.array(STATE[key])
    tensor.flat[-1] = value
    save_file({**STATE, key: tensor}, snapshot / 'model.safetensors')
    with pytest.raises(UserError, match=rf'NaN, infinity or a variance.*1 \({key}\)'):
        imported(snapshot, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_each_field_of_the_images_has_its_source(snapshot, tmp_path, capsys):
    sizes = {'input_size': [3, 32, 32], 'test_input_size': [3, 40, 40], 'test_crop_pct': 0.8}
    described(snapshot, pretrained_cfg={**CARD['pretrained_cfg'], **sizes, 'crop_pct': 0.875})
    imported(snapshot, tmp_path / 'run', '--config.data.std=(1,2,3)')
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith('Images: '))
    of_card, table, override = line.removeprefix('Images: ').split('. ')[0].split('; ')
    assert of_card == (
        'image_size 32, eval_resize 36 (crop_pct 0.875), mean (127.5, 63.75, 127.5) '
        '(from config.json)'
    )
    assert table == 'interpolation bilinear (from the table of pytorchcv on CIFAR)'
    assert override == 'std (1, 2, 3) (from --config)'
    assert line.endswith('--config.data.eval_size=40 --config.data.eval_resize=50.')

    imported(snapshot, tmp_path / 'test', '--config.data.image_size=40')
    data = json.loads((tmp_path / 'test' / 'config.json').read_text())['data']
    assert (data['image_size'], data['eval_resize']) == (40, 50)


def test_a_bare_file_says_which_other_variants_it_fits(snapshot, tmp_path, capsys):
    imported(snapshot / 'model.safetensors', tmp_path / 'run')
    assert f"Network: {NAME}, cls's names, 10 classes, as --model says." in capsys.readouterr().out
    assert weights.same_tensors('tf_efficientnet_lite0') == ['efficientnet_lite0']
    assert weights.same_tensors('wrn18_1') == ['resnet18']


def test_the_commands_that_are_printed_work(snapshot, photographs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'nothing prepared'))
    imported(snapshot, tmp_path / 'the run')
    on_folder, _, plain = capsys.readouterr().out.splitlines()[-3:]
    assert shlex.split(plain) == shlex.split(on_folder)[:-1]
    program, *arguments = shlex.split(on_folder.replace('DIR', str(photographs[0])))
    assert (program, arguments[:2]) == ('python', ['-m', 'cls.main'])
    assert main.main(arguments[2:]) == 0
    with_classes(7, snapshot)
    imported(snapshot / 'model.safetensors', tmp_path / 'seven')  # of no known data set
    assert 'on cifar' not in capsys.readouterr().out


def test_a_workdir_that_is_a_file_is_kept(tmp_path):
    (tmp_path / 'run').write_text('mine')
    with pytest.raises(UserError, match='run is not empty; choose another --workdir'):
        imported(tmp_path / 'any.pth', tmp_path / 'run')
    assert (tmp_path / 'run').read_text() == 'mine'


def test_a_training_scripts_file_of_another_network_is_refused(tmp_path):
    fixture = Path(weights.__file__).parents[2] / 'tests/weights/fixtures/script.pth.tar'
    with pytest.raises(UserError, match=r"script.pth.tar: architecture is 'resnet50.a1_in1k'"):
        imported(fixture, tmp_path / 'run')


def test_files_without_auxiliary_heads(tmp_path, capsys):
    """timm's Inception-v3 has none. With only a part of them, a file is damaged."""
    state = shapes_of('googlenet_bn')
    bare = {name: value for name, value in state.items() if not name.startswith('aux')}
    fitted = weights.fit(bare, 'googlenet_bn')
    assert fitted.fields == {'num_classes': 1000, 'aux_head': False}
    assert not any('aux' in name for name in fitted.variables['params'])
    some = {name: value for name, value in state.items() if not name.startswith('aux1')}
    with pytest.raises(UserError, match=r'missing.*aux1'):
        weights.fit(some, 'googlenet_bn')


def shapes_of(name):
    """Returns a state dict of zeros for a variant."""
    shapes = convert.shapes(models.create(name), models.variant(name))
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


def test_weights_of_caffe_are_converted_to_rgb(tmp_path, monkeypatch):
    """The logits for an RGB image equal those of the original weights for its BGR form."""
    written = []
    monkeypatch.setattr(
        import_weights, 'write', lambda config, variables, *_, **__: written.append(variables)
    )
    save_file(STATE, tmp_path / 'net.safetensors')
    for flags in ((), ('--bgr',)):
        imported(tmp_path / 'net.safetensors', tmp_path / 'run', *flags)
    images = keyed.images(2, 32)
    net = models.create(NAME)
    bgr, rgb = net.apply(written[0], images[..., ::-1]), net.apply(written[1], images)
    np.testing.assert_allclose(bgr, rgb, rtol=1e-4, atol=1e-4)


def test_colors_are_not_reversed_without_a_unique_first_layer():
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    with pytest.raises(UserError, match='2 convolutions .* expected exactly one'):
        colors.reverse_colors({'a': {'kernel': kernel}, 'b': {'kernel': kernel}})


def test_no_schedule_is_built_for_the_state_of_an_optimizer(tmp_path, monkeypatch):
    """The state does not depend on the learning rate, but has the form of one with a schedule."""

    def fails(spec):
        raise AssertionError('a schedule is built')

    config = configs.load('configs/resnet.py', (('schedule.name', 'step'),))
    setup = set_up(configs.load('configs/resnet.py'), jax.devices()[:1])
    variables = setup.initial()
    expected = setup.new_state(variables)[0].opt_state
    for name in schedule.SCHEDULES:
        monkeypatch.setitem(schedule.SCHEDULES, name, fails)
    import_weights.write(config, variables, tmp_path / 'run')
    state = StandardCheckpointer().restore(tmp_path / 'run' / 'checkpoints' / '0' / 'state')
    ours, theirs = map(jax.tree.leaves, (state['opt_state'], expected))
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('inside', ['', 'checkpoints', 'checkpoints/0', 'checkpoints/0/state'])
def test_a_run_folder_needs_no_import(inside, tmp_path):
    save_file(STATE, tmp_path / 'net.safetensors')
    run = tmp_path / 'run'
    assert imported(tmp_path / 'net.safetensors', run) == 0
    ways = rf"cls.load\('{run}'\), cls evaluate --workdir {run}, .* --config.init={run}\."
    with pytest.raises(UserError, match=f'^{run} is a run folder already, .*{ways}$'):
        imported(run / inside, tmp_path / 'again')
    assert not (tmp_path / 'again').exists()
    (run / 'config.json').unlink()  # the folder of any project
    with pytest.raises(UserError, match='expected one of model.safetensors'):
        imported(run / inside, tmp_path / 'again')


@pytest.mark.parametrize('seed', [0, 1, 2**31, 2**32 - 1])
def test_the_key_of_a_state_is_that_of_jax(seed):
    rng = first_state({'params': {}}, (), seed).rng
    expected = np.asarray(jax.random.key_data(jax.random.key(seed)))
    np.testing.assert_array_equal(rng, expected)
    assert rng.dtype == expected.dtype


COMPILED = """
import sys
import jax
from cls.tools import import_messages, import_weights
events = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
import_weights.main(['--from', sys.argv[1], '--workdir', sys.argv[2]])
assert any('jaxpr_trace' in name for name in events), events
assert not [name for name in events if 'backend_compile' in name], events
"""


@pytest.mark.parametrize('channels', [1, 4])
def test_weights_of_color_images_for_other_channels(tmp_path, capsys, channels):
    """`cls.load` adapts them alike; a run of such weights needs no further option."""
    file = tmp_path / 'net.safetensors'
    save_file(STATE, file)
    imported(file, tmp_path / 'run', f'--config.data.channels={channels}')
    assert 'First convolution: conv1/kernel adapted to images of' in capsys.readouterr().out
    first, second = cls.load(tmp_path / 'run'), cls.load(file, variant=NAME, in_chans=channels)
    assert first.preprocess == second.preprocess and first.preprocess.channels == channels
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    assert len(first.preprocess.mean) == 1
    with pytest.raises(UserError, match="in_chans is '2': expected a number of 1 or more"):
        cls.load(tmp_path / 'run', in_chans='2')


def test_weights_of_other_images_keep_their_channels(tmp_path):
    state = STATE | {'conv1.weight': np.repeat(STATE['conv1.weight'], 2, axis=1)}
    save_file(state, tmp_path / 'net.safetensors')
    imported(tmp_path / 'net.safetensors', tmp_path / 'run')
    assert cls.load(tmp_path / 'run').preprocess.channels == 6
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['data']['channels'] == 6
    imported(tmp_path / 'net.safetensors', tmp_path / 'other', '--config.data.channels=3')
    assert cls.load(tmp_path / 'other').preprocess.channels == 3


def test_an_import_compiles_nothing(tmp_path):
    """XLA takes memory and time, and an import computes nothing."""
    save_file(STATE, tmp_path / 'net.safetensors')
    arguments = [str(tmp_path / 'net.safetensors'), str(tmp_path / 'run')]
    done = subprocess.run(
        [sys.executable, '-c', COMPILED, *arguments], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr


# ------------------------------------------------------------------------------- recognition


def recognized(source, workdir, *more):
    return import_weights.main(['--from', str(source), '--workdir', str(workdir), *more])


def test_a_network_is_recognized_and_a_line_names_the_evidence(tmp_path, capsys):
    file = tmp_path / 'best.safetensors'
    save_file({f'model.{key}': value for key, value in STATE.items()}, file)
    recognized(file, tmp_path / 'run')
    assert f"Network: {NAME}, cls's names, 10 classes; by names and shapes of" in (
        capsys.readouterr().out
    )
    config = configs.from_json((tmp_path / 'run' / 'config.json').read_text(), [])
    assert (config.model.name, config.model.num_classes) == (NAME, 10)
    loaded, expected = (
        jax.tree.leaves_with_path(each)
        for each in (restored(tmp_path / 'run'), weights.from_torch(STATE, NAME)['params'])
    )
    for (path, value), (_, other) in zip(loaded, expected, strict=True):
        np.testing.assert_array_equal(value, other, err_msg=str(path))


def restored(folder):
    (step,) = (folder / 'checkpoints').glob('0/state')
    return StandardCheckpointer().restore(step.absolute())['params']


def half(state):
    return {key: value for key, value in state.items() if not key.startswith(('layer3', 'linear'))}


def headless(state):
    return {key: value for key, value in state.items() if not key.startswith('linear')}


@pytest.mark.parametrize(
    ('change', 'pattern'),
    [
        (half, r'resnet20_cifar \(a part of it: the file lacks'),
        (lambda state: {f'b{key}': v for key, v in state.items()}, 'under other names'),
        (headless, '--part backbone` takes'),
        (lambda state: state | {'neck.w': np.zeros(3, np.float32)}, 'further tensors: 1 .neck.w.'),
    ],
)
def test_a_file_of_no_network_leaves_nothing(change, pattern, tmp_path):
    file = tmp_path / 'net.safetensors'
    save_file(change(STATE), file)
    with pytest.raises(UserError, match=pattern) as error:
        recognized(file, tmp_path / 'run')
    assert '\n' not in str(error.value)
    assert str(error.value).startswith(f'{file}: ')
    assert not (tmp_path / 'run').exists()


def test_a_model_that_the_evidence_contradicts_is_refused(tmp_path):
    file = tmp_path / 'net.safetensors'
    save_file(STATE, file)
    arguments = ['--model', 'resnet32_cifar', '--from', str(file), '--workdir', str(tmp_path / 'a')]
    with pytest.raises(UserError, match=f"they are the tensors of {NAME}, cls's names, 10"):
        import_weights.main(arguments)
    file = tmp_path / 'tf_efficientnet_b0-1234.safetensors'
    save_file(shapes_of('efficientnet_b0'), file)
    arguments[1], arguments[3] = 'efficientnet_b0', str(file)
    with pytest.raises(UserError, match='name says that this is tf_efficientnet_b0, not eff'):
        import_weights.main(arguments)
    assert not (tmp_path / 'a').exists()


def test_a_backbone_is_for_fine_tuning_and_is_not_evaluated(photographs, tmp_path, capsys):
    folder, file = tmp_path / 'run', tmp_path / 'detector.safetensors'
    detector = {f'backbone.{key}': v for key, v in STATE.items() if not key.startswith('linear')}
    save_file(detector | {'head.weight': np.zeros((3, 3), np.float32)}, file)
    recognized(file, folder, '--part', 'backbone')
    out = capsys.readouterr().out
    assert 'no classifier' in out
    assert 'Left out, as no part of the network: head.weight.' in out
    assert f'--config.init={shlex.quote(str(folder))}' in out
    assert 'fc' not in restored(folder)

    images = f'folder:{photographs[0]}'
    with pytest.raises(UserError, match='no classifier .cls import --part'):
        main.main(['--job', 'evaluate', '--workdir', str(folder), f'--config.data.name={images}'])
    config = configs.from_json((folder / 'config.json').read_text(), [])
    config.init, config.data.name, config.batch = str(folder), images, 8
    variables = train.initial_weights(set_up(config))
    np.testing.assert_array_equal(
        variables['params']['conv1']['kernel'], restored(folder)['conv1']['kernel']
    )
    assert 'which the weights lack' in capsys.readouterr().out


def test_auxiliary_heads_are_drawn_on_request(tmp_path, capsys):
    bare = {k: v for k, v in shapes_of('googlenet_bn').items() if not k.startswith('aux')}
    save_file(bare, tmp_path / 'googlenet.safetensors')
    recognized(tmp_path / 'googlenet.safetensors', tmp_path / 'a', '--config.model.aux_head=True')
    assert 'drawn, as model.aux_head asks for them' in capsys.readouterr().out
    assert any(name.startswith('aux') for name in restored(tmp_path / 'a'))


def test_a_network_for_gray_images_is_imported_as_one(tmp_path, capsys):
    gray = STATE | {'conv1.weight': STATE['conv1.weight'].sum(1, keepdims=True)}
    save_file(gray, tmp_path / 'model.safetensors')
    card = CARD | {'model_args': {'in_chans': 1}}
    (tmp_path / 'config.json').write_text(json.dumps(card))
    recognized(tmp_path, tmp_path / 'run')
    out = capsys.readouterr().out
    assert 'Channels: the first convolution takes 1, not three: images of 1. Their mean' in out
    images = np.uint8(np.random.default_rng(0).integers(256, size=(2, 32, 32, 1)))
    mean, std = 127.5 * 2.5 / 3, 51 * 4 / 3
    color = models.create(NAME).apply(
        weights.from_torch(STATE, NAME), np.repeat((np.float32(images) - mean) / std, 3, axis=3)
    )
    for where in (tmp_path, tmp_path / 'run'):
        np.testing.assert_allclose(load(where)(images), jax.nn.softmax(color), atol=1e-5)
    (tmp_path / 'config.json').write_text(json.dumps(CARD | {'model_args': {'in_chans': 4}}))
    with pytest.raises(UserError, match='config.json: in_chans is 4, but .* takes 1'):
        recognized(tmp_path, tmp_path / 'other')
    assert not (tmp_path / 'other').exists()
