"""Shell completion: in a real bash, and in zsh and fish if they are installed."""

import contextlib
import os
import pty
import shutil
import subprocess

import pytest

from cls.commands import COMMANDS
from cls.tools import completion

BASH = """
set -u
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_cls
printf '%s\\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
"""


@pytest.fixture(scope='module')
def scripts(tmp_path_factory):
    """The script of each shell, by name."""
    folder = tmp_path_factory.mktemp('completion')
    known = {name: completion.arguments(name) for name in COMMANDS}
    for shell in completion.SHELLS:
        (folder / shell).write_text(getattr(completion, shell)(known))
    return folder


def completed(scripts, *words):
    done = subprocess.run(
        ['bash', '-c', BASH, 'bash', scripts / 'bash', *words], capture_output=True, text=True
    )
    assert done.stderr == ''
    return done.stdout.split()


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['cls', ''], [*COMMANDS]),
        (['cls', 'tr'], ['train']),
        (['cls', 'train', '--con'], ['--config']),
        (['cls', 'train', '--config', 'resn'], ['resnet', 'resnext']),
        (['cls', 'train', '--config', '=', 'resn'], ['resnet', 'resnext']),
        (['cls', 'train', '--config', 'search/nas'], ['search/nasnet']),
        (['cls', 'search-report', '--fro'], ['--fronts']),
        (['cls', 'import', '--model', 'vgg11'], ['vgg11', 'vgg11_lrn', 'vgg11_bn']),
        (['cls', 'import', '--variant', 'vgg11'], ['vgg11', 'vgg11_lrn', 'vgg11_bn']),
        (['cls', 'export-weights', '--fro'], ['--from']),
        (['cls', 'completion', 'z'], ['zsh']),
        (['cls', 'train', '--workdir', ''], []),  # files, by bash itself
        (['cls', 'train', '--nothing'], []),
        (['cls', 'nothing', '--'], []),
    ],
)
def test_words_in_bash(scripts, words, expected):
    assert completed(scripts, *words)[: len(expected) or None] == expected


def test_an_interactive_bash_completes(scripts):
    """A tab key on a terminal goes through readline, as for a user."""
    terminal, inside = pty.openpty()
    shell = subprocess.Popen(
        ['bash', '--norc', '-i'], stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    )
    os.close(inside)
    source = f'source {scripts / "bash"}; cls() {{ echo "got $*"; }}\n'
    os.write(terminal, f'{source}cls tra\t--conf\tpnas\t\nexit\n'.encode())
    shown = b''
    with contextlib.suppress(OSError):  # at its end, on Linux
        while more := os.read(terminal, 4096):
            shown += more
    os.close(terminal)
    assert shell.wait(timeout=60) == 0
    assert b'\rgot train --config pnasnet' in shown


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_the_scripts_of_other_shells_can_be_read(shell, scripts):
    text = (scripts / shell).read_text()
    for name in COMMANDS:
        assert name in text
    assert 'resnet50' in text
    if shutil.which(shell) is None:
        pytest.skip(f'there is no {shell} here')
    done = subprocess.run([shell, '-n', scripts / shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_what_is_printed(capsys):
    assert completion.main(['fish']) == 0
    assert capsys.readouterr().out.startswith('# Completion of cls for fish.\ncomplete -c cls ')
