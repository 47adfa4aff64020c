"""Wrong configs, made by rule: each ends in one line, before anything is compiled or written.

./launch/test.sh -m sweep tests/config/test_wrong_configs.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from arms import FILES

from cls.config import defaults
from cls.config import load as configs
from cls.config.field import DURATION, LIMIT
from cls.errors import UserError
from cls.models import registry
from cls.setup import set_up

ROOT = Path(__file__).parents[2]
RESNET = 'configs/resnet.py'
LARGE = str(10**18)

# By the type of a field: texts that no field of it takes, and those that some do.
WRONG = {
    bool: ['maybe', '2', 'None', ''],
    int: ['1.5', 'many', 'None', '(1, 2)', '', LARGE],
    float: ['much', 'None', '(1, 2)', '', 'nan', 'inf', '1e300'],
    tuple: ['None', '((1,),)', '(None,)'],
    dict: ['None', '3', ''],
    str: ['\x00', 'a\nb'],
}
DOUBTFUL = {
    bool: [],
    dict: [],
    int: ['-1', '0'],
    float: ['-1', '0', '1', '2', '1e30'],
    tuple: ['()', '(-1, -1)', '0', '(1e300, 1e300)', '("a", "b")', '(1, 2, 3, 4, 5, 6, 7)'],
    str: ['no_such_name', '-1', '1e99', '1 parsecs', '-3 epochs', '0 steps', '1e99 epochs', '[',
          '../../x', '/nonexistent/a', 'x' * 300, '99999999999999999999999 steps', '200 percent'],
}  # fmt: skip
DURATIONS = ['forever', '-3 epochs', '1 parsecs', 'x' * 300, '1e999 steps', '3']


def refusal(spec, *overrides, module=True):
    """Returns the error of a config, '' if it is accepted."""
    try:
        set_up(configs.load(spec, overrides), complete=module)
    except UserError as error:
        assert str(error) and '\n' not in str(error)
        return str(error)
    return ''


def wrong(field):
    """Returns texts that the entry of a field in the table refuses."""
    texts = list(WRONG[type(field.default)])
    if field.values in (DURATION, LIMIT):
        texts += DURATIONS
    if field.names:
        texts.append('no_such_name')
    if field.interval and not isinstance(field.default, tuple):
        kind = type(field.default)
        low, high, with_low, with_high = field.interval
        texts.append(str(kind(low - 1)))
        texts += [] if with_low else [str(kind(low))]
        texts += [] if with_high or high > 1e18 else [str(kind(high))]
    return texts


CASES = [(name, text) for name, field in defaults.FIELDS.items() for text in wrong(field)]


def test_there_are_300_of_them():
    assert len(CASES) > 300


@pytest.mark.sweep
@pytest.mark.parametrize('name', defaults.FIELDS)
def test_a_field_refuses_what_it_does_not_take(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in wrong(defaults.FIELDS[name]):
        assert name in refusal(RESNET, (name, text)), text
    # Texts that some fields accept are accepted, or refused by a line.
    for text in DOUBTFUL[type(defaults.FIELDS[name].default)]:
        refusal(RESNET, (name, text))


@pytest.mark.sweep
@pytest.mark.parametrize('file', [file for file in FILES if 'ensemble' not in file])
def test_fields_of_a_network_end_in_a_line_where_they_mean_nothing(file):
    config = configs.load(file)
    module, _ = registry._module(config.model.name)
    for name in registry.fields(module):
        for text in ('-1', 'many', LARGE, '(-3, -3)', '(1000000, 1000000)', '()', '0'):
            line = refusal(file, (f'model.{name}', text))
            assert line or text not in ('-1', LARGE) or name == 'dtype', f'{name}={text}'


@pytest.mark.sweep
@pytest.mark.parametrize('file', FILES)
def test_arguments_that_no_config_has(file):
    for argument in ('nothing', 'digits,variant=', 'folder=', '=', 'digits,cifar10', 'digits:x',
                     'digits,variant=resnet65', 'folder=/nonexistent', 'folder=/etc'):  # fmt: skip
        try:
            config = configs.load(f'{file}:{argument}')
            member = next(iter(config.members.values())) if 'members' in config else config
            set_up(member)
        except UserError as error:
            assert '\n' not in str(error)
        else:
            raise AssertionError(f'{file}:{argument} is accepted')


def own(text):
    """Returns a user's config file, with a line of code that changes the defaults."""
    return (
        'from cls.recipes import common\n'
        'def get_config(argument):\n'
        '    c = common.base()\n'
        "    c.model.name = 'resnet20_cifar'\n"
        f'    {text}\n'
        '    return c\n'
    )


FILES_OF_OWN = {
    'raises.py': own('1 / 0'),
    'exits.py': own('raise SystemExit(3)'),
    'text.py': own("c.batch = 'x'"),
    'group.py': own('del c.optim'),
    'misspelled.py': own('c.optim.learning_rate = 0.1'),
    'function.py': own('c.model.widths = lambda: 3'),
    'nothing.py': 'def get_config(argument):\n    pass\n',
    'syntax.py': 'def get_config(argument)\n',
    'zero.py': '\0',
    'a_file': 'x',
    'deep.json': '[' * 100_000,
    'half.json': '{',
}
COMMANDS = {
    'own files': [[f'--config={name}'] for name in FILES_OF_OWN if name.endswith('.py')],
    'flags': [
        [],
        ['--config='],
        ['--config=a_file'],
        ['--config=/dev/null'],
        ['--config=' + 'x' * 400 + '.py'],
        [f'--config={RESNET}', '--job=predict'],
        [f'--config={RESNET}', '--process_count=x'],
        [f'--config={RESNET}', '--process_count=-1'],
        [f'--config={RESNET}', '--nothing'],
        [f'--config={RESNET}', '--config.batch'],
        [f'--config={RESNET}', '--config.optim=3'],
        ['--job=evaluate'],
        ['--job=evaluate', f'--config={RESNET}', '--workdir=none'],
    ],
    'folders': [
        [f'--config={RESNET}', f'--workdir={folder}']
        for folder in ('a_file', 'a_file/x', 'x' * 300, '/proc/x', '/dev/null', 'gs://')
    ],
    'files': [
        ['--config=configs/amoebanet.py', f'--config.model.genotype={name}']
        for name in ('half.json', 'deep.json', 'none.json', '.')
    ]
    + [[f'--config={RESNET}', f'--config.init={name}'] for name in ('none', 'a_file', '.', 'hf:')],
    'data': [
        [f'--config={RESNET}', f'--config.data.{text}']
        for text in (
            'train_split=train[5:2]',
            'train_split=train[:0]',
            'name=tfds:',
            'name=folder:',
        )
    ],
}


@pytest.mark.sweep
@pytest.mark.parametrize('kind', COMMANDS)
def test_a_wrong_command_is_one_line_and_exit_code_2(kind, tmp_path):
    for name, text in FILES_OF_OWN.items():
        (tmp_path / name).write_text(text)
    before = sorted(path.name for path in tmp_path.iterdir())
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    for arguments in COMMANDS[kind]:
        done = subprocess.run(
            [sys.executable, '-m', 'cls.main', *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (2, 1), (arguments, done.stderr[-2000:])
        assert lines[0].startswith('error: ')
        assert sorted(path.name for path in tmp_path.iterdir()) == before, arguments
