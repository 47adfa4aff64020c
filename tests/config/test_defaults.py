"""The table of fields: the values that they take, and configs that are older than it."""

import json
import re

import pytest

from cls.config import defaults
from cls.config import load as configs
from cls.errors import UserError
from cls.recipes.search import common as searches

RESNET = 'configs/resnet.py'


def refused(name, text, spec=RESNET):
    with pytest.raises(UserError) as caught:
        configs.load(spec, [(name, text)])
    message = str(caught.value)
    assert '\n' not in message
    assert f'config.{name} ' in message, message
    return message


@pytest.mark.parametrize(
    ('name', 'text', 'expected'),
    [
        ('optim.lr', '-1', '0 or more'),
        ('optim.lr', '1e999', '0 or more'),
        ('optim.momentum', '5', '[0, 1)'),
        ('optim.weight_decay', '-1', '0 or more'),
        ('loss.label_smoothing', '2', '[0, 1)'),
        ('ema', '2', '[0, 1)'),
        ('optim.b1', '2', '[0, 1)'),
        ('optim.eps', '0', 'above 0'),
        ('data.std', '(-1, 1, 1)', '[1e-6, 1e6]'),
        ('data.std', '0', '[1e-6, 1e6]'),
        ('data.mean', '(1e38,)', '[-1e6, 1e6]'),
        ('checkpoint.keep', '0', '[1, '),
        ('batch', '0', '[1, '),
        ('batch', '7000000000000', '[1, '),
        ('data.image_size', '1000000', '[1, '),
        ('data.workers', '-1', '[0, '),
        ('schedule.gamma', '0', 'above 0'),
        ('optim.bias_lr_mult', '-1', 'above 0'),
        ('optim.body_lr_mult', '0', 'optim.freeze'),
        ('model.dtype', 'float34', 'float32, bfloat16, float16'),
    ],
)
def test_values_outside_of_a_field_are_refused_with_what_it_takes(name, text, expected):
    assert expected in refused(name, text)


def test_a_seed_has_32_bits_which_is_what_keys_are_made_of():
    assert configs.load(RESNET, [('seed', str(2**32 - 1))]).seed == 2**32 - 1
    assert '[0, 2**32)' in refused('seed', str(2**32))  # its key would be that of seed 0
    refused('seed', '-1')


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError, match='lr .*momentum .*ema '):
        configs.load(RESNET, [('optim.lr', '-1'), ('optim.momentum', '2'), ('ema', '1')])


def test_the_trials_of_a_search_and_the_members_of_an_ensemble_are_checked_too():
    refused('proxy.optim.lr', '-1', 'configs/search/genet.py')
    refused('search.evaluations', '0', 'configs/search/genet.py')
    refused('members.inception_v4.ema', '1', 'configs/inception_ensemble.py')


def test_defaults_are_among_what_fields_take():
    assert not defaults.mistakes(defaults.base())
    assert defaults.mistakes(searches.base()) == {}
    for table in (defaults.FIELDS, defaults.SEARCH):
        assert all(field.doc for field in table.values())


def test_a_config_that_is_older_than_a_field_has_its_default():
    config = configs.load(RESNET)
    older = json.loads(configs.to_json(config))
    del older['data']['exif'], older['mesh']
    assert configs.to_json(configs.from_json(json.dumps(older))) == configs.to_json(config)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('def get_config(argument):\n    return 1 / 0\n', 'ZeroDivisionError in line 2'),
        ('def get_config(argument)\n', 'SyntaxError in line 1'),
        ('import nowhere_at_all\n', 'ModuleNotFoundError in line 1'),
        ('def get_config(argument):\n    pass\n', 'returned NoneType'),
        ('def get_config():\n    pass\n', 'TypeError'),
        ('get_config = 3\n', 'no function get_config'),
    ],
)
def test_config_files_that_make_no_config_are_named(tmp_path, text, message):
    file = tmp_path / 'own.py'
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        configs.load(str(file))
    assert message in str(caught.value) and str(file) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_config_is_a_python_file(tmp_path):
    (tmp_path / 'own.txt').write_text('batch = 3')
    with pytest.raises(UserError, match=r'own\.txt is not a config: expected a Python file'):
        configs.load(str(tmp_path / 'own.txt'))


@pytest.mark.parametrize(('old', 'new'), defaults.RENAMED.items())
def test_an_earlier_name_of_a_field_is_refused_naming_todays(tmp_path, old, new):
    """As a flag, and where a config file sets it; a field of a trial and of a member as well."""
    config = 'configs/search/genet.py' if old.startswith('search.') else RESNET
    assert defaults.field(new) is not None and defaults.field(old) is None
    with pytest.raises(UserError, match=rf"no field '{re.escape(old)}'\. It is now called {new}\."):
        configs.load(config, [(old, '1')])
    (tmp_path / 'own.py').write_text(
        'from cls.config import load\n'
        'def get_config(argument):\n'
        f'    c = load.load({config!r}).unlock()\n'
        f'    c.{old} = 1\n'
        '    return c\n'
    )
    with pytest.raises(UserError, match=rf'config\.{re.escape(old)} is not a field.*called {new}'):
        configs.load(str(tmp_path / 'own.py'))


def test_an_earlier_name_is_refused_in_the_parts_of_a_config():
    for config, prefix in (('search/genet', 'proxy.'), ('inception_ensemble', 'members.x.')):
        with pytest.raises(UserError, match=rf'now called {prefix}schedule\.gamma'):
            configs.load(f'configs/{config}.py', [(f'{prefix}schedule.factor', '0.5')])


def test_an_earlier_value_is_refused_naming_todays():
    with pytest.raises(UserError, match=r"engine is 'here': known: .* It is now called local\."):
        configs.load('configs/search/genet.py', [('search.engine', 'here')])


@pytest.mark.parametrize('config', [RESNET, 'configs/search/genet.py', 'configs/search/darts.py'])
def test_a_config_of_a_run_folder_has_todays_names(config):
    """The same text with the earlier names is read as the same config."""
    loaded = configs.load(config)
    earlier = json.loads(configs.to_json(loaded))
    for part in [earlier, earlier.get('proxy', {})]:
        for old, new in defaults.RENAMED.items():
            group, _, key = new.rpartition('.')
            if key in part.get(group, {}):
                former, _, name = old.rpartition('.')
                value = part[group].pop(key)
                part[former][name] = 0.0 if old == 'data.eval_fraction' else value
        if part.get('search', {}).get('engine') == 'local':
            part['search']['engine'] = 'here'
    assert configs.to_json(configs.from_json(json.dumps(earlier))) == configs.to_json(loaded)


def test_a_part_held_out_before_eval_validation_is_still_chosen_by_the_names():
    config = json.loads(configs.to_json(configs.load(RESNET)))
    config['data']['eval_fraction'] = 0.2
    del config['eval']['validation']
    assert configs.from_json(json.dumps(config)).eval.validation == '0.2 by name'
    del config['data']['eval_fraction']
    assert configs.from_json(json.dumps(config)).eval.validation == ''
