"""Configs: loading, overriding, comparing; and every arm of every config as far as no data goes."""

import collections
import functools
import json
import re

import jax
import jax.numpy as jnp
import pytest
import zoo
from arms import ARMS, FILES, members
from flax import traverse_util
from ml_collections import ConfigDict

from cls.config import durations
from cls.config import load as configs
from cls.errors import UserError
from cls.nn.init import shapes_only
from cls.steps.optim import OptimSpec, make_optimizer
from cls.steps.schedule import ScheduleSpec, make_schedule

RESNET = 'configs/resnet.py'


CLASSES = {'digits': 10, 'tfds:cifar10': 10, 'tfds:cifar100': 100}
CLASSES |= {'tfds:svhn_cropped': 10, 'tfds:mnist': 10}
EXAMPLES = {'digits': 1_500, 'tfds:cifar10': 50_000, 'tfds:cifar100': 50_000}
EXAMPLES |= {'tfds:svhn_cropped': 73_257 + 531_131, 'tfds:mnist': 60_000}


def fails(pattern, *args, call=configs.load):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert '\n' not in message
    return message


def override(*pairs, spec=RESNET):
    return configs.load(spec, pairs)


# ---------------------------------------------------------------------------------- loading


def test_loading_gives_the_file_and_its_argument():
    assert configs.load(RESNET).data.name == 'digits'
    assert configs.load(f'{RESNET}:cifar100').data.name == 'tfds:cifar100'
    chosen = configs.load(f'{RESNET}:imagenet2012,variant=resnet152')
    assert (chosen.data.name, chosen.model.name) == ('tfds:imagenet2012', 'resnet152')
    assert configs.load(f'{RESNET}:folder=/a/b').data.name == 'folder:/a/b'
    assert configs.load(f'{RESNET}:folder=/a,variant=resnet18').model.name == 'resnet18'


def test_loading_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load(RESNET).model.name == 'resnet20_cifar'
    own = tmp_path / 'own.py'
    own.write_text(
        'from cls.recipes import common\n'
        'def get_config(argument):\n'
        '    c = common.base()\n'
        '    c.model.name = argument\n'
        '    return c\n'
    )
    assert configs.load('own.py:abc').model.name == 'abc'
    assert configs.load(f'{own}:abc:d').model.name == 'abc:d'
    (tmp_path / 'none.py').write_text('')
    fails('get_config', 'none.py')


def test_mistakes_in_the_spec_are_one_line_with_the_nearest():
    fails(r"no config 'configs/resnt.py'.*Did you mean .*configs/resnet.py", 'configs/resnt.py')
    fails(r"'cifar11'.*cifar10\b.*Did you mean cifar10", f'{RESNET}:cifar11')
    fails(r'variant=NAME.*Did you mean variant', f'{RESNET}:cifar10,varient=resnet20_cifar')
    fails('folder=DIR', f'{RESNET}:folder')
    fails('folder=DIR', f'{RESNET}:folder=')
    fails('write one of', f'{RESNET}:cifar10,cifar100')


def test_a_config_is_locked():
    config = configs.load(RESNET)
    assert config.is_locked
    with pytest.raises((KeyError, AttributeError)):
        config.optim.learning_rate = 1.0
    with pytest.raises((KeyError, AttributeError)):
        config.something = 1
    assert configs.from_json(configs.to_json(config)).is_locked


