"""config.init: loaded and new variables, refusals, and that it happens once."""

import json
import re
import weakref

import cv2
import jax
import numpy as np
import pytest
from golden import keyed, rows
from PIL import Image
from safetensors.numpy import save_file

from cls import models, train, weights
from cls.config import load as configs
from cls.errors import UserError
from cls.models.registry import introspection
from cls.models.registry.init import init
from cls.run.checkpoint_files import newest_whole
from cls.setup import set_up
from cls.tools import import_weights
from cls.weights import pretrained

pytestmark = pytest.mark.usefixtures('quick_programs')

NAME = 'resnet20_cifar'
ROW = rows.read('resnet')[f'restated:{NAME}']
SHORT = {'stage_sizes': (1, 1, 1)}  # the first block of each stage: faster to trace
STATE = {
    name: value
    for name, value in keyed.state_dict(ROW.tensors, ROW.gain).items()
    if not re.match(r'layer\d\.[12]\.', name)
}
CIFAR = (('data.mean', '(125.3, 123.0, 113.9)'), ('data.std', '(51.6, 50.8, 51.3)'))


@pytest.fixture
def file(tmp_path):
    """Weights of ten classes."""
    save_file(STATE, tmp_path / 'net.safetensors')
    return tmp_path / 'net.safetensors'


def config_of(source, *overrides):
    """Returns the config of a run of 32-pixel color images that starts from `source`."""
    fields = {
        'init': str(source),
        'data.name': 'synthetic',
        'data.num_classes': '10',
        'data.image_size': '32',
        'data.train_crop': 'none',
        'batch': '8',
        'model.stage_sizes': str(SHORT['stage_sizes']),
        **dict(CIFAR),
        **dict(overrides),
    }
    return configs.load('configs/resnet.py', tuple(fields.items()))


def made(source, *overrides):
    """Returns the setup of that run."""
    return set_up(config_of(source, *overrides), jax.devices()[:1])


def flat(variables):
    return {
        '/'.join(entry.key for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }


def small(values):
    """Returns the initial values of a new classifier, from newly drawn ones."""
    return values * np.float32(0.01)


def test_the_first_convolution_is_adapted_to_gray_images(file, capsys):
    gray = (('data.name', 'digits'), ('data.mean', '(120.7,)'), ('data.std', '(51.2,)'))
    loaded = flat(train.initial_weights(made(file, *gray)))
    taken = flat(weights.from_torch(STATE, NAME, **SHORT))
    for name, value in loaded.items():
        stem = name == 'params/conv1/kernel'
        expected = taken[name].sum(axis=2, keepdims=True) if stem else taken[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)
    line = capsys.readouterr().out
    assert 'conv1/kernel adapted to images of 1 channel(s): the sum over its 3' in line
    assert 'warning' not in line


def test_all_is_taken_for_the_same_number_of_classes(file, capsys):
    loaded, expected = (
        flat(train.initial_weights(made(file))),
        flat(weights.from_torch(STATE, NAME, **SHORT)),
    )
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    assert capsys.readouterr().out == (
        f'init: {len(expected)} tensors taken, all of them, the rows of the classifier in their '
        'order (the weights do not name their classes)\n'
    )


def test_with_another_number_of_classes_the_head_is_new_and_small(file, capsys):
    setup = made(file, ('data.num_classes', '7'))
    variables = train.initial_weights(setup)
    loaded, fresh = flat(variables), flat(setup.initial())
    taken = flat(weights.from_torch(STATE, NAME, **SHORT))
    for name, value in loaded.items():
        new = name.startswith('params/fc/')
        expected = small(fresh[name]) if new else taken[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)
    line = f'init: {len(taken) - 2} tensors taken; new: fc/bias, fc/kernel (7 classes, not 10)\n'
    assert capsys.readouterr().out == line
    state, _ = setup.new_state(variables)
    np.testing.assert_array_equal(state.params['conv1']['kernel'], taken['params/conv1/kernel'])


@pytest.fixture
def snapshot(tmp_path):
    """Weights of ten named classes; `photographs` has three of them and another one."""
    folder = tmp_path / 'snapshot'
    folder.mkdir()
    save_file(STATE, folder / 'model.safetensors')
    names = ['owl', *(f'other {i}' for i in range(7)), 'bee', 'ant']
    (folder / 'config.json').write_text(json.dumps({'label_names': names}))
    return folder


@pytest.fixture
def photographs(tmp_path):
    for name in ('ant', 'bee', 'cow', 'owl'):
        for split in ('train', 'val'):
            folder = tmp_path / 'photographs' / split / name
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / '0.png'), np.zeros((32, 32, 3), np.uint8))
    return ('data.name', f'folder:{tmp_path / "photographs"}'), ('data.num_classes', '0')


