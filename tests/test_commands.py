"""The command cls: its list of commands, their help, mistakes, and the late import of JAX."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cls
from cls import cli, commands, jobs, main, signals
from cls.__main__ import dispatch
from cls.commands import COMMANDS
from cls.errors import UserError

ROOT = Path(__file__).parents[1]
HEAVY = {'jax', 'flax', 'numpy', 'ml_collections', 'tensorflow_datasets'}


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def program(monkeypatch, *arguments):
    """Runs the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, 'argv', ['cls', *arguments])
    try:
        return dispatch('cls')
    except SystemExit as ended:  # argparse, after printing help
        return ended.code


@pytest.mark.parametrize(
    'code',
    [
        'import cls',
        'import cls.commands',
        'import cls.cli',
        'from cls.main import main; main(["--help"])',
        'import sys; sys.argv = ["cls", "train", "--help"]; from cls.__main__ import dispatch; '
        'dispatch("cls")',
    ],
)
def test_nothing_heavy_is_loaded_for(code):
    report = f'{code}\nimport sys; print(sorted({HEAVY!r} & set(sys.modules)))'
    done = python('-c', report)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr


def test_the_names_of_the_package_are_imported_when_they_are_used():
    assert cls.UserError is UserError
    assert cls.load_config('resnet').model.name == 'resnet20_cifar'
    assert 'resnet50' in cls.list_models('resnet*')
    assert cls.create_model('resnet50', num_classes=3).num_classes == 3
    assert {'create_model', 'load_config', '__version__'} <= set(dir(cls))
    with pytest.raises(AttributeError, match='no attribute .nothing'):
        _ = cls.nothing
    modules = {path.stem for path in (ROOT / 'cls').iterdir()}
    assert not modules & set(cls._EXPORTS)


def test_every_tool_is_a_command():
    tools = {
        f'cls.tools.{path.stem}'
        for path in (ROOT / 'cls/tools').glob('*.py')
        if "__name__ == '__main__'" in path.read_text()
    }
    assert tools == {row.module for row in COMMANDS.values()} - {'cls.main'}
    jobs = [row.options['job'] for row in COMMANDS.values() if row.module == 'cls.main']
    assert tuple(jobs) == signals.JOBS


@pytest.mark.parametrize('flags', [[], ['--help'], ['help']])
def test_the_list_of_commands(flags, monkeypatch, capsys):
    assert program(monkeypatch, *flags) == 0
    out = capsys.readouterr().out
    for name, row in COMMANDS.items():
        assert re.search(rf'^  {name} +{re.escape(row.summary)}$', out, re.MULTILINE)


def test_help_of_a_command_by_its_name(monkeypatch, capsys):
    assert program(monkeypatch, 'help', 'print') == 0
    assert capsys.readouterr().out.startswith('usage: cls print ')


def test_the_version(monkeypatch, capsys):
    assert program(monkeypatch, '--version') == 0
    assert capsys.readouterr().out == f'cls {cls.__version__}\n'


@pytest.mark.parametrize('name', COMMANDS)
def test_the_help_of_a_command_is_readable(name, monkeypatch, capsys):
    assert program(monkeypatch, name, '--help') == 0
    out = capsys.readouterr().out
    assert out.startswith(f'usage: cls {name} ')
    assert 'May import' not in out
    about = out.split('\n\n', 1)[1]
    assert '\n\n' in about.partition('options:')[0].strip(), 'it is folded into one block'
    for line in about.splitlines():
        assert len(line) <= 100


def test_paragraphs_are_filled_and_commands_stay():
    text = 'A sentence\nthat goes on.\n\n  a command   # as it is\n\nMay import: anything.\n'
    help_ = cli.Parser(prog='p', description=text).format_help()
    assert 'A sentence that goes on.\n\n  a command   # as it is\n\noptions' in help_


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['trian'], "there is no command 'trian'. Did you mean train"),
        (['serach-report'], 'Did you mean search-report'),
        (['qqqq'], 'cls --help lists them'),
        (['--config', 'resnet'], "no command '--config'"),
        (['help', 'trian'], "there is no command 'trian'. Did you mean train"),
        (['train', '--confg', 'resnet'], 'Did you mean --config, --config.FIELD=VALUE?'),
        (['print', 'resnet'], 'Known: --config, --workdir, --config.FIELD=VALUE.'),
        (['evaluate', '--outptu', 'd'], 'Did you mean --output'),
        (['train', '--config', 'resnet', '--job', 'print'], "'--job'"),
        (['print', '--config', 'resnte'], 'Did you mean resnet'),
        (['print', '--config', 'resnet:cifar1'], 'Did you mean cifar10'),
        (['print', '--config', 'nosuch', '--help'], "no config 'nosuch'"),
        (['models', '--jsn'], 'cls models --help lists the flags'),
        (['completion', 'tcsh'], 'bash'),
    ],
)
def test_a_mistake_is_one_line(flags, said, monkeypatch, capsys):
    with pytest.raises(UserError) as caught:
        program(monkeypatch, *flags)
    assert said in str(caught.value)
    assert '\n' not in str(caught.value)
    assert capsys.readouterr() == ('', '')