# -------------------------------------------------------------------------------- overriding


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('batch', '256', 256),
        ('optim.lr', '0.5', 0.5),
        ('optim.lr', '1', 1.0),
        ('optim.lr', '1e-3', 1e-3),
        ('optim.nesterov', 'true', True),
        ('optim.nesterov', 'False', False),
        ('data.scale', '(1, 2)', (1, 2)),
        ('data.scale', '[1, 2]', (1, 2)),
        ('data.mean', '0.5', (0.5,)),
        ('schedule.milestones', '10 epochs', ('10 epochs',)),
        ('schedule.milestones', '("1 epochs", "2 epochs")', ('1 epochs', '2 epochs')),
        ('schedule.milestones', '()', ()),
        ('data.name', 'synthetic', 'synthetic'),
        ('data.eval_split', '1', '1'),
        ('profile', 'None', 'None'),
        ('model.name', 'resnet32_cifar', 'resnet32_cifar'),
        ('model.num_classes', '7', 7),  # not in the config: read as it looks
        ('model.widths', '(1, 2, 3)', (1, 2, 3)),
        ('model.cifar', 'True', True),
        ('model.something', 'None', None),
        ('model.something', 'a text', 'a text'),
    ],
)
def test_overrides_have_the_type_of_the_field(name, text, expected):
    value = dict(configs.flatten(override((name, text))))[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ('name', 'text', 'pattern'),
    [
        ('batch', '1.5', r'config\.batch is an int \(now 64\).*1\.5'),
        ('batch', 'many', 'config.batch'),
        ('batch', 'True', 'config.batch'),
        ('optim.lr', 'fast', 'config.optim.lr is a float'),
        ('optim.lr', 'True', 'config.optim.lr'),
        ('optim.nesterov', '1', 'config.optim.nesterov is a bool'),
        ('optim.nesterov', 'maybe', 'config.optim.nesterov'),
        ('optim.learning', '1', r"no field 'optim.learning'"),
        ('optim.lrr', '1', r"'optim.lrr'.*Did you mean .*optim\.lr\b"),
        ('otpim.lr', '1', r"'otpim.lr'.*Did you mean .*optim\.lr\b"),
        ('bach', '1', r"'bach'.*Did you mean batch"),
        ('zzzz', '1', '`cls print`'),
        ('optim', '1', r'config.optim is a group.*lr'),
        ('optim.lr.x', '1', 'no field'),
        ('batch.size', '1', 'no field'),
        ('', '1', 'no field'),
    ],
)
def test_overrides_that_do_not_fit_are_one_line(name, text, pattern):
    fails(pattern, RESNET, [(name, text)])


def test_arguments_that_are_overrides():
    read = configs.parse_overrides(['--config.optim.lr=0.5', '--config.data.name=a=b'])
    assert read == [('optim.lr', '0.5'), ('data.name', 'a=b')]
    for argument in ('--config.optim.lr', 'optim.lr=1', '--wrkdir=x'):
        fails(re.escape(repr(argument)), [argument], call=configs.parse_overrides)
    fails('Did you mean --workdir', ['--wrkdir=x'], call=configs.parse_overrides)


def test_mistakes_in_the_model_are_one_line_with_the_nearest():
    for pairs, pattern in (
        ([('model.name', 'resnet20_cifr')], r"'resnet20_cifr'.*mean resnet20_cifar\b"),
        ([('model.num_clases', '3')], r"'num_clases'.*num_classes"),
        ([('model.', '3')], 'no field'),
    ):
        fails(pattern, override(*pairs), 10, call=configs.create_model)
    model = configs.create_model(override(('model.widths', '(2, 2, 2)')), 3)
    assert (model.num_classes, model.widths) == (3, (2, 2, 2))
    assert configs.create_model(override(('model.num_classes', '9')), 3).num_classes == 9


# --------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize('spec', ARMS)
def test_json_round_trip(spec):
    config = configs.load(spec)
    text = configs.to_json(config)
    again = configs.from_json(text)
    assert dict(configs.flatten(again)) == dict(configs.flatten(config))
    for (name, x), (_, y) in zip(configs.flatten(config), configs.flatten(again), strict=True):
        assert type(x) is type(y), name
    assert configs.to_json(again) == text
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert configs.identity(again) == configs.identity(config)
    assert configs.differences(text, configs.to_json(again)) == ''


def test_from_json_takes_overrides():
    text = configs.to_json(configs.load(RESNET))
    assert configs.from_json(text, [('optim.lr', '3')]).optim.lr == 3.0
    fails('optim.lr', text, [('optim.lrr', '3')], call=configs.from_json)


def test_flatten():
    config = ConfigDict({'b': 1, 'a': {'d': (1,), 'c': ''}})
    assert list(configs.flatten(config)) == [('a.c', ''), ('a.d', (1,)), ('b', 1)]


def test_identity_and_differences():
    one = override()
    fields = {'profile': '3:5', 'data.workers': '4', 'mesh.fsdp': '2', 'remat': 'block'}
    outward = override(*fields.items())
    assert configs.identity(one) == configs.identity(outward)
    assert configs.differences(configs.to_json(one), configs.to_json(outward)) == ''
    other = override(('optim.lr', '0.2'), ('model.widths', '(1, 2, 3)'))
    assert configs.identity(one) != configs.identity(other)
    told = configs.differences(configs.to_json(one), configs.to_json(other))
    assert told == 'model.widths (None, now (1, 2, 3)), optim.lr (0.1, now 0.2)'