def test_rows_of_the_head_follow_the_names_of_the_classes(snapshot, photographs, capsys):
    setup = made(snapshot, *photographs, ('batch', '4'))
    loaded, fresh = flat(train.initial_weights(setup)), flat(setup.initial())
    for leaf, tensor in (('kernel', 'linear.weight'), ('bias', 'linear.bias')):
        found = np.moveaxis(loaded[f'params/fc/{leaf}'], -1, 0)
        drawn = np.moveaxis(fresh[f'params/fc/{leaf}'], -1, 0)
        for row, place in ((0, 9), (1, 8), (3, 0)):  # ant, bee, owl
            np.testing.assert_array_equal(found[row], STATE[tensor][place])
        np.testing.assert_array_equal(found[2], small(drawn[2]))  # cow
    assert (
        '; but the rows of 3 classes of the same names: ant, bee, owl\n' in capsys.readouterr().out
    )


def test_a_head_of_other_names_is_new_even_for_the_same_number(snapshot, photographs, capsys):
    names = {'label_names': [f'other {i}' for i in range(4)]}
    (snapshot / 'config.json').write_text(json.dumps(names))
    four = {'linear.weight': STATE['linear.weight'][:4], 'linear.bias': STATE['linear.bias'][:4]}
    save_file({**STATE, **four}, snapshot / 'model.safetensors')
    setup = made(snapshot, *photographs, ('batch', '4'))
    loaded, fresh = flat(train.initial_weights(setup)), flat(setup.initial())
    np.testing.assert_array_equal(loaded['params/fc/kernel'], small(fresh['params/fc/kernel']))
    assert 'new: fc/bias, fc/kernel (other classes)\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('card', 'pattern'),
    [
        ({'architecture': 'resnet56_cifar'}, "config.json: architecture is 'resnet56_cifar'"),
        ({'label_names': ['a']}, 'config.json: label_names names 1'),
        ({'pretrained_cfg': {'mean': 'x'}}, 'config.json: mean is'),
    ],
)
def test_weights_of_another_network_by_their_card_are_refused(snapshot, card, pattern):
    (snapshot / 'config.json').write_text(json.dumps(card))
    with pytest.raises(UserError, match=pattern) as caught:
        train.initial_weights(made(snapshot))
    assert '\n' not in str(caught.value)


def test_a_body_without_a_head_and_with_a_prefix(tmp_path, capsys):
    body = {f'backbone.{k}': v for k, v in STATE.items() if not k.startswith('linear')}
    save_file({**body, 'criterion.weight': np.ones(2, 'f4')}, tmp_path / 'body.safetensors')
    setup = made(tmp_path / 'body.safetensors')
    loaded, fresh = flat(train.initial_weights(setup)), flat(setup.initial())
    np.testing.assert_array_equal(loaded['params/fc/kernel'], small(fresh['params/fc/kernel']))
    kernel = np.moveaxis(STATE['conv1.weight'], (0, 1), (3, 2))
    np.testing.assert_array_equal(loaded['params/conv1/kernel'], kernel)
    assert (
        'new: fc/bias, fc/kernel (which the weights lack); left out, as no part of the network: '
        'criterion.weight\n'
    ) in capsys.readouterr().out