def test_a_mistake_ends_with_code_2():
    shown = python('-m', 'cls', 'trian')
    assert (shown.returncode, shown.stdout) == (2, '')
    assert re.fullmatch(r"error: there is no command 'trian'\. Did you mean .*\n", shown.stderr)
    assert 'python -m cls --help lists them' in shown.stderr


def test_a_module_and_a_script_are_the_same_command(monkeypatch, capsys):
    fields = ['--config.optim.lr=0.5']
    assert program(monkeypatch, 'print', '--config', 'resnet:cifar10', *fields) == 0
    by_command = capsys.readouterr().out
    assert main.main(['--job=print', '--config=configs/resnet.py:cifar10', *fields]) == 0
    assert capsys.readouterr().out == by_command
    assert json.loads(by_command)['optim']['lr'] == 0.5


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [
        (
            'resnet',
            [
                r'^ResNet \(He et al\. 2016',
                r'^  cifar10 +Section 4\.2',
                r'^  finetune +finetune,folder=DIR',
                r'^Variants of ResNet, ',
                r'resnet110_cifar',
                r'^Fields of resnet:digits, ',
                r'^  optim\.lr = 0\.1 +.*[\[(]0, ',
                r'^  model\.name = resnet20_cifar',
            ],
        ),
        ('configs/resnet.py:cifar10', [r'^Fields of .*:cifar10', r'^  duration = 64000 steps']),
        ('search/nasnet', [r'^  paper +Section 3', r'^Variants of NASNet', r'^  proxy\.batch = ']),
        ('search/darts', [r'^  nasbench201 ', r'search\.supernet\.lr = ']),
        ('inception_ensemble', [r'^Variants of Inception-v4', r'members\.inception_v4\.seed = 0']),
    ],
)
def test_the_help_of_a_recipe(spec, expected, monkeypatch, capsys):
    assert program(monkeypatch, 'train', '--config', spec, '--help') == 0
    out = capsys.readouterr().out
    for pattern in expected:
        assert re.search(pattern, out, re.MULTILINE), pattern
    assert '\xa0' not in out


def test_the_help_of_a_config_without_arms(tmp_path, capsys):
    file = tmp_path / 'mine.py'
    file.write_text(
        '"""My own."""\nfrom cls.recipes import resnet\n\n\n'
        "def get_config(argument=''):\n    return resnet.get_config()\n"
    )
    assert main.main(['--config', str(file), '--help']) == 0
    out = capsys.readouterr().out
    assert out.startswith('My own.\n')
    assert 'Arms' not in out
    assert 'Variants of ResNet' in out


@pytest.mark.parametrize(
    ('arguments', 'job'),
    [
        (['python', '-m', 'cls.main'], 'train'),
        (['python', '-mcls.main', '--job=evaluate'], 'evaluate'),
        (['cls.main', '--job', 'train', '--job', 'print'], 'print'),
        (['python', '-m', 'cls', 'train'], 'train'),
        (['cls', 'evaluate', '--workdir', 'x'], 'evaluate'),
        (['cls', 'models'], ''),
        (['cls'], ''),
        (['python', '-m', 'cls.tools.models', 'train'], ''),
    ],
)
def test_what_a_signal_stops(arguments, job):
    assert signals._job(arguments) == job


def test_a_row_is_enough_for_a_command(monkeypatch, tmp_path, capsys):
    (tmp_path / 'predicting.py').write_text(
        'from cls.cli import Parser\n\n\n'
        'def main(argv=None, prog="", **options):\n    print(prog, options)\n    return 0\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    row = commands.Command('predicting', 'predict', {'top': 5})
    monkeypatch.setitem(COMMANDS, 'predict', row)
    assert program(monkeypatch, 'predict') == 0
    assert capsys.readouterr().out == "cls predict {'top': 5}\n"


def test_the_next_commands_are_those_of_the_script(monkeypatch, tmp_path):
    script = tmp_path / '.venv/bin/cls'
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(script), '--config', 'resnet'])
    *commands_, activation = jobs._what_next('resnet', Path('runs/a b'), 'cls train').splitlines()
    assert [line.partition('  #')[0] for line in commands_] == [
        'what next:',
        "  .venv/bin/cls evaluate --workdir 'runs/a b'",
        '  .venv/bin/cls train --config resnet:finetune,folder=DIR --config.init=WEIGHTS',
        "  .venv/bin/cls print --workdir 'runs/a b'",
    ]
    assert '`source .venv/bin/activate`' in activation
    monkeypatch.setenv('PATH', str(script.parent), prepend=os.pathsep)
    activated = jobs._what_next('resnet', Path('runs/a'), 'cls train').splitlines()
    assert activated[1].startswith('  cls evaluate --workdir runs/a ')
    assert not any('activate' in line for line in activated)