@pytest.mark.parametrize('field', ['seed', 'batch', 'accumulate', 'duration', 'ema'])
def test_identity_sees(field):
    config = override()
    value = dict(configs.flatten(config))[field]
    changed = {'duration': '7 epochs', 'ema': '0.5'}.get(field) or str(value + 1)
    assert configs.identity(override((field, changed))) != configs.identity(config)


# -------------------------------------------------------------------------------- every arm


@functools.cache
def abstract_params(model, size, channels):
    """The shapes of the parameters of all kinds in a network; logits are as wide as it says."""
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    with shapes_only():
        logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, model.num_classes)
    of_kind = collections.defaultdict(list)
    for path, shape in traverse_util.flatten_dict(variables['params']).items():
        of_kind[path[-1], shape.ndim].append((path, shape))
    # An optimizer does not mind how many there are: the first and the last of each kind.
    some = [x for kind in of_kind.values() for x in (kind[0], kind[-1])]
    return traverse_util.unflatten_dict(dict(some))


# The arms finetune share their recipe, and their models with the arms imagenet2012.
SHARED = [spec for spec in ARMS if ':finetune' in spec][1:]


@pytest.mark.parametrize('spec', [spec for spec in ARMS if spec not in SHARED])
def test_an_arm_gives_a_model_a_schedule_and_an_optimizer(spec):
    for config in members(configs.load(spec)):
        name = 'folder' if config.data.name.startswith('folder:') else config.data.name
        known = name if name in CLASSES else 'of ImageNet'  # a folder's arm has ImageNet's recipe
        with config.unlocked():
            config.data.name = known
        check_arm(configs.to_json(config))


@functools.cache
def check_arm(text):
    config = configs.from_json(text)
    classes = CLASSES.get(config.data.name, 1000)
    channels = 1 if config.data.name in ('digits', 'tfds:mnist') else 3
    model = configs.create_model(config, classes)
    assert model.num_classes >= classes
    # One trace for the arms whose networks differ only by their classes: test_registry.py has
    # networks of other classes than their own.
    model = zoo.shrunk(model).clone(num_classes=10)
    params = abstract_params(model, config.data.image_size, channels)
    sizes = {'batch': config.batch, 'examples': EXAMPLES.get(config.data.name, 1_281_167)}
    total = durations.steps(config.duration, **sizes)
    to_steps = functools.partial(durations.steps, **sizes, total=total)
    schedule = ScheduleSpec.from_config(config, to_steps=to_steps, total=total)
    rate = make_schedule(schedule)
    optimizer = make_optimizer(OptimSpec.from_config(config), rate, params)
    state = jax.eval_shape(optimizer.init, params)
    updates, _ = jax.eval_shape(optimizer.update, params, state, params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    rates = jax.vmap(rate)(jnp.asarray([1, total // 2, total - 1]))
    assert all(0 <= r <= config.optim.lr * 1.0001 for r in rates)
    assert rates[1] > rates[2]
    for field in ('log_every', 'checkpoint.every', 'eval.every', 'schedule.warmup'):
        duration = dict(configs.flatten(config))[field]
        assert not duration or 0 <= to_steps(duration) < total
    if config.model.get('bn_group'):
        assert config.batch // config.accumulate % config.model.bn_group == 0
    assert len(config.data.mean) == len(config.data.std) == channels


def test_every_config_has_the_arm_that_runs_anywhere():
    assert len(ARMS) == len(set(ARMS))
    for file in FILES:
        default = configs.load(file)
        assert {config.data.name for config in members(default)} == {'digits'}
        assert configs.identity(default) == configs.identity(configs.load(f'{file}:digits'))


def test_configs_of_older_run_folders_are_those_of_today():
    """They named a split where nobody had chosen one, and had no order of classes."""
    for spec, split in ((RESNET, 'test'), (f'{RESNET}:imagenet2012', 'validation')):
        today = configs.load(spec)
        old = today.to_dict()
        del old['data']['class_order']
        old['data']['eval_split'] = split
        assert configs.differences(json.dumps(old), configs.to_json(today)) == ''
        assert configs.from_json(json.dumps(old)).data.eval_split == ''
        old['data']['eval_split'] = 'train[90%:]'
        assert 'eval_split' in configs.differences(json.dumps(old), configs.to_json(today))