def test_only_heads_are_drawn(file, monkeypatch):
    drawn, draw = [], pretrained.draw
    monkeypatch.setattr(
        pretrained, 'draw', lambda *args: drawn.append(draw(*args)) or dict(drawn[-1])
    )
    train.initial_weights(made(file))
    assert [values.keys() for values in drawn] == [
        {('params', 'fc', 'kernel'), ('params', 'fc', 'bias')}
    ]


def _tree(**leaves):
    return {'params': {path: {'kernel': np.full(shape, 1.0)} for path, shape in leaves.items()}}


def test_auxiliary_heads_that_one_side_lacks():
    body, head = {'conv': (3, 3), 'fc': (3, 2)}, frozenset({'fc/kernel', 'aux/kernel'})
    with_heads = _tree(**body, aux=(3, 2))
    options = {'head': head, 'source': 'x', 'auxiliary': frozenset({'aux/kernel'})}
    variables, new, _ = pretrained.graft(_tree(**body), with_heads, **options)
    assert new == ['aux/kernel'] and variables['params'].keys() == {'conv', 'fc', 'aux'}
    with pytest.raises(UserError, match='1 without a place .aux/kernel'):
        pretrained.graft(with_heads, _tree(**body), **options)
    trimmed, dropped = pretrained._trimmed(with_heads, _tree(**body), options['auxiliary'])
    assert trimmed['params'].keys() == {'conv', 'fc'}
    assert dropped == ['aux/kernel']


def of_classes(tmp_path, *names):
    """Returns a folder of images of these classes."""
    for split in ('train', 'val'):
        for name in names:
            (tmp_path / 'images' / split / name).mkdir(parents=True)
            for index in range(4):
                Image.new('RGB', (8, 8)).save(tmp_path / 'images' / split / name / f'{index}.png')
    return ('data.name', f'folder:{tmp_path / "images"}'), ('data.num_classes', '0')


def run_of(tmp_path, *names):
    """Returns (a run folder with weights of these classes, its variables)."""
    fields = (('model.num_classes', str(len(names))), ('model.stage_sizes', '(1, 1, 1)'))
    config = configs.load('configs/resnet.py', fields)
    state = dict(STATE)
    state['linear.weight'] = np.arange(len(names) * 64, dtype=np.float32).reshape(-1, 64)
    state['linear.bias'] = np.arange(len(names), dtype=np.float32)
    given = weights.from_torch(state, NAME, num_classes=len(names), **SHORT)
    import_weights.write(config, given, tmp_path / 'run', classes=names)
    return tmp_path / 'run', given


def test_a_new_classifier_has_small_logits():
    """EfficientNet's is drawn for 1,000 classes; for three it would outweigh some steps."""
    model = models.create('tf_efficientnet_lite0', num_classes=3)
    head = introspection.head(model, 32, 3)
    fresh = init(model, 0, 32)
    given = jax.tree.map(np.asarray, init(models.create('tf_efficientnet_lite0'), 1, 32))
    variables, new, _ = pretrained.graft(given, fresh, head, 'there')
    (kernel,) = (x for name, x in flat(variables).items() if name.partition('/')[2] == new[-1])
    features = np.random.default_rng(0).uniform(0, 2, (8, len(kernel)))
    assert new[-1].endswith('kernel')
    assert np.abs(features @ kernel).max() < 1


def test_the_same_number_of_classes_with_other_names_is_new(tmp_path, capsys):
    """In another order each class keeps its own row; names decide, not the order of outputs."""
    source, given = run_of(tmp_path, 'dog', 'cat')
    setup = made(source, *of_classes(tmp_path, 'cat', 'dog'))
    loaded = train.initial_weights(setup)['params']['fc']
    np.testing.assert_array_equal(loaded['kernel'], given['params']['fc']['kernel'][..., ::-1])
    assert 'rows of 2 classes of the same names: cat, dog' in capsys.readouterr().out


def test_more_names_than_rows_are_refused(tmp_path):
    source, _ = run_of(tmp_path, 'dog', 'cat')
    (source / 'classes.json').write_text('["dog", "cat", "eel"]')
    with pytest.raises(UserError, match='names 3 classes, and its classifier has 2'):
        train.initial_weights(made(source, *of_classes(tmp_path, 'cat', 'dog')))


def test_a_run_gives_the_average_of_its_newest_complete_checkpoint(tmp_path, capsys):
    """A line warns if its images were normalized in another way."""
    source = tmp_path / 'run'
    config = configs.load(
        'configs/resnet.py', (('model.num_classes', '10'), ('ema', '0.9'), ('data.mean', '(1,)'))
    )
    given = weights.from_torch(STATE, NAME, **SHORT)
    average = jax.tree.map(lambda x: x + 1, given)
    import_weights.write(config, given, source, average)
    loaded = flat(train.initial_weights(made(source)))
    for name, value in flat(average).items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
    *_, warning = capsys.readouterr().out.splitlines()
    assert 'config.json' in warning
    assert "'--config.data.mean=(1,)' '--config.data.std=(96,)'" in warning

    damaged = next(p for p in (source / 'checkpoints' / '0' / 'state').rglob('*') if p.is_file())
    damaged.write_bytes(b'')
    with newest_whole(source / 'checkpoints') as found:
        assert found is None
    with pytest.raises(UserError, match='no checkpoint that can be read'):
        train.initial_weights(made(source))
    with pytest.raises(UserError, match=f'{NAME}, this run is of resnet56_cifar'):
        train.initial_weights(made(source, ('model.name', 'resnet56_cifar')))


def test_a_warning_on_the_normalization_has_the_overrides(file, capsys):
    train.initial_weights(made(file, ('data.mean', '(0,)'), ('data.std', '(255,)')))
    *_, warning = capsys.readouterr().out.splitlines()
    assert warning.startswith('warning: ')
    options = [option.strip("'") for option in warning.split(' for the same one, ')[1].split("' '")]
    overrides = configs.parse_overrides(options)  # they can be copied
    assert [name for name, _ in overrides] == ['data.mean', 'data.std']
    train.initial_weights(made(file, *overrides))
    assert 'warning' not in capsys.readouterr().out


def test_what_does_not_fit_is_one_line(tmp_path, file):
    def refused(pattern, *overrides, **changed):
        tensors = {name: value for name, value in {**STATE, **changed}.items() if value is not None}
        save_file(tensors, tmp_path / 'other.safetensors')
        with pytest.raises(UserError, match=pattern) as caught:
            train.initial_weights(made(tmp_path / 'other.safetensors', *overrides))
        assert '\n' not in str(caught.value)

    extra = np.zeros(3, np.float32)
    refused('unused.*more.weight', **{'more.weight': extra})
    refused('missing.*conv1.weight', **{'conv1.weight': None})
    refused('conv1.weight is', **{'conv1.weight': np.zeros((16, 3, 5, 5), np.float32)})
    refused('linear.bias', ('data.num_classes', '7'), **{'linear.bias': extra})
    with pytest.raises(UserError, match='no such file'):
        train.initial_weights(made(tmp_path / 'nothing.pth'))


def test_a_mistake_writes_nothing_and_a_run_that_continues_does_not_look(
    file, tmp_path, monkeypatch
):
    config = config_of(tmp_path / 'nothing.pth')
    with pytest.raises(UserError, match='no such file'):
        train.job(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()

    given = []

    def fit(setup, workdir, initial, *_):
        variables = initial() if initial else None
        given.append(jax.tree.map(np.copy, variables))
        leaves = [weakref.ref(leaf) for leaf in jax.tree.leaves(variables)]
        del variables  # as when they are on the devices
        assert not any(leaf() is not None for leaf in leaves)

    monkeypatch.setattr(train, 'fit', fit)
    begun = config_of(file)
    train.job(begun, tmp_path / 'run')
    (tmp_path / 'run' / 'checkpoints' / '3').mkdir(parents=True)
    file.unlink()
    train.job(begun, tmp_path / 'run')
    assert given[0]['params']['conv1']['kernel'].shape == (3, 3, 3, 16)
    assert given[1] is None
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['init'] == str(file)


HEADS = {
    'vgg11': {'classifier.6/kernel', 'classifier.6/bias'},
    'squeezenet1_1': {'classifier.1/kernel', 'classifier.1/bias'},
    'googlenet': {f'{at}/{x}' for at in ('fc', 'aux1/fc2', 'aux2/fc2') for x in ('kernel', 'bias')},
    'rir18_wide_cifar': {
        'output.final_conv/conv/kernel',
        *(f'output.final_conv/bn/{x}' for x in ('scale', 'bias', 'mean', 'var')),
    },
}


@pytest.mark.parametrize('name', HEADS)
def test_the_head_has_the_shapes_that_depend_on_the_number_of_classes(name):
    variant = models.variant(name)
    assert introspection.head(models.create(name), variant.input_size, 3) == HEADS[name]


@pytest.mark.sweep
@pytest.mark.parametrize('name', models.names())
def test_every_network_has_a_head(name):
    """Each classifier has one kernel with an output for each class."""
    net, size = models.create(name), models.variant(name).input_size
    variables = models.abstract_variables(net, size)
    shapes = {path.split('/', 1)[1]: leaf.shape for path, leaf in flat(variables).items()}
    head = introspection.head(net, size, 3)
    assert all(shapes[path][-1] == net.num_classes for path in head)
    kernels = {path for path in shapes if path.endswith('kernel')}
    classifiers = {path for path in kernels if shapes[path][-1] == net.num_classes}
    assert {path for path in head if path.endswith('kernel')} <= classifiers
    auxiliary = sum('aux' in path.lower() for path in head if path.endswith('kernel'))
    assert len(head & kernels) == 1 + auxiliary


@pytest.mark.parametrize('channels', [1, 3])
def test_depthwise_kernels(channels):
    """One for each block of Table 1; the first convolution of gray images is not one."""
    found = introspection.depthwise(models.create('mobilenet_025'), 64, channels)
    assert len(found) == 13
    assert all('conv_dw' in path for path in found)


def test_sizes_that_shape_parameters():
    assert 'InnerProduct1/kernel' in introspection.sized(
        models.create('metaqnn_1_cifar'), 32, 24, 3
    )
    assert not introspection.sized(models.create(NAME), 32, 24, 3)


def test_hidden_layers_of_a_classifier_that_weights_lack_are_new():
    """A backbone of VGG has no `classifier` at all; its last layer alone is made small."""
    layers = [f'features.{i}' for i in range(10)]
    kernels = {name: {'kernel': np.ones((1, 1, 2, 2), np.float32)} for name in layers}
    top = {f'classifier.{i}': {'kernel': np.ones((2, 2), np.float32)} for i in (0, 3, 6)}
    given, fresh = {'params': kernels}, {'params': kernels | top}
    head = frozenset({'classifier.6/kernel'})
    hidden = pretrained._hidden('vgg11', given, fresh, head)
    assert hidden == {'classifier.0/kernel', 'classifier.3/kernel'}
    variables, new, _ = pretrained.graft(given, fresh, head, 'file', hidden=hidden)
    assert new == ['classifier.0/kernel', 'classifier.3/kernel', 'classifier.6/kernel']
    assert variables['params']['classifier.0']['kernel'][0, 0] == 1
    assert variables['params']['classifier.6']['kernel'][0, 0] == np.float32(0.01)
    # Without the last layer alone, the others are those of the file.
    without = {'params': kernels | {name: top[name] for name in ('classifier.0', 'classifier.3')}}
    assert not pretrained._hidden('vgg11', without, fresh, head)
    assert not pretrained._hidden('vgg11', fresh, fresh, head)
